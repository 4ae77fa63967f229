from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cursors import decode, encode
from service.errors import RequestInvalid

POSITIONS = st.tuples(
    st.datetimes(min_value=datetime(1970, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),  # noqa: DTZ001 - hypothesis wants them naive
    st.uuids(),
)
NOON = datetime(2026, 11, 21, 12, 0, 0, 123_457, tzinfo=UTC)


@given(POSITIONS)
def test_a_cursor_gives_back_the_position_it_was_made_of(
    position: tuple[datetime, UUID],
) -> None:
    assert decode(encode(position, listing="a"), listing="a") == position


def test_two_neighbours_in_time_have_different_cursors() -> None:
    later = NOON + timedelta(microseconds=1)
    first, second = (encode((at, UUID(int=1)), listing="a") for at in (NOON, later))
    assert first != second


@pytest.mark.parametrize("position", range(0, 42, 5))
def test_every_changed_character_is_noticed(position: int) -> None:
    cursor = encode((NOON, UUID(int=1)), listing="a")
    other = "A" if cursor[position] != "A" else "B"
    with pytest.raises(RequestInvalid):
        decode(cursor[:position] + other + cursor[position + 1 :], listing="a")


@given(st.text(max_size=60))
def test_any_text_is_refused_politely(text: str) -> None:
    with pytest.raises(RequestInvalid):
        decode(text, listing="a")

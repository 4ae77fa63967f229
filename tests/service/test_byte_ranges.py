import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.byte_ranges import Span, matches, select
from service.errors import RangeUnsatisfiable

ETAG = '"abc"'


@given(size=st.integers(1, 10**6), start=st.integers(0, 10**6), stop=st.integers(0))
def test_a_selected_span_lies_inside_the_content(
    size: int, start: int, stop: int
) -> None:
    assume(start < size and start <= stop < 10**18)
    span = select({"range": f"bytes={start}-{stop}"}, etag=ETAG, size=size)
    assert span == Span(start, min(stop + 1, size), size)


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=-5", "bytes=0-0"])
def test_empty_content_satisfies_no_range(asked: str) -> None:
    with pytest.raises(RangeUnsatisfiable):
        select({"range": asked}, etag=ETAG, size=0)


def test_a_number_of_absurd_length_is_no_range() -> None:
    assert select({"range": f"bytes=0-{'9' * 10_000}"}, etag=ETAG, size=10) is None


def test_a_span_knows_its_header() -> None:
    span = Span(10, 20, 100)
    assert (span.length, span.content_range) == (10, "bytes 10-19/100")


@pytest.mark.parametrize(
    ("header", "known"),
    [
        (None, False),
        ("*", True),
        ('"abc"', True),
        ('W/"abc"', True),
        ('"x", W/"abc" , "y"', True),
        ('"abcd"', False),
        ("abc", False),
        ("", False),
    ],
)
def test_if_none_match_is_compared_weakly(header: str | None, *, known: bool) -> None:
    assert matches(header, ETAG) is known

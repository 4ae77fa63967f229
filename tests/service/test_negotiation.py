import pytest

from service.errors import NotAcceptable
from service.negotiation import choose, parse_prefer

OFFERS = ("application/json", "image/png")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ([], "application/json"),
        (["*/*"], "application/json"),
        (["image/png"], "image/png"),
        (["IMAGE/PNG"], "image/png"),
        (["image/*"], "image/png"),
        (["image/png;q=0.5, application/json;q=0.4"], "image/png"),
        (["image/png;q=0.5", "application/json"], "application/json"),
        (["text/html, image/png, */*;q=0.1"], "image/png"),
        (["*/*, application/json;q=0"], "image/png"),
        (["application/json;charset=utf-8"], "application/json"),
        ([""], "application/json"),
    ],
)
def test_the_media_type_wanted_most_is_chosen(accept: list[str], chosen: str) -> None:
    assert choose(accept, OFFERS) == chosen


@pytest.mark.parametrize(
    "accept", ["image/webp", "image/png;q=0", "*/*;q=0", "image/png;q=high"]
)
def test_nothing_is_chosen_where_everything_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        choose([accept], OFFERS)
    assert "image/png" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("headers", "patience", "applied"),
    [
        ([], 120, None),
        (["wait=20"], 20, "wait=20"),
        (["wait=500"], 120, "wait=500"),
        (["respond-async"], 0, "respond-async"),
        (["respond-async, wait=10"], 10, "respond-async, wait=10"),
        (["respond-async", "wait=10"], 10, "respond-async, wait=10"),
        (["Wait = 7"], 7, "wait=7"),
        (["wait=soon, return=minimal"], 120, None),
        (["wait=-1"], 120, None),
    ],
)
def test_a_preference_decides_how_long_to_wait(
    headers: list[str], patience: float, applied: str | None
) -> None:
    preferences = parse_prefer(headers)
    assert preferences.patience(longest=120) == patience
    assert preferences.applied() == applied

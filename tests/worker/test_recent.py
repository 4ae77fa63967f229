import gc
import weakref

import pytest

from worker.recent import Recent


def _fail() -> str:
    pytest.fail("loaded although it was held")


def test_a_value_is_loaded_once_while_it_is_held() -> None:
    recent = Recent[str](2)
    assert recent.get("a", lambda: "A") == "A"
    assert recent.get("a", _fail) == "A"


def test_what_was_not_used_for_longest_is_dropped() -> None:
    recent = Recent[str](2)
    recent.get("a", lambda: "A")
    recent.get("b", lambda: "B")
    recent.get("a", _fail)
    recent.get("c", lambda: "C")
    assert recent.get("a", _fail) == "A"
    assert recent.get("b", lambda: "loaded again") == "loaded again"


def test_a_value_that_could_not_be_loaded_is_not_held() -> None:
    recent = Recent[str](1)
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: str(1 // 0))
    assert recent.get("a", lambda: "A") == "A"


class Network:
    """Refers to itself, as a quantized network's forward does."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_dropped_is_gone_before_the_next_is_loaded() -> None:
    recent = Recent[Network](1)
    dropped = weakref.ref(recent.get("a", Network))

    def load() -> Network:
        assert dropped() is None
        return Network()

    gc.disable()
    try:
        recent.get("b", load)
    finally:
        gc.enable()

"""Keep what was used last, drop what was not used for longest."""

import gc
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """A cache of at most `size` values, by name; not for use by several threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[str, T] = OrderedDict()

    def get(self, name: str, load: Callable[[], T]) -> T:
        """Return the value of that name, loaded now if it is not held.

        Room is made before loading: the old value and the new never coexist beyond
        `size`.
        """
        if name in self._values:
            self._values.move_to_end(name)
            return self._values[name]
        while len(self._values) >= self._size:
            self._values.popitem(last=False)
            # A quantized pipeline refers to itself: dropping it frees nothing yet.
            gc.collect()
        value = load()
        self._values[name] = value
        return value

    def clear(self) -> None:
        """Let go of all values."""
        self._values.clear()

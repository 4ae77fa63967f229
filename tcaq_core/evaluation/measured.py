"""A metric's value on one subject, with what says how sure it is."""

from dataclasses import dataclass

from tcaq_core.evaluation.jackknife import Replicates
from tcaq_core.evaluation.record import Interval


@dataclass(frozen=True)
class Measured:
    """A value, its interval, and what a paired difference is computed from."""

    value: float | None
    """None: infinite."""
    interval: Interval | None
    replicates: Replicates | None = None
    notes: tuple[str, ...] = ()

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval's ends."""
        found = self.interval
        return None if found is None else (found.low, found.high)

    @property
    def method(self) -> str | None:
        """How the interval was computed."""
        return None if self.interval is None else self.interval.method

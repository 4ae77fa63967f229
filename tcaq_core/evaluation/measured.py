"""A metric's value on one subject, with what says how sure it is."""

import operator
from dataclasses import dataclass
from statistics import stdev

from tcaq_core.evaluation.jackknife import Replicates, student_t_quantile
from tcaq_core.evaluation.record import Interval


@dataclass(frozen=True)
class Spread:
    """Values of parts of the images, and how their variance is that of the mean's."""

    values: tuple[float, ...]
    factor: float
    """Variance of the mean over variance of the values."""
    method: str

    def minus(self, other: "Spread") -> "Spread":
        """Return the spread of the differences: both are of the same parts."""
        values = tuple(map(operator.sub, self.values, other.values))
        return Spread(values, self.factor, self.method)

    def interval(self, value: float) -> Interval:
        """Return a 95 % interval around a value: Student's t."""
        quantile = student_t_quantile(len(self.values) - 1)
        error = quantile * stdev(self.values) * self.factor**0.5
        return Interval(low=value - error, high=value + error, method=self.method)


@dataclass(frozen=True)
class Measured:
    """A value, its interval, and what a paired difference is computed from."""

    value: float | None
    """None: infinite."""
    interval: Interval | None
    replicates: Replicates | None = None
    spread: Spread | None = None
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

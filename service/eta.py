"""How long a job will take, from how far it is and how long that took."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

# Less than this says nothing yet: starting up dominates it.
MIN_ELAPSED_SECONDS: Final = 5.0
MIN_FRACTION: Final = 0.02
# The stages' weights are a cost model: half wrong at the start, a tenth at the end.
DOUBT_AT_START: Final = 0.5
DOUBT_AT_END: Final = 0.1


@dataclass(frozen=True)
class Eta:
    """Seconds that are left, with the bounds between which they should lie."""

    seconds: float
    low: float
    high: float


def estimate(
    *,
    fraction: float,
    started_at: datetime,
    seen_at: datetime,
    resumed: float = 0.0,
) -> Eta | None:
    """Return the seconds left at `seen_at`, when `fraction` of the job was done.

    `resumed` is the share that an earlier attempt had done: it took this one no time.
    None while there is no evidence, and when nothing is left.
    """
    if resumed < 1:
        fraction = (fraction - resumed) / (1 - resumed)
    elapsed = (seen_at - started_at).total_seconds()
    if elapsed < MIN_ELAPSED_SECONDS or not MIN_FRACTION <= fraction < 1:
        return None
    seconds = elapsed * (1 - fraction) / fraction
    doubt = 1 + DOUBT_AT_START * (1 - fraction) + DOUBT_AT_END * fraction
    return Eta(
        seconds=round(seconds, 1),
        low=round(seconds / doubt, 1),
        high=round(seconds * doubt, 1),
    )

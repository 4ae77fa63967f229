"""What runs of one evaluation tell: that they agree, and what more workers would do."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import ceil
from statistics import median
from typing import Any, Final

WORKERS: Final = (1, 2, 4, 8, 16, 32, 64, 100)


@dataclass(frozen=True)
class Made:
    """One shard of an evaluation, as its row tells."""

    owner: str
    started_at: datetime
    finished_at: datetime
    seconds: float
    """What making it took, as its worker measured it."""


@dataclass(frozen=True)
class Run:
    """One evaluation: its scores, and where its seconds went."""

    scores: str
    """The whole JSON."""
    value: float
    num_images: int
    began_at: datetime
    ended_at: datetime
    shards: tuple[Made, ...]

    @property
    def seconds(self) -> float:
        """From the job's start to its end."""
        return (self.ended_at - self.began_at).total_seconds()

    @property
    def setup_seconds(self) -> float:
        """From the job's start to the first shard's."""
        first = min(shard.started_at for shard in self.shards)
        return (first - self.began_at).total_seconds()

    @property
    def seconds_per_image(self) -> float:
        """The median over shards, all of one size."""
        seconds = median(shard.seconds for shard in self.shards)
        return seconds * len(self.shards) / self.num_images

    @property
    def gap_seconds(self) -> float:
        """What a worker does between two shards: store one, record it, claim another.

        The median over shards whose predecessor was the same worker's.
        """
        by_owner: dict[str, list[Made]] = {}
        for shard in sorted(self.shards, key=lambda shard: shard.started_at):
            by_owner.setdefault(shard.owner, []).append(shard)
        return median(
            (after.started_at - before.started_at).total_seconds() - before.seconds
            for made in by_owner.values()
            for before, after in pairwise(made)
        )


def sharding_row(alone: Run, both: Run, killed: Run) -> dict[str, Any]:
    """Return the row of one worker, of two, and of two of which one was killed."""
    runs = {"1_worker": alone, "2_workers": both, "one_killed": killed}
    return {
        "engine": "sharding",
        "images_per_second": both.num_images / both.seconds,
        "peak_bytes": None,
        "images": both.num_images,
        **{f"score_{name}": run.value for name, run in runs.items()},
        **{f"seconds_{name}": run.seconds for name, run in runs.items()},
        "speedup_2_workers": alone.seconds / both.seconds,
        "workers_that_made_shards": {
            name: len({shard.owner for shard in run.shards})
            for name, run in runs.items()
        },
        "shards": len(alone.shards),
        "identical": len({run.scores for run in runs.values()}) == 1,
    }


@dataclass(frozen=True)
class Cost:
    """What an evaluation costs, in seconds; all of it measured with one worker."""

    setup: float
    """Before the first shard."""
    image: float
    """To draw one image and take its features."""
    gap: float
    """Between two shards of one worker."""
    score: float
    """To merge and score all images, once they are there."""

    def seconds(self, *, num_images: int, shard_images: int, workers: int) -> float:
        """Return what so many equal workers take.

            setup + max(ceil(S / k) (shard + gap), S gap) + score

        S shards of fixed size; whoever is last decides. As if the whole gap were spent
        in the ledger, which one worker has at a time: so S gaps are the least.
        """
        num_shards = ceil(num_images / shard_images)
        turn = shard_images * self.image + self.gap
        shards = max(ceil(num_shards / workers) * turn, num_shards * self.gap)
        return self.setup + shards + self.score


def simulation_rows(
    cost: Cost,
    *,
    num_images: int,
    shard_images: int,
    workers: Sequence[int] = WORKERS,
) -> list[dict[str, Any]]:
    """Return a row for each number of workers: computed, not measured."""
    alone = cost.seconds(num_images=num_images, shard_images=shard_images, workers=1)
    rows = []
    for count in workers:
        seconds = cost.seconds(
            num_images=num_images, shard_images=shard_images, workers=count
        )
        rows.append(
            {
                "engine": "simulation",
                "workers": count,
                "images_per_second": num_images / seconds,
                "peak_bytes": None,
                "images": num_images,
                "seconds": seconds,
                "speedup": alone / seconds,
                "efficiency": alone / seconds / count,
                "note": "computed from measured seconds, not measured",
            }
        )
    return rows

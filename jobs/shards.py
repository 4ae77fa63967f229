"""All SQL on shards, by concern; callers import from here and commit themselves."""

from jobs.shard_claims import (
    ShardLease,
    beat_shard,
    claim_shard,
    finish_shard,
    has_failed,
    release_shard,
)
from jobs.shard_sets import (
    ShardResult,
    Tally,
    delete_set,
    forget_result,
    is_wanted,
    open_set,
    results,
    set_request,
    tally,
    unused_sets,
)

__all__ = [
    "ShardLease",
    "ShardResult",
    "Tally",
    "beat_shard",
    "claim_shard",
    "delete_set",
    "finish_shard",
    "forget_result",
    "has_failed",
    "is_wanted",
    "open_set",
    "release_shard",
    "results",
    "set_request",
    "tally",
    "unused_sets",
]

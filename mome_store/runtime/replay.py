"""Replaying a trace: how often each eviction policy would have had the expert that was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from mome_store import _core
from mome_store.runtime.trace import Trace

BELADY = "belady"
"""The offline optimum, which knows the future: the bound for every policy."""


@dataclass(frozen=True)
class Replayed:
    """What a cache of `slots` slots under `policy` made of a trace.

    requests: distinct experts of a batch, summed over batches; each is a hit or a miss. evictions: experts given up.
    """

    policy: str
    slots: int
    requests: int
    hits: int
    misses: int
    evictions: int

    @property
    def hit_rate(self) -> float:
        """Share of the requests that were hits; 0 where there were none."""
        return self.hits / self.requests if self.requests else 0.0


def policies() -> tuple[str, ...]:
    """The policies that a cache may have, all of which can be replayed."""
    return tuple(_core.policy_names())


def replay(trace: Trace, policy: str, slots: int) -> Replayed:
    """Replays `trace` on an empty cache of `slots` slots under one of `policies()`, or `BELADY`.

    A batch holds all its experts at once until it ends; one that needs more experts than there are slots runs in waves
    (csrc/runtime/replay.h). Raises `SchemaError` for an unknown policy, and for slots < 1.
    """
    return Replayed(policy, slots, **_core.replay(policy, slots, trace.indptr, trace.ids))

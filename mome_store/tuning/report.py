"""What memory tuning tells: while it runs, and at its end."""

from __future__ import annotations

from dataclasses import dataclass

from mome_store.tuning.facts import Fact


@dataclass(frozen=True)
class TuningProgress:
    """done: facts memorised (also by an earlier run). failed: given up. in_training: being trained now.

    commits: made by this run.
    """

    done: int
    failed: int
    total: int
    in_training: int
    commits: int


@dataclass(frozen=True)
class FailedFact:
    """A fact that is not in the store, and why."""

    fact: Fact
    reason: str


@dataclass(frozen=True)
class TuningReport:
    """The outcome of `MemoryTuner.memorize`.

    facts: how many were asked for. memorized: how many the store now holds, `resumed` of them from before.
    failed: the rest, each with its reason. group_ids: of the facts memorised by this run.
    seconds: of this run, model loading not included. seconds_per_fact: over the facts trained by it.
    bytes_per_fact: growth of the store's folder by the facts memorised in this run, without the router's index, which
    is a cache that may be deleted. steps_per_fact: mean.
    The last three are 0 where nothing had to be trained.
    """

    facts: int
    memorized: int
    resumed: int
    failed: tuple[FailedFact, ...]
    group_ids: tuple[int, ...]
    seconds: float
    seconds_per_fact: float
    bytes_per_fact: float
    steps_per_fact: float

"""Replay counts what a cache would do: held against a plain LRU, against Belady's bound, and at the edges."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mome_store.errors import SchemaError
from mome_store.runtime import workloads
from mome_store.runtime.replay import BELADY, Replayed, policies, replay
from mome_store.runtime.trace import Trace


def trace_of(batches: list[list[int]]) -> Trace:
    return Trace(
        record_bytes=4096,
        times=np.arange(len(batches), dtype=np.float64),
        indptr=np.cumsum([0, *map(len, batches)], dtype=np.int64),
        ids=np.array([each for batch in batches for each in batch], dtype=np.int64),
    )


def plain_lru(batches: list[list[int]], slots: int) -> tuple[int, int, int]:
    """Hits, misses and evictions."""
    cached: OrderedDict[int, None] = OrderedDict()
    hits = misses = evictions = 0
    for batch in batches:
        wanted = list(dict.fromkeys(batch))
        for start in range(0, len(wanted), slots):
            wave = wanted[start : start + slots]
            found = [expert for expert in wave if expert in cached]
            for expert in found:
                cached.move_to_end(expert)
            for expert in wave:
                if expert not in found:
                    if len(cached) == slots:
                        cached.popitem(last=False)
                        evictions += 1
                    cached[expert] = None
            hits += len(found)
            misses += len(wave) - len(found)
    return hits, misses, evictions


batches_strategy = st.lists(st.lists(st.integers(0, 12), max_size=8), max_size=40)


@given(batches=batches_strategy, slots=st.integers(1, 14))
def test_lru_is_a_plain_lru(batches: list[list[int]], slots: int) -> None:
    replayed = replay(trace_of(batches), "lru", slots)
    assert (replayed.hits, replayed.misses, replayed.evictions) == plain_lru(batches, slots)


@given(batches=batches_strategy, slots=st.integers(1, 14))
def test_no_policy_has_more_hits_than_belady(batches: list[list[int]], slots: int) -> None:
    trace = trace_of(batches)
    best = replay(trace, BELADY, slots)
    for policy in policies():
        replayed = replay(trace, policy, slots)
        assert replayed.hits <= best.hits
        assert replayed.requests == best.requests == replayed.hits + replayed.misses


@given(batches=batches_strategy)
def test_when_everything_fits_only_the_first_use_misses(batches: list[list[int]]) -> None:
    trace = trace_of(batches)
    distinct = len({expert for batch in batches for expert in batch})
    for policy in (*policies(), BELADY):
        replayed = replay(trace, policy, max(1, distinct))
        assert (replayed.misses, replayed.evictions) == (distinct, 0)
        assert replay(trace, policy, 10**9).misses == distinct  # costs no memory for slots that stay empty


@pytest.mark.parametrize("policy", [*policies(), BELADY])
def test_a_batch_above_the_slots_runs_in_waves_of_consecutive_experts(policy: str) -> None:
    # 1 2 | 3 4 | 5, then 5 | 1 in one wave
    replayed = replay(trace_of([[1, 2, 1, 3, 4, 5], [5, 1]]), policy, 2)
    assert (replayed.requests, replayed.hits, replayed.misses) == (7, 1, 6)


@pytest.mark.parametrize("policy", [*policies(), BELADY])
def test_a_batch_holds_all_its_experts_at_once(policy: str) -> None:
    # Without holds, 2 and 3 could take each other's place and leave 1 for the last batch.
    replayed = replay(trace_of([[1], [2, 3], [1]]), policy, 2)
    assert (replayed.hits, replayed.evictions) == (0, 2)


def test_belady_knows_the_future() -> None:
    # 3 slots; at 4, the one used last of 1, 2, 3 goes.
    trace = trace_of([[1], [2], [3], [4], [1], [2], [4], [3]])
    assert replay(trace, BELADY, 3).hits == 3
    assert replay(trace, "lru", 3).hits == 1


@pytest.mark.parametrize("policy", ["s3fifo", "lfu"])
def test_policies_that_count_uses_are_ahead_of_lru_where_scans_come_between(policy: str) -> None:
    trace = workloads.mixed(experts=2000, batches=2000, per_batch=8)
    assert replay(trace, policy, 200).hit_rate > replay(trace, "lru", 200).hit_rate + 0.02


def test_the_hit_rate_of_nothing_is_0_and_else_the_share_of_hits() -> None:
    assert replay(trace_of([]), "lru", 1).hit_rate == 0.0
    assert Replayed("lru", 1, requests=4, hits=3, misses=1, evictions=0).hit_rate == 0.75


def test_what_can_not_be_replayed_is_refused() -> None:
    trace = trace_of([[1, 2]])
    for policy, slots in (("fifo", 2), ("", 2), ("lru", 0), ("belady", -1)):
        with pytest.raises(SchemaError):
            replay(trace, policy, slots)
    wrong = Trace(4096, np.zeros(1), np.array([0, 3], np.int64), trace.ids)
    for policy in ("lru", BELADY):
        with pytest.raises(SchemaError):
            replay(wrong, policy, 2)

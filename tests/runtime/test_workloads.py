"""The synthetic workloads are what they are named after, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store.errors import SchemaError
from mome_store.runtime import workloads
from mome_store.runtime.trace import Trace

NAMES = ["uniform", "zipf", "zipf:0.8", "zipf:1.2", "window", "scan", "mixed"]


def rows(trace: Trace, per_batch: int) -> NDArray[np.int64]:
    """int64 [batches, per_batch]"""
    return trace.ids.reshape(-1, per_batch)


def counts(trace: Trace, experts: int) -> NDArray[np.int64]:
    """Requests by popularity, the most popular first."""
    return np.sort(np.bincount(trace.ids, minlength=experts))[::-1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("experts", "per_batch"), [(1000, 7), (20, 19), (20, 20), (1, 1), (128, 32)])
def test_every_batch_asks_for_as_many_different_experts(name: str, experts: int, per_batch: int) -> None:
    trace = workloads.make(name, experts, batches=700, per_batch=per_batch, seed=3, record_bytes=4096)
    assert trace.record_bytes == 4096
    assert trace.batches == 700
    assert trace.indptr.tolist() == list(range(0, 700 * per_batch + 1, per_batch))
    assert (trace.ids.dtype, trace.indptr.dtype, trace.times.dtype) == (np.int64, np.int64, np.float64)
    assert trace.ids.min() >= 0 and trace.ids.max() < experts
    ordered = np.sort(rows(trace, per_batch), axis=1)
    assert (ordered[:, 1:] != ordered[:, :-1]).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_trace_and_another_another(name: str) -> None:
    first, again, other = (workloads.make(name, 500, 600, 5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.ids, again.ids)
    assert np.array_equal(first.ids, other.ids) == (name == "scan")


def test_uniform_asks_for_all_alike() -> None:
    found = counts(workloads.uniform(100, 5000, 10), 100)
    assert found.min() > 400 and found.max() < 600  # 500 expected, standard deviation 21


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2])
def test_zipf_falls_with_the_rank_to_the_power_of_the_exponent(exponent: float) -> None:
    found = counts(workloads.zipf(10_000, 200_000, 1, exponent=exponent), 10_000)
    ranks = np.array([1, 3, 10, 30, 100])
    slope = np.polyfit(np.log(ranks), np.log(found[ranks - 1]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.08)


def test_drawing_by_race_and_by_redrawing_have_the_same_distribution() -> None:
    likelihood = np.arange(1, 14, dtype=np.float64) ** -1.0
    shares = []
    for padding in (0, 10_000):  # so many impossible experts that the batch is small beside them: redrawing
        padded = np.concatenate([likelihood, np.full(padding, 1e-300)])
        drawn = workloads._draw(np.random.default_rng(5), padded, 40_000, 4)
        shares.append(np.bincount(drawn.reshape(-1), minlength=13)[:13] / 40_000)
    np.testing.assert_allclose(shares[0], shares[1], atol=0.015)


def test_window_stays_in_a_working_set_that_drifts_through_all_experts() -> None:
    experts, per_batch, width = 2000, 10, 100
    batches = rows(workloads.window(experts, 2500, per_batch), per_batch)
    for batch in (0, 700, 1999):
        start = batch % experts  # ten requests a batch: it moves on by one expert
        assert ((batches[batch] - start) % experts < width).all()
    assert len(np.unique(batches[:50])) < 1.6 * width  # it drifts by half its width in 50 batches
    assert len(np.unique(batches)) == experts
    assert np.bincount(batches[:2000].reshape(-1)).mean() == 10


def test_scan_asks_for_all_in_turn() -> None:
    assert workloads.scan(10, 4, 4).ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5]


def test_mixed_is_zipf_with_a_scan_that_goes_on_where_it_stopped() -> None:
    batches = rows(workloads.mixed(1000, 1100, 4), 4)
    zipf = rows(workloads.zipf(1000, 1100, 4), 4)
    scanning = np.r_[400:500, 900:1000]
    assert np.array_equal(np.delete(batches, scanning, 0), np.delete(zipf, scanning, 0))
    assert batches[scanning].reshape(-1).tolist() == [i % 1000 for i in range(800)]


def test_zipf_has_exponent_1_where_none_is_given() -> None:
    assert np.array_equal(workloads.make("zipf", 50, 9, 3).ids, workloads.make("zipf:1.0", 50, 9, 3).ids)
    assert not np.array_equal(workloads.make("zipf", 50, 9, 3).ids, workloads.make("zipf:1.2", 50, 9, 3).ids)


@pytest.mark.parametrize(
    ("name", "experts", "batches", "per_batch", "seed"),
    [
        ("gauss", 10, 10, 1, 0),
        ("zipf:", 10, 10, 1, 0),
        ("zipf:-1", 10, 10, 1, 0),
        ("zipf:99", 10, 10, 1, 0),
        ("scan:2", 10, 10, 1, 0),
        ("uniform", 10, 10, 11, 0),
        ("uniform", 10, 0, 1, 0),
        ("uniform", 10, 10, 0, 0),
        ("uniform", 10, 10, 1, -1),
    ],
)
def test_what_is_no_workload_is_refused(name: str, experts: int, batches: int, per_batch: int, seed: int) -> None:
    with pytest.raises(SchemaError):
        workloads.make(name, experts, batches, per_batch, seed)

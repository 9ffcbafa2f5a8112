"""Wilson's interval against figures worked out by hand, and at its ends."""

from __future__ import annotations

import pytest

from mome_store.evaluation import Share


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    (
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (99, 100, 0.9455, 0.9982),
        (1, 1, 0.2065, 1.0),
    ),
)
def test_wilson_intervals_are_the_published_ones(hits: int, n: int, low: float, high: float) -> None:
    assert Share(hits, n).interval() == pytest.approx((low, high), abs=1e-4)


def test_nothing_counted_has_neither_share_nor_interval() -> None:
    assert Share(0, 0).value is None and Share(0, 0).interval() is None


def test_shares_add_their_counts() -> None:
    assert Share(1, 4) + Share(2, 3) == Share(3, 7) and Share.of([True, False, True]) == Share(2, 3)


def test_more_hits_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="2 of 1"):
        Share(2, 1)

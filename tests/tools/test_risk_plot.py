"""The risk-coverage picture: whose curve it is, and that it can be drawn for any."""

from __future__ import annotations

from pathlib import Path

import pytest

from mome_store.evaluation import RiskCurve, SystemResult, rows_of
from mome_store.evaluation.risk import Decision
from mome_tools.risk_plot import curve_of, plot_risk

UNKNOWN = ("unknown_person", "unknown_twin", "other_relation", "unrelated")


def curve(*scores: float) -> RiskCurve:
    """Known questions with these scores, all right; one unknown question of each kind, never answered."""
    known = [Decision(score, True, score >= 0.5) for score in scores]
    return RiskCurve.of(
        {"seen": known, "heldout": known, "twins": known[:1]}
        | {kind: [Decision(0.0, False, False)] for kind in UNKNOWN}
    )


def result(name: str, curve: RiskCurve | None) -> SystemResult:
    return SystemResult(name, name, 0, 2, {}, curve=curve)


def test_owned_modes_curve_is_drawn_and_without_it_that_of_the_same_gate() -> None:
    cache, owned = curve(0.9), curve(0.2)
    rows = rows_of([result("base", None), result("cache", cache), result("owned", owned)])
    assert curve_of(rows) == owned and curve_of(rows[:2]) == cache and curve_of(rows[:1]) is None


@pytest.mark.parametrize("scores", ((0.9, 0.7, 0.2), (0.0,), ()))
def test_any_curve_can_be_drawn(tmp_path: Path, scores: tuple[float, ...]) -> None:
    plot_risk(curve(*scores), tmp_path / "risk.png")
    assert (tmp_path / "risk.png").read_bytes().startswith(b"\x89PNG")

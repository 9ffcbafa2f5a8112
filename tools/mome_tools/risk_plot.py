"""The risk-coverage curve of the router's gate as a picture."""

from __future__ import annotations

from pathlib import Path

from mome_store.evaluation import RiskCurve, Row
from mome_store.evaluation.risk import THRESHOLDS

_NAMES = {
    "unknown_person": "unknown people",
    "unknown_twin": "unknown near twins of known people",
    "other_relation": "other relations of known people",
    "unrelated": "unrelated text",
    "twins": "near twins, answered with another fact",
}
_COLORS = ("#2a6f97", "#61a5c2", "#c98b2b", "#8a8f98", "#b3372f")


def curve_of(rows: list[Row]) -> RiskCurve | None:
    """Owned mode's, or where that was not run another system's with the same router and gate."""
    curves = {row.name: row.curve for row in rows if row.curve is not None}
    return curves.get("owned") or next(iter(curves.values()), None)


def plot_risk(curve: RiskCurve, path: Path) -> None:
    """Left the risk, right the false fires of each kind, over the coverage; circles where the gate is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(12, 4.6), layout="constrained")
    FigureCanvasAgg(picture)
    risk, fires = picture.subplots(1, 2)
    places = range(len(THRESHOLDS))
    coverage = [100 * (curve.coverage(place).value or 0.0) for place in places]
    here = 100 * (curve.coverage(None).value or 0.0)

    known = [(x, curve.risk(place)) for x, place in zip(coverage, places, strict=True) if curve.risk(place).n]
    risk.plot([x for x, _ in known], [100 * (share.value or 0.0) for _, share in known], color="#2a7f4f")
    intervals = [share.interval() or (0.0, 0.0) for _, share in known]
    risk.fill_between(
        [x for x, _ in known],
        [100 * low for low, _ in intervals],
        [100 * high for _, high in intervals],
        color="#2a7f4f",
        alpha=0.2,
        linewidth=0,
    )
    risk.plot([here], [100 * (curve.risk(None).value or 0.0)], "o", color="black", label="the gate as it is")
    risk.set(xlabel="known questions answered, %", ylabel="wrong among the answers, % (band: Wilson 95 %)")
    risk.legend(fontsize=8)

    for (kind, name), color in zip(_NAMES.items(), _COLORS, strict=True):
        shares = [100 * (curve.fired(kind, place).value or 0.0) for place in places]
        fires.plot(coverage, shares, color=color, label=name)
        fires.plot([here], [100 * (curve.fired(kind, None).value or 0.0)], "o", color=color)
    fires.set_yscale("symlog", linthresh=0.1)  # 0 is what is hoped for
    fires.set_ylim(0, 105)
    fires.set(xlabel="known questions answered, %", ylabel="of the questions of a kind, %")
    fires.legend(fontsize=8)
    picture.savefig(path, dpi=110)

"""Shares of several systems as bars, with their intervals."""

from __future__ import annotations

from pathlib import Path

from mome_store.evaluation import Row


def plot_shares(rows: list[Row], metrics: dict[str, str], label: str, path: Path) -> None:
    """Writes a picture to `path`. metrics: shares by their names in the rows, with what the picture calls them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(9, 1.2 + 0.16 * len(rows) * (len(metrics) + 1)), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    height = 1 / (len(metrics) + 1)
    colors = ("#2a6f97", "#61a5c2", "#c98b2b", "#8a8f98")
    for place, (metric, name) in enumerate(metrics.items()):
        known = [(i, row.value(metric), row.intervals().get(metric)) for i, row in enumerate(rows)]
        drawn = [(i, 100 * value, interval) for i, value, interval in known if value is not None and interval]
        axes.barh(
            [i + place * height for i, _, _ in drawn],
            [value for _, value, _ in drawn],
            height=height,
            xerr=[
                [max(0.0, value - 100 * interval[0]) for _, value, interval in drawn],
                [max(0.0, 100 * interval[1] - value) for _, value, interval in drawn],
            ],
            error_kw={"linewidth": 0.8},
            color=colors[place],
            label=name,
        )
    titles = [f"{row.title} ({row.facts} facts)" for row in rows]
    axes.set_yticks([i + height * (len(metrics) - 1) / 2 for i in range(len(rows))], titles, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{label} (bars: Wilson 95 %)", fontsize=9)
    picture.legend(loc="outside upper center", ncols=2, fontsize=8)
    picture.savefig(path, dpi=110)

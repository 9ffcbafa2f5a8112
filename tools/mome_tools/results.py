"""Figures as files, for docs/results: JSON for machines, Markdown for people, and a plot of the ratios."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mome_tools.figures import Figure, machine, machine_text


def save_results(
    name: str,
    figures: Sequence[Figure],
    folder: Path,
    *,
    sections: Sequence[str] = (),
    values: Mapping[str, object] | None = None,
    picture: Callable[[Path], None] | None = None,
    command: str | None = None,
    device: str | None = None,
) -> None:
    """Writes `name`.json, `name`.md and, where a figure has a peer, `name`.png into `folder`, which is made.

    sections: further lines of the Markdown. values: further fields of the JSON. picture: draws another `name`.png.
    command: what `mome bench` calls it, where that is not `name`. device: what the GPU is called that was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    day = datetime.now(UTC).date().isoformat()
    content = {
        "figures": [figure.to_json() for figure in figures],
        "machine": machine(device),
        "date": day,
        **(values or {}),
    }
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    compared = [figure for figure in figures if figure.ratio is not None]
    lines = [f"# mome bench {command or name}", "", f"{machine_text(device)}; {day}.", ""]
    if picture is not None:
        picture(folder / f"{name}.png")
        lines += [f"![The curves of what follows]({name}.png)", ""]
    elif compared:
        _plot(name, compared, folder / f"{name}.png")
        lines += [f"![How many times better than the peer]({name}.png)", ""]
    lines += ["| figure | value | peer | ratio | bar | |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(figure.cells())} |" for figure in figures]
    lines += ["", *sections] if sections else []
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


def _plot(name: str, figures: Sequence[Figure], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(11, 1.2 + 0.32 * len(figures)), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    colors = {True: "#2a7f4f", False: "#b3372f", None: "#6b7280"}
    ratios = [figure.ratio or 0.0 for figure in figures]
    axes.barh(range(len(figures)), ratios, color=[colors[figure.ok] for figure in figures])
    for place, ratio in enumerate(ratios):
        axes.annotate(f" {ratio:.3g}x", (ratio, place), va="center", fontsize=8)
    labels = [f"{figure.name}, against {(figure.peer or '').split(' (')[0]}" for figure in figures]
    axes.set_yticks(range(len(figures)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.01)
    picture.suptitle(f"mome bench {name}")
    picture.supxlabel("how many times better than the peer (green: bar met, red: not met, grey: no bar)", fontsize=9)
    picture.savefig(path, dpi=110)

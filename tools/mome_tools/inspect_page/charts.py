"""The drawn pieces of the page: SVG that stretches to the width of its place. All words stand in HTML around it, so
they keep their size on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mome_store.inspection import RowState
from mome_tools.inspect_page.markup import Child, Markup, element
from mome_tools.inspect_page.wording import percent

_LEAST = 1.5  # percent of the height: what is there must be seen


@dataclass(frozen=True)
class Part:
    """A share of a whole. color: a class of style.py."""

    label: str
    value: float
    shown: str
    color: str


@dataclass(frozen=True)
class Column:
    """Stacked from the bottom: (value, color) each. title: what it tells when pointed at."""

    parts: tuple[tuple[float, str], ...]
    title: str

    @property
    def total(self) -> float:
        return sum(value for value, _ in self.parts)


def drawing(width: float, height: float, label: str, class_: str, *children: Child) -> Markup:
    """A picture that fills its place; label says to those who can't see it what it shows."""
    return element(
        "svg",
        children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_=class_,
    )


def number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def share_bar(parts: Sequence[Part], label: str) -> Markup:
    """One bar of all parts, and what each is in words and numbers."""
    whole = sum(part.value for part in parts)
    x, pieces, legend = 0.0, [], []
    for part in parts:
        width = 1000 * part.value / whole if whole else 0.0
        if part.value:
            title = element("title", f"{part.label}: {part.shown}")
            pieces.append(
                element("rect", title, x=number(x), y=0, width=number(max(width, 1)), height=1, class_=part.color)
            )
        x += width
        legend.append(
            element(
                "li",
                element("i", class_=f"chip {part.color}"),
                element("span", part.label),
                element("b", part.shown),
                element("span", percent(part.value, whole), class_="soft"),
            )
        )
    return element(
        "figure", drawing(1000, 1, label, "bar", pieces), element("ul", legend, class_="legend parts"), class_="keep"
    )


def columns(bars: Sequence[Column], label: str, most: str, axis: Sequence[str], gap: float = 0.15) -> Markup:
    """Columns over an axis. most: what the full height stands for. axis: words below, spread from edge to edge."""
    highest = max((bar.total for bar in bars), default=0.0) or 1.0
    pieces = []
    for i, bar in enumerate(bars):
        y, own = 100.0, []
        for value, color in bar.parts:
            if value:
                height = max(100 * value / highest, _LEAST)
                y = max(y - height, 0.0)
                own.append(
                    element(
                        "rect",
                        x=number(i + gap / 2),
                        y=number(y),
                        width=number(1 - gap),
                        height=number(height),
                        class_=color,
                    )
                )
        if own:
            pieces.append(element("g", element("title", bar.title), own))
    return element(
        "figure",
        element("p", most, class_="most"),
        drawing(len(bars), 100, label, "columns", pieces),
        element("p", [element("span", word) for word in axis], class_="axis", aria_hidden="true"),
        class_="keep",
    )


def range_bar(quantiles: Sequence[float], highest: float, label: str) -> Markup:
    """Five quantiles (5, 25, 50, 75 and 95 %) as a line, a box and a mark, on a scale from 0 to `highest`."""
    q5, q25, q50, q75, q95 = (1000 * value / (highest or 1.0) for value in quantiles)
    return drawing(
        1000,
        10,
        label,
        "range",
        element("rect", x=0, y=4.8, width=1000, height=0.4, class_="rule"),
        element("rect", x=number(q5), y=4, width=number(max(q95 - q5, 2)), height=2, class_="dead"),
        element("rect", x=number(q25), y=2, width=number(max(q75 - q25, 3)), height=6, class_="live"),
        element("rect", x=number(max(q50 - 2, 0)), y=0.5, width=4, height=9, class_="ink"),
    )


def strip(stretches: NDArray[np.int64], cells: int, label: str) -> Markup:
    """Rows from left to right. stretches: int64 [s, 4], how many rows of a stretch are in each RowState."""
    count = min(cells, len(stretches))
    merged = np.add.reduceat(stretches, np.arange(count) * len(stretches) // count, axis=0)
    colors = [_color(cell) for cell in merged]
    pieces = []
    for color in dict.fromkeys(colors):
        edges = [i for i in range(count) if colors[i] == color]
        path = []
        while edges:
            start = end = edges.pop(0)
            while edges and edges[0] == end + 1:
                end = edges.pop(0)
            path.append(f"M{start} 0h{end - start + 1}v1h{start - end - 1}z")
        pieces.append(element("path", d="".join(path), class_=color))
    return drawing(count, 1, label, "strip", element("title", label), pieces)


def _color(cell: NDArray[np.int64]) -> str:
    live, dead = int(cell[RowState.LIVE]), int(cell[RowState.DEAD])
    if cell[RowState.DAMAGED]:
        return "damaged"  # one damaged row among thousands must be seen
    if not live + dead:
        return "never"
    if not live or not dead:
        return "live" if live else "dead"
    share = live / (live + dead)
    return "mixed3" if share >= 2 / 3 else "mixed2" if share >= 1 / 3 else "mixed1"

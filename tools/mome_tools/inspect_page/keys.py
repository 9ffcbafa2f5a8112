"""The section about groups whose keys are nearly the same, and could take each other's questions."""

from __future__ import annotations

import numpy as np

from mome_store.inspection import Contents, NearPair, Neighbours
from mome_tools.inspect_page.charts import Column, columns
from mome_tools.inspect_page.markup import Child, Markup, element, joined, table
from mome_tools.inspect_page.wording import count, quoted

_SHOWN_PAIRS = 50
_AT_ONCE = 12
_BINS = 50


def near_section(contents: Contents) -> list[Child]:
    """What stands below the heading."""
    neighbours = contents.neighbours
    if not neighbours.pairs:
        words = "There are no two groups to compare." if neighbours.compared else "There is no key to compare."
        return [element("p", words)]
    found: list[Child] = [
        element(
            "p",
            "The inner product of two keys is what the router compares first: 1 is the same key. Where a key of "
            "another group is as near as the group's own wordings are to each other, a question may go to the wrong "
            "one. With a trained router the gate looks at both in detail before it decides, so nearness is a reason "
            "to look, not a verdict.",
        ),
        element("p", _looked_at(neighbours), class_="soft"),
        _histogram(neighbours),
    ]
    found.append(element("p", _crowded(neighbours)))
    if "pool" in contents.modes:
        found.append(
            element("p", "This store is a pool: its experts are shared, so a near key is no fact that gets lost.")
        )
    found.append(_pairs(contents))
    return found


def _looked_at(neighbours: Neighbours) -> str:
    words = f"{neighbours.compared:,} of {neighbours.keys:,} keys were compared, "
    if neighbours.cells == 1:
        words += "each with every other."
    else:
        words += f"each with those of its own cell of {neighbours.cells:,} (k-means)."
        if neighbours.found is not None:
            words += (
                f" Of {neighbours.checked} keys drawn at random and compared with all, "
                f"{100 * neighbours.found:.0f} % have their nearest in their own cell."
            )
    if neighbours.compared + neighbours.unreadable < neighbours.keys:
        words += " The groups were drawn at random."
    if neighbours.unreadable:
        words += f" {count(neighbours.unreadable, 'key')} could not be read."
    return words


def _crowded(neighbours: Neighbours) -> str:
    worded = int(np.isfinite(neighbours.own).sum())
    if not worded:
        return "No group has a second key, so there are no wordings of its own to compare with."
    crowded = neighbours.crowded
    words = f"{crowded:,} of {worded:,} groups with several keys have" if crowded else "No group has"
    return f"{words} a key of another group nearer than two of its own wordings are to each other."


def _histogram(neighbours: Neighbours) -> Markup:
    nearest, own = (values[np.isfinite(values)] for values in (neighbours.nearest, neighbours.own))
    low = float(np.floor(10 * min(nearest.min(initial=0.8), own.min(initial=0.8))) / 10)
    low = min(max(low, -1.0), 0.8)
    counts, edges = np.histogram(np.clip(nearest, low, 1), _BINS, (low, 1.0))
    bars = [
        Column(((int(number), "second"),), f"{edges[i]:.3f} to {edges[i + 1]:.3f}: {count(int(number), 'group')}")
        for i, number in enumerate(counts)
    ]
    axis = [f"{value:.2f}".rstrip("0").rstrip(".") for value in np.linspace(low, 1, 5)]
    middle = float(np.median(nearest))
    words = f"median {middle:.3f}, highest {float(nearest.max()):.3f}"
    drawn = [
        element("h3", "The nearest key of another group, of each group"),
        columns(bars, f"Groups by similarity to their nearest other group: {words}", _most(counts), axis, gap=0.06),
    ]
    if len(own):
        counts, _ = np.histogram(np.clip(own, low, 1), _BINS, (low, 1.0))
        bars = [
            Column(((int(number), "live"),), f"{edges[i]:.3f} to {edges[i + 1]:.3f}: {count(int(number), 'group')}")
            for i, number in enumerate(counts)
        ]
        words = f"median {float(np.median(own)):.3f}, lowest {float(own.min()):.3f}"
        drawn += [
            element("h3", "For comparison: the group's own wordings, least alike"),
            columns(bars, f"Groups by the similarity of their own wordings: {words}", _most(counts), axis, gap=0.06),
        ]
    return joined(drawn)


def _most(counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    return f"highest column: {count(int(counts.max()), 'group')}"


def _pairs(contents: Contents) -> Markup:
    pairs = contents.pairs(_SHOWN_PAIRS)
    blocks = contents.router_blocks
    head = ["Similarity", "Question", "Nearest of another group", "Answers", *(["Parts"] if blocks else [])]
    rows = [
        (
            element("span", f"{pair.similarity:.3f}", class_="num"),
            _fact(contents, pair.group_id),
            _fact(contents, pair.other_id),
            _answers(pair, same),
            *([element("span", " · ".join(f"{part:.2f}" for part in pair.parts), class_="num")] if blocks else []),
        )
        for pair, same in pairs
    ]
    caption = f"The {len(pairs)} nearest pairs, those with different answers first."
    if blocks:
        caption += f" Parts: the similarity of {', '.join(blocks)} in the keys, each alone."
    first, more = rows[:_AT_ONCE], rows[_AT_ONCE:]
    drawn = [element("h3", "The nearest pairs"), table(caption, head, first, class_="wide pairs")]
    if more:
        rest = table("Further pairs.", head, more, class_="wide pairs")
        drawn.append(element("details", element("summary", f"{len(more)} more"), rest))
    return joined(drawn)


def _fact(contents: Contents, group_id: int) -> Markup:
    memory = contents.texts.get(group_id)
    number = element("span", f" · group {group_id}", class_="soft")
    if memory is None:
        return joined(element("span", "no memory", class_="soft"), number)
    return joined(quoted(memory.question), number, element("div", "→ ", quoted(memory.answer), class_="soft"))


def _answers(pair: NearPair, same: bool | None) -> Markup:
    if same is not False:
        return element("span", "unknown" if same is None else "same", class_="tag fine")
    return element("span", "differ", class_="tag bad" if pair.crowded else "tag fine")


def crowded_pairs(contents: Contents) -> list[NearPair]:
    """Of the nearest pairs those with different answers that are as near as two wordings of one fact."""
    pairs = contents.pairs(len(contents.neighbours.pairs))
    return [pair for pair, same in pairs if same is False and pair.crowded]

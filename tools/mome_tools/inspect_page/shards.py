"""The section with the map of the shards: which rows are live, dead, never written or damaged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mome_store.inspection import Compaction, Contents, RowState, ShardMap
from mome_store.store.zarr_metadata import ARRAYS, ArrayName
from mome_tools.inspect_page.charts import Column, columns, strip
from mome_tools.inspect_page.markup import Child, Markup, element, prose, table
from mome_tools.inspect_page.wording import count, percent
from mome_tools.output import bytes_text

_LABELLED = 24  # more shards than this get no line of their own
_MOST_STRIPS = 600  # of more, neighbours are drawn as one
_ROOMY = 100
_CELLS, _SMALL_CELLS = 128, 32
_MOST_LISTED = 100
_LEGEND = (
    ("live", "live"),
    ("mixed2", "live and dead mixed"),
    ("dead", "dead: compaction gives it back"),
    ("never", "never written"),
    ("damaged", "damaged"),
)


def shard_section(contents: Contents) -> list[Child]:
    """What stands below the heading."""
    if not contents.shards:
        return [element("p", "No shard has been written yet: the store is empty.")]
    found: list[Child] = [
        element("ul", [element("li", _chip(color), label) for color, label in _LEGEND], class_="legend")
    ]
    for array in ARRAYS:
        own = [shard for shard in contents.shards if shard.array == array]
        if own:
            compaction = next(each for each in contents.compactions if each.array == array)
            found += _array(array, own, compaction)
    found.append(_listed(contents.shards))
    return found


def _array(array: ArrayName, shards: Sequence[ShardMap], compaction: Compaction) -> list[Child]:
    counts = {state: sum(shard.count(state) for shard in shards) for state in RowState}
    what = "one expert" if array == "experts" else "one key"
    words = (
        f"{count(len(shards), 'file')} of up to {shards[0].rows:,} rows, {what} of "
        f"{bytes_text(shards[0].row_bytes)} each. "
        f"{counts[RowState.LIVE]:,} rows live, {counts[RowState.DEAD]:,} dead"
    )
    if counts[RowState.DAMAGED]:
        words += f", {counts[RowState.DAMAGED]:,} damaged"
    return [
        element("h3", array.capitalize()),
        element("p", words + "."),
        _strips(shards),
        element("h3", f"How full the {array} shards are"),
        _fill(shards),
        element("p", prose(_advice(compaction)), class_="soft"),
    ]


def _strips(shards: Sequence[ShardMap]) -> Markup:
    if len(shards) <= _LABELLED:
        return element(
            "div",
            [
                [
                    element("span", shard.file),
                    strip(shard.stretches, _CELLS, _title([shard])),
                    element("span", f"{shard.written:,} of {shard.rows:,}", class_="soft"),
                ]
                for shard in shards
            ],
            class_="strips keep",
        )
    per_strip = -(-len(shards) // _MOST_STRIPS)
    together = [shards[start : start + per_strip] for start in range(0, len(shards), per_strip)]
    strips = [
        strip(np.concatenate([shard.stretches for shard in some]), _SMALL_CELLS, _title(some)) for some in together
    ]
    words = "Each strip is a file" if per_strip == 1 else f"Each strip is {per_strip} files"
    return element(
        "figure",
        element("div", strips, class_="tilesmap roomy" if len(strips) <= _ROOMY else "tilesmap"),
        element("figcaption", f"{words}, in order; a cell of a strip is many rows.", class_="axis"),
    )


def _title(shards: Sequence[ShardMap]) -> str:
    names = shards[0].file if len(shards) == 1 else f"{shards[0].file} to {shards[-1].file}"
    live, dead, never, damaged = (
        sum(shard.count(state) for shard in shards)
        for state in (RowState.LIVE, RowState.DEAD, RowState.NEVER_WRITTEN, RowState.DAMAGED)
    )
    return f"{names}: {live:,} live, {dead:,} dead, {never:,} never written, {damaged:,} damaged"


def _fill(shards: Sequence[ShardMap]) -> Markup:
    """Shards by the rows that were written in them, in steps of doubling."""
    capacity = shards[0].rows
    edges = [2**power for power in range(capacity.bit_length()) if 2**power < capacity] + [capacity, capacity + 1]
    written = np.array([shard.written for shard in shards])
    bars = []
    for low, high in pairwise(edges):
        files = int(((written >= low) & (written < high)).sum())
        rows = f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}"
        bars.append(Column(((files, "live"),), f"{rows} rows: {count(files, 'file')}"))
    most = max(int(bar.total) for bar in bars)
    label = "Files by rows written, in steps of doubling: " + "; ".join(bar.title for bar in bars if bar.total)
    middle = edges[len(bars) // 2]
    axis = ("1 row", f"{middle:,}", f"full: {capacity:,}") if len(bars) > 2 else ("1 row", f"full: {capacity:,}")
    return columns(bars, label, f"highest column: {count(most, 'file')}", axis)


def _advice(compaction: Compaction) -> str:
    fewest = count(compaction.needed, "file")
    held = f"The live rows would fit into {fewest}."
    if compaction.due:
        return f"{held} Compaction is due: `mome compact DIR` merges small files and drops dead rows."
    return f"{held} No need to compact."


def _listed(shards: Sequence[ShardMap]) -> Markup:
    """The shards as a table: damaged ones first, then those with most dead rows."""
    order = sorted(
        shards, key=lambda shard: (-shard.count(RowState.DAMAGED), -shard.count(RowState.DEAD), shard.written)
    )
    rows = [
        (
            element("code", shard.file),
            f"{shard.count(RowState.LIVE):,}",
            f"{shard.count(RowState.DEAD):,}",
            f"{shard.count(RowState.NEVER_WRITTEN):,}",
            f"{shard.count(RowState.DAMAGED):,}",
            percent(shard.written, shard.rows),
            shard.problem or "",
        )
        for shard in order[:_MOST_LISTED]
    ]
    caption = "Damaged first, then by dead rows, then the emptiest."
    if len(order) > _MOST_LISTED:
        caption += f" {_MOST_LISTED} of {len(order):,}."
    head = ("File", "Live", "Dead", "Never written", "Damaged", "Filled", "Problem")
    return element("details", element("summary", "The shards as a table"), table(caption, head, rows))


def _chip(color: str) -> Markup:
    return element("i", class_=f"chip {color}")

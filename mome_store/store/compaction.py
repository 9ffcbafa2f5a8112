"""Compaction: live rows out of shards that are small or hold dead rows, into full ones, and what was forgotten gone.

1. Plan: which groups move, and in which order, as chunks that fill a shard each. Groups lie by id, so that those added
   together stay together, or, given a trace, those used together lie together (co_use.py).
2. Move chunk by chunk in commits of some hundred MiB: copy and check the rows, let the catalogue name their new places,
   drop the shards in which nothing is live any more. A stop or a crash loses the step under way, nothing else, and
   the next compaction goes on from there.
3. After each commit, unlink what it dropped. Snapshots hold their files open, so they read on; their space is free once
   the last of them is closed.
4. Forget the texts of groups that are gone, once no snapshot of before can ask for them (pins.py).

Every record is checked on its way, and a shard of keys against its checksum: damage stops the compaction with an error
that names it, for a copy would give damaged bytes a fresh checksum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mome_store import _core
from mome_store.errors import DamagedStoreError, SchemaError
from mome_store.store.catalog import ShardContents
from mome_store.store.co_use import Usage, order_by_use
from mome_store.store.runs import counted, expert_columns, spelled_out
from mome_store.store.shard import Shard, ShardRow
from mome_store.store.zarr_metadata import ARRAYS, ArrayName, StoreLayout

Progress = Callable[[int, int], None]
"""Called with the bytes moved so far and those to move in all."""

_STEP_BYTES = 256 << 20  # moved in one commit: seconds of work to lose, and enough to make the commit's fsyncs cheap
_PIECE_BYTES = 4 << 20  # in memory at a time
SMALL_SHARDS = 16
"""So many shards of an array that are of about one size, and at most half full, are merged after a commit."""


@dataclass(frozen=True)
class CompactionReport:
    """What a compaction did. The bytes are those of shard files, as the catalogue knows them.

    complete: False when it was stopped before its end. groups_forgotten: whose texts went.
    """

    bytes_before: int
    bytes_after: int
    shards_before: int
    shards_after: int
    bytes_moved: int
    groups_forgotten: int
    complete: bool


@dataclass(frozen=True)
class Chunk:
    """Groups that move into one shard, in this order. groups: int64 [n, c], their runs, one for each (spelled_out)."""

    array: ArrayName
    groups: NDArray[np.int64]

    def bytes(self, layout: StoreLayout) -> int:
        return int(self.groups[:, -1].sum()) * layout.row_bytes(self.array)


def plan(contents: ShardContents, usage: Usage | None = None) -> list[Chunk]:
    """What to move so that no dead row is left, and no small shard that could be merged with others.

    usage: lay the experts that it names so that those used together lie together.
    """
    chunks: list[Chunk] = []
    for array in ARRAYS:
        layout = _Layout(contents, array)
        settled: set[int] = set()
        if usage is not None and array == "experts":
            _, ids, owners = expert_columns(contents.experts)
            by_id = np.argsort(ids)
            hot = layout.filled(layout.positions(order_by_use(usage, ids[by_id], owners[by_id])))
            moving = [part for part in hot if not layout.is_in_place(part)]
            settled = {shard for part in hot if layout.is_in_place(part) for shard in layout.shards_of(part)}
            chunks += layout.chunks(moving)
            layout = layout.without(moving)
        chunks += layout.chunks(layout.merged(layout.wasteful() - settled))
    return chunks


def plan_small(contents: ShardContents) -> list[Chunk]:
    """What to move so that small commits do not pile up: see `crowded`."""
    chunks: list[Chunk] = []
    for array in ARRAYS:
        layout = _Layout(contents, array)
        sizes = [(shard.number, shard.rows) for shard in layout.shards]
        chunks += layout.chunks(layout.merged(crowded(sizes, contents.layout.rows_per_shard)))
    return chunks


def plan_dead(contents: ShardContents) -> list[Chunk]:
    """What to move so that no shard is more dead than alive."""
    chunks: list[Chunk] = []
    for array in ARRAYS:
        layout = _Layout(contents, array)
        mostly = {shard.number for shard in layout.shards if 2 * layout.live.get(shard.number, 0) < shard.rows}
        chunks += layout.chunks(layout.merged(mostly))
    return chunks


def crowded(shards: Iterable[tuple[int, int]], rows_per_shard: int) -> set[int]:
    """Of shards (number, rows) those of a size that SMALL_SHARDS have; none that is more than half full.

    Sizes are powers of 16, so that a row is moved once for each time that its shard grows sixteenfold.
    """
    sizes: dict[int, set[int]] = {}
    for number, rows in shards:
        if 2 * rows <= rows_per_shard:
            sizes.setdefault((rows.bit_length() - 1) // 4, set()).add(number)
    return {number for numbers in sizes.values() if len(numbers) >= SMALL_SHARDS for number in numbers}


def steps(chunks: Sequence[Chunk], layout: StoreLayout) -> Iterator[list[Chunk]]:
    """The chunks of one commit each."""
    step: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if step and size + chunk.bytes(layout) > _STEP_BYTES:
            yield step
            step, size = [], 0
        step.append(chunk)
        size += chunk.bytes(layout)
    if step:
        yield step


def empty_shards(contents: ShardContents, array: ArrayName, moving: Sequence[Chunk]) -> list[int]:
    """The shards of the array in which nothing is live once these chunks have moved."""
    groups = _groups_of(contents, array)
    for chunk in moving:
        if chunk.array == array:
            groups = groups[~np.isin(groups[:, -3], chunk.groups[:, -3])]
    live = _live_rows(groups, contents.layout.rows_per_shard)
    return [shard.number for shard in contents.shards if shard.array == array and shard.number not in live]


class _Layout:
    """Where the groups of an array lie, and better ways to lay them.

    groups: int64 [n, c], their runs, one for each. A part is int64 positions among them. live: shard -> its live rows.
    """

    def __init__(self, contents: ShardContents, array: ArrayName, groups: NDArray[np.int64] | None = None) -> None:
        self._contents = contents
        self._array = array
        self._capacity = contents.layout.rows_per_shard
        self.groups = _groups_of(contents, array) if groups is None else groups
        self.shards = [shard for shard in contents.shards if shard.array == array]
        self.live = _live_rows(self.groups, self._capacity)

    def without(self, parts: Sequence[NDArray[np.int64]]) -> _Layout:
        """What is left where it is when these parts go."""
        stays = np.ones(len(self.groups), bool)
        for part in parts:
            stays[part] = False
        return _Layout(self._contents, self._array, self.groups[stays])

    def chunks(self, parts: Sequence[NDArray[np.int64]]) -> list[Chunk]:
        return [Chunk(self._array, self.groups[part]) for part in parts]

    def positions(self, group_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of groups that are all there."""
        by_id = np.argsort(self.groups[:, -3])
        return by_id[np.searchsorted(self.groups[by_id, -3], group_ids)]

    def wasteful(self) -> set[int]:
        """Shards with dead rows, and those at most half full."""
        held = {shard.number: shard.rows for shard in self.shards if shard.number in self.live}
        return {n for n, rows in held.items() if self.live[n] < rows or 2 * rows <= self._capacity}

    def merged(self, due: set[int]) -> list[NDArray[np.int64]]:
        """The groups of the shards `due`, in parts, by id; nothing where that would save neither rows nor shards."""
        touching, touched = self._touching(due)
        part = np.flatnonzero(touching)
        parts = self.filled(part[np.argsort(self.groups[part, -3])])
        rows = [int(self.groups[part, -1].sum()) for part in parts]
        dead = any(self.live.get(shard.number, 0) < shard.rows for shard in self.shards if shard.number in touched)
        return parts if dead or sum(-(-count // self._capacity) for count in rows) < len(touched) else []

    def filled(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """`order` in parts that fill a shard as far as they can without cutting a group.

        Where groups are large for a shard, parts of several, so that a part's last shard wastes an eighth at most.
        """
        ends = np.cumsum(self.groups[order, -1])
        room = self._capacity * -(-8 * int(self.groups[order, -1].max(initial=0)) // self._capacity)
        parts: list[NDArray[np.int64]] = []
        start = 0
        while start < len(order):
            end = int(np.searchsorted(ends, room + (ends[start - 1] if start else 0), "right"))
            parts.append(order[start:end])
            start = end
        return parts

    def is_in_place(self, part: NDArray[np.int64]) -> bool:
        """Whether shards hold just the rows of this part, in this order."""
        groups = self.groups[part]
        first, rows = int(groups[0, 0]), int(groups[:, -1].sum())
        follows = groups[:, 0] == first + np.cumsum(groups[:, -1]) - groups[:, -1]
        held = sum(shard.rows for shard in self.shards if shard.number in self.shards_of(part))
        return first % self._capacity == 0 and held == rows and bool(follows.all())

    def shards_of(self, part: NDArray[np.int64]) -> set[int]:
        return set(_live_rows(self.groups[part], self._capacity))

    def _touching(self, due: set[int]) -> tuple[NDArray[np.bool_], set[int]]:
        """The groups with rows in the shards `due`, or in shards that lose rows by that, and so on; and the shards."""
        first = self.groups[:, 0] // self._capacity
        last = (self.groups[:, 0] + self.groups[:, -1] - 1) // self._capacity
        touching = np.zeros(len(self.groups), bool)
        numbers, touched = due, set(due)
        while numbers:
            asked = np.fromiter(numbers, np.int64, len(numbers))
            fresh = (np.isin(first, asked) | np.isin(last, asked)) & ~touching
            touching |= fresh
            across = fresh & (first != last)
            numbers = set(_live_rows(self.groups[across], self._capacity)) - touched
            touched |= numbers
        return touching, touched


class RowSource:
    """Reads the rows of groups that move, piece by piece, and checks them; closes the shards that it opened."""

    def __init__(self, directory: Path, contents: ShardContents, pace: Pace) -> None:
        self._directory = directory
        self._contents = contents
        self._pace = pace
        self._shards: dict[tuple[ArrayName, int], Shard] = {}
        self._rows: dict[tuple[ArrayName, int], ShardRow] = {(row.array, row.number): row for row in contents.shards}
        self._opened = ExitStack()

    def __enter__(self) -> RowSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def pieces(self, chunk: Chunk) -> Iterator[NDArray[np.uint8]]:
        """The rows of the chunk's groups one after the other. Raises DamagedStoreError, ReadError."""
        layout = self._contents.layout
        counts = chunk.groups[:, -1]
        rows, ids = counted(chunk.groups[:, 0], counts), counted(chunk.groups[:, 1], counts)  # keys have no ids
        owners = np.repeat(chunk.groups[:, -3], counts)
        at_once = max(1, _PIECE_BYTES // layout.row_bytes(chunk.array))
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            content = b"".join(self._read(chunk.array, first, count) for first, count in self._together(rows[part]))
            if chunk.array == "experts":
                self._check(content, rows[part], ids[part], owners[part])
            self._pace.add(len(content))
            yield np.frombuffer(content, np.uint8)

    def _together(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """(first row, how many) of rows that follow each other in one shard."""
        capacity = self._contents.layout.rows_per_shard
        breaks = np.flatnonzero((np.diff(rows) != 1) | (rows[1:] % capacity == 0)) + 1
        for part in np.split(rows, breaks):
            yield int(part[0]), len(part)

    def _read(self, array: ArrayName, first: int, count: int) -> bytes:
        return self._shard(array, first // self._contents.layout.rows_per_shard).read_rows(first, count)

    def _shard(self, array: ArrayName, number: int) -> Shard:
        shard = self._shards.get((array, number))
        if shard is None:
            shard = Shard(self._directory, self._contents.layout, self._rows[array, number])
            self._opened.callback(shard.close)
            if array == "keys":
                shard.read_content()
            self._shards[array, number] = shard
        return shard

    def _check(
        self, content: bytes, rows: NDArray[np.int64], ids: NDArray[np.int64], owners: NDArray[np.int64]
    ) -> None:
        schema, capacity = self._contents.layout.schema, self._contents.layout.rows_per_shard
        at = schema.record_bytes * np.arange(len(rows))
        known = schema.record_bytes, schema.payload_bytes, schema.rank, schema.crc
        for i, problem in _core.check_records(content, *known, at, ids, owners)[:1]:
            row = int(rows[i])
            raise DamagedStoreError(self._shards["experts", row // capacity].file, row, int(ids[i]), problem)


class Pace:
    """Keeps a compaction below a rate, and tells how far it is."""

    def __init__(self, total: int = 0, max_rate: float | None = None, on_progress: Progress | None = None) -> None:
        """total: bytes to move. max_rate: bytes a second; None: as fast as it goes."""
        if max_rate is not None and not max_rate > 0:
            raise SchemaError(f"max_rate must be above 0 bytes a second, found {max_rate}")
        self.moved = 0
        self._total = total
        self._max_rate = max_rate
        self._on_progress = on_progress
        self._start = time.monotonic()

    def add(self, count: int) -> None:
        self.moved += count
        if self._on_progress is not None:
            self._on_progress(self.moved, self._total)
        if self._max_rate is not None:
            time.sleep(max(0.0, self._start + self.moved / self._max_rate - time.monotonic()))


def _groups_of(contents: ShardContents, array: ArrayName) -> NDArray[np.int64]:
    """The live groups' runs in an array, one for each, rows ascending."""
    return spelled_out(contents.experts if array == "experts" else contents.keys)


def _live_rows(groups: NDArray[np.int64], capacity: int) -> dict[int, int]:
    """How many live rows each shard has that has any."""
    numbers, counts = np.unique(counted(groups[:, 0], groups[:, -1]) // capacity, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

"""Which rows of each shard are live, dead, never written or damaged, in stretches that a picture can show."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from mome_store.inspection.readable import ReadableStore
from mome_store.store.shard import ShardRow, index_bytes
from mome_store.store.zarr_metadata import ArrayName

MOST_STRETCHES = 128


class RowState(IntEnum):
    """Of a row of a shard. DAMAGED goes before LIVE and DEAD: a row in a file that can't be read is neither."""

    NEVER_WRITTEN = 0
    DEAD = 1
    LIVE = 2
    DAMAGED = 3


@dataclass(frozen=True)
class ShardMap:
    """A shard of the newest commit.

    rows: how many its file may hold; live + dead + damaged + never_written of them. row_bytes: of one.
    index_bytes: what the file's index takes. problem: what is wrong with the file as a whole, or None.
    stretches: int64 [s, 4], of each of up to MOST_STRETCHES equal parts of the rows how many are in each RowState.
    """

    array: ArrayName
    number: int
    rows: int
    row_bytes: int
    index_bytes: int
    problem: str | None
    stretches: NDArray[np.int64]

    @property
    def file(self) -> str:
        return f"{self.array}/c/{self.number}/0"

    def count(self, state: RowState) -> int:
        return int(self.stretches[:, state].sum())

    @property
    def written(self) -> int:
        return self.rows - self.count(RowState.NEVER_WRITTEN)


def shard_maps(store: ReadableStore) -> tuple[ShardMap, ...]:
    """Of every shard that the catalogue names, experts first, numbers ascending. Reads no file: damage is what the
    store's list holds already.
    """
    return tuple(_map(store, row) for row in store.state.shards)


def _map(store: ReadableStore, row: ShardRow) -> ShardMap:
    capacity = store.layout.rows_per_shard
    first = row.number * capacity
    states = np.zeros(capacity, np.uint8)
    states[: row.rows] = RowState.DEAD
    live = store.expert_rows if row.array == "experts" else store.key_rows
    held = slice(*np.searchsorted(live, [first, first + capacity]))
    states[live[held] - first] = RowState.LIVE
    file = f"{row.array}/c/{row.number}/0"
    own = [each for each in store.damage if each.file in (file, str(store.directory / file))]
    for each in own:
        if each.row is not None and first <= each.row < first + capacity:
            states[each.row - first] = RowState.DAMAGED
    whole = [each.problem for each in own if each.row is None]
    if whole:
        states[: row.rows] = RowState.DAMAGED
    edges = np.arange(min(capacity, MOST_STRETCHES)) * capacity // min(capacity, MOST_STRETCHES)
    stretches = np.stack([np.add.reduceat(states == state, edges, dtype=np.int64) for state in RowState], axis=1)
    return ShardMap(
        array=row.array,
        number=row.number,
        rows=capacity,
        row_bytes=store.layout.row_bytes(row.array),
        index_bytes=index_bytes(capacity),
        problem=whole[0] if whole else None,
        stretches=stretches,
    )

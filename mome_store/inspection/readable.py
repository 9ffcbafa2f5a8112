"""What of a store can still be read where some of it is damaged: each shard, record and memory by itself.

A snapshot refuses a store with one damaged shard. Here every piece that can't be read becomes a `Damage` in the list,
and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import DamagedStoreError, ReadError
from mome_store.store.catalog import CatalogState, load_memories
from mome_store.store.damage import Damage
from mome_store.store.memory import Memory
from mome_store.store.record import record_problem
from mome_store.store.runs import expert_columns, group_columns, key_columns
from mome_store.store.shard import Shard

FOUND = (DamagedStoreError, ReadError)
Int64s = NDArray[np.int64]


class ReadableStore:
    """The store at `directory` as of `state`.

    damage: all that was found, without repetition. group_ids, memory_ids: int64 [g], ids ascending (memory 0: none).
    expert_rows, expert_ids, expert_groups: int64 [n], rows ascending. key_rows, key_groups: int64 [m], likewise.
    """

    def __init__(self, directory: Path, state: CatalogState, damage: list[Damage]) -> None:
        self.directory = directory
        self.state = state
        self.layout = state.layout
        self.damage = damage
        self.group_ids, self.modes, self.activations, self.memory_ids = group_columns(state.groups)
        self.expert_rows, self.expert_ids, self.expert_groups = expert_columns(state.experts)
        self.key_rows, self.key_groups = key_columns(state.keys)

    def keys(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Those of the chosen keys (bool [m]) that can be read: float32 [k, key_dim] in row order; bool [m] which."""
        dim, capacity = self.layout.key_dim, self.layout.rows_per_shard
        keys = np.empty((int(chosen.sum()), dim), np.float32)
        read = np.zeros(len(chosen), np.bool_)
        done = 0
        for row in self.state.shards:
            first = row.number * capacity
            held = slice(*np.searchsorted(self.key_rows, [first, first + capacity]))
            places = np.flatnonzero(chosen[held]) + held.start if row.array == "keys" else np.empty(0, np.int64)
            if not len(places):
                continue
            with self._noting(), closing(Shard(self.directory, self.layout, row)) as shard:
                content = np.frombuffer(shard.read_content(), "<f4").reshape(-1, dim)
                offsets = shard.offsets()[self.key_rows[places] - first]
                found = content[offsets // (4 * dim)]
                finite = np.isfinite(found).all(axis=1)
                for place in places[~finite].tolist():
                    self.note(Damage(shard.file, int(self.key_rows[place]), None, "the key is not finite"))
                kept = int(finite.sum())
                keys[done : done + kept] = found[finite]
                read[places[finite]] = True
                done += kept
        return keys[:done], read

    def records(self, places: Int64s) -> Iterator[tuple[int, bytes]]:
        """(place, record) of the experts at these places (ascending) of `expert_rows` that can be read."""
        capacity = self.layout.rows_per_shard
        shards = {row.number: row for row in self.state.shards if row.array == "experts"}
        numbers = self.expert_rows[places] // capacity
        for number in np.unique(numbers).tolist():
            with self._noting(), closing(Shard(self.directory, self.layout, shards[number])) as shard:
                for place in places[numbers == number].tolist():
                    with self._noting():
                        yield place, self._record(shard, place)

    def memories(self, group_ids: Int64s) -> dict[int, Memory]:
        """group id -> memory, of those among these live groups that have one which can be read."""
        ids = self.memory_ids[np.searchsorted(self.group_ids, group_ids)]
        having = ids != 0
        groups, ids = group_ids[having], ids[having]
        found: dict[int, Memory] = {}
        for start in range(0, len(ids), 1000):
            page = slice(start, start + 1000)
            try:
                memories = list(load_memories(self.directory, ids[page]))
                found |= dict(zip(groups[page].tolist(), memories, strict=True))
            except FOUND:  # which of them, is found out one by one
                for group, memory_id in zip(groups[page].tolist(), ids[page], strict=True):
                    with self._noting():
                        found[group] = next(load_memories(self.directory, memory_id[None]))
        return found

    def note(self, damage: Damage) -> None:
        if damage not in self.damage:
            self.damage.append(damage)

    def _record(self, shard: Shard, place: int) -> bytes:
        row, expert_id = int(self.expert_rows[place]), int(self.expert_ids[place])
        record = shard.read_row(row)
        problem = record_problem(self.layout.schema, record, expert_id, int(self.expert_groups[place]))
        if problem is not None:
            raise DamagedStoreError(shard.file, row, expert_id, problem)
        return record

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Makes damage that is raised inside a line of `damage`."""
        try:
            yield
        except FOUND as error:
            self.note(Damage.of(error))

"""A read-only view of a store as of one commit: what is live, where it lies, and the bytes themselves, checked.

A snapshot holds every shard of its commit open, so that files unlinked later stay readable, and compact arrays of ids
and rows. Texts of memories stay in the catalogue until asked for. It holds no SQLite connection and no lock, and may be
used by several threads and by forked children.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import ClosedError, DamagedStoreError, UnknownIdError
from mome_store.store.catalog import ACTIVATIONS, MODES, CatalogState, load_memories
from mome_store.store.memory import Memory
from mome_store.store.record import decode_record, record_problem
from mome_store.store.runs import ExpertRun, GroupRun, expert_columns, group_columns, key_columns
from mome_store.store.schema import ExpertSchema
from mome_store.store.shard import Shard, ShardInfo
from mome_store.store.zarr_metadata import ArrayName


@dataclass(frozen=True)
class Group:
    """Experts that are applied together. expert_ids: int64, ascending."""

    id: int
    mode: str
    activation: str
    expert_ids: NDArray[np.int64]
    memory: Memory | None


class Snapshot:
    """What a store holds as of one commit; `ExpertStore.snapshot` makes it. Close it to give its files back.

    commit, time_us: the commit's number and when it was (microseconds since 1970).
    expert_runs: int64 [r, 5], the live experts as runs (ExpertRun), ids ascending.

    The arrays that name each expert, group or key are made when they are first asked for, and kept.
    """

    def __init__(self, directory: Path, state: CatalogState) -> None:
        layout = state.layout
        self.path = directory
        self.commit = state.commit.id
        self.time_us = state.commit.time_us
        self.schema: ExpertSchema = layout.schema
        self.key_dim = layout.key_dim
        self.rows_per_shard = layout.rows_per_shard
        self.base_model = layout.base_model
        self.encoder = layout.encoder
        self._meta = state.meta
        self.expert_runs = _frozen(state.experts[np.argsort(state.experts[:, 1])])
        self._runs_by_group = state.experts[np.argsort(state.experts[:, 2])]
        self._group_runs = state.groups
        self._key_runs = state.keys
        self._closed = False
        self._shards: dict[tuple[ArrayName, int], Shard] = {}
        with ExitStack() as opened:
            for row in state.shards:
                shard = Shard(directory, layout, row)
                opened.callback(shard.close)
                self._shards[row.array, row.number] = shard
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Closes the shards' files. What was read before stays valid."""
        self._closed = True
        self._opened.close()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def expert_ids(self) -> NDArray[np.int64]:
        """int64 [n]: ids of the live experts, ascending."""
        return _frozen(expert_columns(self.expert_runs)[1])

    @cached_property
    def expert_rows(self) -> NDArray[np.int64]:
        """int64 [n]: their rows in the experts' array."""
        return _frozen(expert_columns(self.expert_runs)[0])

    @cached_property
    def expert_groups(self) -> NDArray[np.int64]:
        """int64 [n]: their groups."""
        return _frozen(expert_columns(self.expert_runs)[2])

    @property
    def group_ids(self) -> NDArray[np.int64]:
        """int64 [g]: ids of the live groups, ascending."""
        return self._groups[0]

    @cached_property
    def modes(self) -> frozenset[str]:
        """The modes of the live groups: of "owned" and "pool" those that occur."""
        return frozenset(MODES[mode] for mode in np.unique(self._group_runs[:, GroupRun._fields.index("mode")]))

    @cached_property
    def key_rows(self) -> NDArray[np.int64]:
        """int64 [m]: rows of the live keys in the keys' array, ascending."""
        return _frozen(key_columns(self._key_runs)[0])

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """Every shard of this commit, experts first, numbers ascending."""
        return tuple(shard.info for shard in self._open_shards().values())

    def meta(self, name: str, default: Any = None) -> Any:
        """The value that `Transaction.set_meta` gave `name`, or `default`."""
        return json.loads(self._meta[name]) if name in self._meta else default

    def read_record(self, expert_id: int) -> bytes:
        """The record of a live expert, its trailer and checksum checked: bytes [record_bytes]."""
        at = self._expert_index(expert_id)
        row = int(self.expert_rows[at])
        shard = self._open_shards()["experts", row // self.rows_per_shard]
        record = shard.read_row(row)
        problem = record_problem(self.schema, record, expert_id, int(self.expert_groups[at]))
        if problem is not None:
            raise DamagedStoreError(shard.file, row, expert_id, problem)
        return record

    def read_expert(self, expert_id: int) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """A live expert: {module: (A [r, d_in], B [d_out, r])}, read-only views in the schema's dtype."""
        return decode_record(self.schema, self.read_record(expert_id))

    def group(self, group_id: int) -> Group:
        """A live group, with its memory. Raises UnknownIdError when there is none."""
        at = int(np.searchsorted(self.group_ids, group_id))
        if at == len(self.group_ids) or self.group_ids[at] != group_id:
            raise UnknownIdError("group", [group_id])
        run = ExpertRun(
            *self._runs_by_group[np.searchsorted(self._runs_by_group[:, 2], group_id, "right") - 1].tolist()
        )
        first = run.part(group_id - run.group_id, 1).id
        memory_id = self._groups[3][at : at + 1]
        memory = next(load_memories(self.path, memory_id)) if memory_id[0] else None
        return Group(
            id=group_id,
            mode=MODES[self._groups[1][at]],
            activation=ACTIVATIONS[self._groups[2][at]],
            expert_ids=_frozen(np.arange(first, first + run.per_group)),
            memory=memory,
        )

    def acting(self, expert_ids: NDArray[np.int64], activation: str) -> NDArray[np.bool_]:
        """bool [n]: which of the experts (int64 [n]) belong to groups with that activation.

        Raises UnknownIdError naming every expert that is not live.
        """
        at = np.searchsorted(self.expert_ids, expert_ids)
        known = np.append(self.expert_ids, -1)[at] == expert_ids
        if not known.all():
            raise UnknownIdError("expert", sorted(set(expert_ids[~known].tolist())))
        groups = np.searchsorted(self.group_ids, self.expert_groups[at])
        return np.asarray(self._groups[2][groups] == ACTIVATIONS.index(activation))

    def keys(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The live keys float32 [m, key_dim] and their groups int64 [m], in row order; their checksum is checked."""
        keys = np.empty((len(self.key_rows), self.key_dim), dtype=np.float32)
        for shard in self._open_shards().values():
            info = shard.info
            if info.array == "keys":
                first, last = np.searchsorted(self.key_rows, [info.first_row, info.first_row + self.rows_per_shard])
                if first < last:
                    rows = np.frombuffer(shard.read_content(), "<f4").reshape(-1, self.key_dim)
                    offsets = shard.offsets()[self.key_rows[first:last] - info.first_row]
                    keys[first:last] = rows[offsets // (4 * self.key_dim)]
        return keys, _frozen(key_columns(self._key_runs)[1])

    def memories(self, group_ids: Sequence[int] | None = None) -> Iterator[tuple[int, Memory]]:
        """(group id, memory) of every live group that has one, ids ascending; or of those among these groups, in their
        order. Raises UnknownIdError naming those that are not live.
        """
        groups, memory_ids = self.group_ids, self._groups[3]
        if group_ids is not None:
            asked = np.asarray(group_ids, np.int64)
            at = np.searchsorted(groups, asked)
            known = at < len(groups)
            known[known] = groups[at[known]] == asked[known]
            if not known.all():
                raise UnknownIdError("group", sorted(set(asked[~known].tolist())))
            groups, memory_ids = asked, memory_ids[at]
        having = memory_ids != 0
        yield from zip(groups[having].tolist(), load_memories(self.path, memory_ids[having]), strict=True)

    def _open_shards(self) -> dict[tuple[ArrayName, int], Shard]:
        if self._closed:
            raise ClosedError(f"{self.path}: the snapshot of commit {self.commit} is closed")
        return self._shards

    @cached_property
    def _groups(self) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
        """Of each live group, ids ascending: its id, mode, activation and memory."""
        ids, modes, activations, memory_ids = group_columns(self._group_runs)
        return _frozen(ids), modes, activations, _frozen(memory_ids)

    def _expert_index(self, expert_id: int) -> int:
        at = int(np.searchsorted(self.expert_ids, expert_id))
        if at == len(self.expert_ids) or self.expert_ids[at] != expert_id:
            raise UnknownIdError("expert", [expert_id])
        return at


def _frozen(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """The array, which nobody can write to from now on."""
    array.flags.writeable = False
    return array

"""A read-only view of a store as of one commit: what is live, where it lies, and the bytes themselves, checked.

A snapshot holds every shard of its commit open, so that files unlinked later stay readable, and compact arrays of ids
and rows. Texts of memories stay in the catalogue until asked for; a pin keeps them there. It holds no SQLite connection
and no lock that a writer would wait for, and may be used by several threads and by forked children.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import ClosedError, DamagedStoreError, ReadError, UnknownIdError
from mome_store.store.catalog import ACTIVATIONS, CATALOG_NAME, MODES, CatalogState, load_memories, load_state
from mome_store.store.memory import Memory
from mome_store.store.pins import Pin
from mome_store.store.record import decode_record, record_problem
from mome_store.store.runs import ExpertRun, GroupRun, expert_columns, group_columns, key_columns
from mome_store.store.schema import ExpertSchema
from mome_store.store.shard import MissingShardError, Shard, ShardInfo
from mome_store.store.zarr_metadata import ArrayName

_ATTEMPTS = 100  # a writer would have to commit within each of as many milliseconds


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

    Its bytes never change, whatever a writer does meanwhile, until `refresh` moves it to the newest commit.

    commit, time_us: the commit's number and when it was (microseconds since 1970).
    expert_runs: int64 [r, 5], the live experts as runs (ExpertRun), ids ascending.

    The arrays that name each expert, group or key are made when they are first asked for, and kept.
    """

    def __init__(self, directory: Path, known: CatalogState | None = None) -> None:
        """known: a state of the catalogue read before; it is used if it is still the newest."""
        self.path = directory
        self._closed = False
        self._show(*_open_newest(directory, known, {}))

    def refresh(self) -> bool:
        """Moves to the newest commit; False when it is there already.

        Arrays and bytes read before stay as they are. Not while other threads use the snapshot.
        Raises what taking a snapshot raises, and stays where it was.
        """
        held = self._open_shards()
        state, pin, shards = _open_newest(self.path, self._state, held)
        if state is self._state:
            pin.release()
            return False
        before = self._pin
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                self.__dict__.pop(name, None)
        self._show(state, pin, shards)
        before.release()
        for key, shard in held.items():
            if shards.get(key) is not shard:
                shard.close()
        return True

    def _show(self, state: CatalogState, pin: Pin, shards: dict[tuple[ArrayName, int], Shard]) -> None:
        layout = state.layout
        self._state = state
        self._pin = pin
        self._shards = shards
        self.commit = state.commit.id
        self.time_us = state.commit.time_us
        self.schema: ExpertSchema = layout.schema
        self.key_dim = layout.key_dim
        self.rows_per_shard = layout.rows_per_shard
        self.base_model = layout.base_model
        self.encoder = layout.encoder
        self._meta = state.meta
        self.expert_runs = _frozen(_by_column(state.experts, ExpertRun._fields.index("id")))
        self._runs_by_group = _by_column(state.experts, ExpertRun._fields.index("group_id"))
        self._group_runs = state.groups
        self._key_runs = state.keys

    def close(self) -> None:
        """Closes the shards' files. What was read before stays valid."""
        if not self._closed:
            self._closed = True
            self._pin.release()
            for shard in self._shards.values():
                shard.close()

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


def _open_newest(
    directory: Path, known: CatalogState | None, held: Mapping[tuple[ArrayName, int], Shard]
) -> tuple[CatalogState, Pin, dict[tuple[ArrayName, int], Shard]]:
    """The newest commit, pinned, with its shards open. known: the state of the snapshot that holds `held` open.

    A writer may compact at any moment: it may forget texts between the reading of the catalogue and the pin, and unlink
    shards until they are open. Either shows in a newer commit, and is begun again.
    """
    for _ in range(_ATTEMPTS):
        state = load_state(directory, known)
        pin = Pin(directory, state.commit.id)
        opened: dict[tuple[ArrayName, int], Shard] = {}
        try:
            known = load_state(directory, state)
            if known is state:
                for row in state.shards:
                    key = row.array, row.number
                    shard = held.get(key)
                    opened[key] = shard if shard and shard.row == row else Shard(directory, state.layout, row)
                return state, pin, opened
            _release(pin, opened, held)
        except BaseException as error:
            _release(pin, opened, held)
            if not isinstance(error, MissingShardError):
                raise
            known = load_state(directory, state)
            if known is state:
                raise
    raise ReadError(directory / CATALOG_NAME, 0, errno.EAGAIN)


def _release(
    pin: Pin, opened: Mapping[tuple[ArrayName, int], Shard], held: Mapping[tuple[ArrayName, int], Shard]
) -> None:
    pin.release()
    for key, shard in opened.items():
        if held.get(key) is not shard:
            shard.close()


def _by_column(runs: NDArray[np.int64], column: int) -> NDArray[np.int64]:
    """The runs with that column ascending; themselves, not a copy, where they are so."""
    ascending = (runs[1:, column] > runs[:-1, column]).all()
    return runs if ascending else runs[np.argsort(runs[:, column])]


def _frozen(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """The array, which nobody can write to from now on."""
    array.flags.writeable = False
    return array

"""One atomic change of a store. The commit protocol is here (docs/format.md has the reasons at length):

1. Records and keys are streamed into new shard files, while the catalogue's rows collect in SQLite's open transaction.
2. On commit each file gets its index and is fsynced: its bytes are on disk.
3. The directories that name the files are fsynced: its names are on disk.
4. `zarr.json` of each grown array is replaced: other Zarr readers may see the rows from now on; ours do not.
5. SQLite commits the rows that name the shards: the commit point. A crash before it leaves files that no row names,
   which the next writer removes; all that the catalogue names after it is durable already.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import MomeError, SchemaError, TransactionError, UnknownIdError
from mome_store.store.catalog import ACTIVATIONS, MODES, STORE_META, CommitRow
from mome_store.store.catalog_writer import CatalogWriter
from mome_store.store.checksum import canonical_json
from mome_store.store.files import FileOperations, replace_file, temporary_path
from mome_store.store.memory import Memory
from mome_store.store.record import ExpertBatch, Weights, all_finite, encode_record
from mome_store.store.shard import ArrayWriter
from mome_store.store.zarr_metadata import ZARR_JSON, ArrayName, StoreLayout, array_metadata, shard_path

_ENCODED_AT_ONCE = 4 << 20  # bytes of records; few enough to stay in the cache until they are written


class TransactionState(Enum):
    """OPEN → COMMITTED | ABANDONED | UNCLEAN (nothing is committed, but files may be left for recovery to remove)."""

    OPEN = "open"
    COMMITTED = "committed"
    ABANDONED = "abandoned"
    UNCLEAN = "unclean"


class Transaction:
    """Groups to add and to remove, all or none; `ExpertStore.transaction` makes it and ends it.

    A SchemaError or UnknownIdError from a method changes nothing, and the transaction goes on; any other error breaks
    it. A transaction that changes nothing makes no commit.
    """

    def __init__(self, directory: Path, layout: StoreLayout, catalog: CatalogWriter, files: FileOperations) -> None:
        self._directory = directory
        self._layout = layout
        self._catalog = catalog
        self._files = files
        self._changes = catalog.begin()
        before = self._changes.before
        self._next_group = before.next_group
        self._next_expert = before.next_expert
        self._next_memory = before.next_memory
        self._experts = ArrayWriter(files, directory, layout, "experts", before.next_experts_shard)
        self._keys = ArrayWriter(files, directory, layout, "keys", before.next_keys_shard)
        self.dropped: list[Path] = []  # files that may be unlinked once this is committed
        self._changed = False
        self._broken = False
        self._committing = False
        self.state = TransactionState.OPEN

    @property
    def next_group(self) -> int:
        """The id that the next group added will have."""
        return self._next_group

    @property
    def experts_retired(self) -> int:
        """How many experts it has retired so far."""
        return self._changes.experts_retired

    @property
    def commit(self) -> int:
        """The number that this transaction's commit has, or will have."""
        return self._changes.commit

    def add_group(
        self,
        experts: Sequence[Weights],
        keys: NDArray[np.float32] | None,
        memory: Memory | None = None,
        mode: str = "owned",
        activation: str = "answer",
    ) -> int:
        """Adds a group and returns its id.

        experts: at least one {module: (A [r, d_in], B [d_out, r])}; exactly one in mode "pool".
        keys: finite float32 [n, key_dim]; n >= 1 in mode "owned". None: the group is to have none on purpose. No
            question leads to it then, only a route that names its experts.
        Raises SchemaError where something does not fit the store.
        """
        records, key_bytes = self._prepare(experts, keys, memory, mode, activation)
        with self._change():
            return self._write_group(records, key_bytes, memory, mode, activation)

    def add_groups(
        self,
        experts: Weights,
        keys: NDArray[np.float32],
        memories: Sequence[Memory | None] | None = None,
        mode: str = "owned",
        activation: str = "answer",
    ) -> NDArray[np.int64]:
        """Adds n groups of one expert each and returns their ids, int64 [n].

        The files are those that `add_group`, called once for each, would write; this takes arrays and is much faster.
        All experts of one call have the same rank. The arguments are checked before anything is written and then
        encoded piece by piece, so no more memory is needed however large they are.

        experts: {module: (A [n, r, d_in], B [n, d_out, r])}. keys: finite float32 [n, key_dim], or [n, k, key_dim] for
        k keys a group; k >= 1 in mode "owned". memories: n of them, or None for none at all.
        Raises SchemaError where something does not fit the store.
        """
        self._check_open()
        keys = np.asarray(keys)
        shape = keys.shape
        if keys.ndim == 2:
            keys = keys[:, None]
        self._check_keys(keys, shape, "[n, {0}] or [n, k, {0}]", mode)
        count = len(keys)
        if memories is not None and len(memories) != count:
            raise SchemaError(f"there must be one memory (or None) for each of {count} groups, found {len(memories)}")
        _check_settings(mode, activation, memories or ())
        batch = ExpertBatch.of_many(self._layout.schema, experts, count)
        group_ids = np.arange(self._next_group, self._next_group + count, dtype=np.int64)
        if count:
            with self._change():
                self._write_groups(batch, keys, memories, mode, activation)
        return group_ids

    def remove_group(self, group_id: int) -> None:
        """Retires a group with its experts and keys. Raises UnknownIdError when there is no such group."""
        self._check_open()
        with self._change():
            self._retire(group_id)

    def replace_group(
        self,
        group_id: int,
        experts: Sequence[Weights],
        keys: NDArray[np.float32] | None,
        memory: Memory | None = None,
        mode: str = "owned",
        activation: str = "answer",
    ) -> int:
        """Removes a group and adds another, as one step; returns the new group's id. Arguments as of `add_group`."""
        records, key_bytes = self._prepare(experts, keys, memory, mode, activation)
        with self._change():
            self._retire(group_id)
            return self._write_group(records, key_bytes, memory, mode, activation)

    def set_meta(self, name: str, value: object) -> None:
        """Remembers `value` (JSON-able) under `name` with the store, in the place of what was there."""
        self._check_open()
        if not isinstance(name, str) or name == STORE_META:
            raise SchemaError(f"{name!r} can't be the name of a meta value")
        try:
            canonical_json([name, value]).encode("utf-8")
        except (TypeError, ValueError) as error:
            raise SchemaError(f"the value of {name!r} can't be told in JSON: {error}") from error
        with self._change():
            self._changes.set_meta(name, value)

    def move(self, array: ArrayName, groups: NDArray[np.int64], rows: Iterable[NDArray[np.uint8]]) -> None:
        """Compaction's change: puts the rows of live groups into shards of their own, in this order.

        groups: their runs, as runs.spelled_out gives them. rows: the bytes of their rows in the same order, in pieces.
        """
        self._check_open()
        with self._change():
            writer = self._experts if array == "experts" else self._keys
            writer.end_shard()
            first = min([writer.append(piece).start for piece in rows])
            self._changes.move(array, groups, first, self._layout.rows_per_shard)
            if array == "experts":
                self._changes.join_groups(int(groups[:, -3].min()), int(groups[:, -3].max()))

    def drop_shards(self, array: ArrayName, numbers: Sequence[int]) -> None:
        """Compaction's change: these shards, in which nothing is live any more, go with what was retired in them."""
        self._check_open()
        with self._change():
            self._changes.drop_shards(array, numbers, self._layout.rows_per_shard)
            self.dropped += [shard_path(self._directory, array, number) for number in numbers]

    def forget_groups(self, seen_until: int) -> int:
        """Compaction's change: see CatalogChanges."""
        self._check_open()
        self._broken = True
        forgotten, changed = self._changes.forget_groups(seen_until)
        self._broken = False
        self._changed |= changed
        return forgotten

    def finish(self) -> None:
        """Commits: steps 2 to 5 of the protocol."""
        self._check_open()
        if not self._changed:
            self._catalog.rollback()
            self.state = TransactionState.ABANDONED
            return
        for writer in (self._experts, self._keys):
            shards = writer.finish()
            self._changes.add_shards(shards)
            if shards:
                rows = shards[-1].number * self._layout.rows_per_shard + shards[-1].rows
                path = self._directory / writer.array / ZARR_JSON
                replace_file(self._files, path, array_metadata(self._layout, writer.array, rows))
        self._committing = True
        row = CommitRow(
            self.commit,
            time.time_ns() // 1000,
            self._next_group,
            self._next_expert,
            self._next_memory,
            self._experts.next_shard,
            self._keys.next_shard,
        )
        self._catalog.commit(self._changes, row)
        self.state = TransactionState.COMMITTED

    def abandon(self, error: BaseException) -> None:
        """Undoes everything, because of `error`; a failure to do so becomes a note on it."""
        if self.state is not TransactionState.OPEN:
            return
        self.state = TransactionState.UNCLEAN
        try:
            self._catalog.rollback()
            if self._committing:
                # Ctrl-C may have come after SQLite committed. If not, the COMMIT failed, and its frames may still be
                # in the WAL: the files must stay until recovery has sealed the catalogue.
                if self._catalog.newest_commit() == self.commit:
                    self.state = TransactionState.COMMITTED
                return
            for writer in (self._experts, self._keys):
                writer.abandon()
                self._files.unlink(temporary_path(self._directory / writer.array / ZARR_JSON))
            self.state = TransactionState.ABANDONED
        except (MomeError, OSError) as failure:
            error.add_note(f"undoing the transaction failed too ({failure}); the next one removes what is left")

    def _check_open(self) -> None:
        if self.state is not TransactionState.OPEN:
            raise TransactionError(f"the transaction is over ({self.state.value})")
        if self._broken:
            raise TransactionError("an earlier error broke the transaction; nothing of it will be committed")

    @contextmanager
    def _change(self) -> Iterator[None]:
        self._broken = True
        try:
            yield
        except UnknownIdError:
            self._broken = False
            raise
        self._broken = False
        self._changed = True

    def _prepare(
        self,
        experts: Sequence[Weights],
        keys: NDArray[np.float32] | None,
        memory: Memory | None,
        mode: str,
        activation: str,
    ) -> tuple[list[bytes], NDArray[np.uint8]]:
        """Checks a group and gives its experts' records and its keys' bytes. Changes nothing."""
        self._check_open()
        _check_settings(mode, activation, (memory,))
        if isinstance(experts, Mapping) or not len(experts):
            raise SchemaError("experts must be a list of at least one {module: (A, B)}")
        if mode == "pool" and len(experts) != 1:
            raise SchemaError(f"a group of a pool has exactly one expert, found {len(experts)}")
        if keys is None:
            keys = np.empty((0, self._layout.key_dim), np.float32)
        else:
            keys = np.asarray(keys)
            self._check_keys(keys[None], keys.shape, "[n, {0}]", mode)
        schema = self._layout.schema
        records = [
            encode_record(schema, weights, self._next_expert + i, self._next_group, self.commit)
            for i, weights in enumerate(experts)
        ]
        return records, _bytes_of(keys)

    def _check_keys(self, keys: NDArray[Any], given: tuple[int, ...], expected: str, mode: str) -> None:
        """keys: must be finite float32 [groups, keys of each, key_dim]. given, expected: shapes to tell the caller."""
        width = self._layout.key_dim
        if keys.dtype != np.float32 or keys.ndim != 3 or keys.shape[2] != width:
            raise SchemaError(f"keys must be float32 {expected.format(width)}, found {keys.dtype} {list(given)}")
        if mode == "owned" and not keys.shape[1]:
            raise SchemaError("a group in mode 'owned' needs at least one key, or nothing would ever find it")
        if not all_finite(keys, keys.dtype):
            raise SchemaError("keys must be finite")

    def _write_group(
        self, records: list[bytes], keys: NDArray[np.uint8], memory: Memory | None, mode: str, activation: str
    ) -> int:
        group_id, first_expert = self._next_group, self._next_expert
        self._next_group += 1
        self._next_expert += len(records)
        rows = [self._experts.append(np.frombuffer(record, np.uint8))[0] for record in records]
        key_rows = self._keys.append(keys)
        self._changes.add_experts(rows[0], first_expert, group_id, groups=1, per_group=len(records))
        self._changes.add_keys(key_rows.start, group_id, groups=1, per_group=len(key_rows))
        self._changes.add_groups(group_id, 1, mode, activation, self._add_memory(memory))
        return group_id

    def _write_groups(
        self,
        batch: ExpertBatch,
        keys: NDArray[np.float32],
        memories: Sequence[Memory | None] | None,
        mode: str,
        activation: str,
    ) -> None:
        """keys: [n, k, key_dim]."""
        count, first_group, first_expert = batch.count, self._next_group, self._next_expert
        self._next_group += count
        self._next_expert += count
        at_once = max(1, _ENCODED_AT_ONCE // self._layout.schema.record_bytes)
        shape = 2, min(at_once, count), self._layout.schema.record_bytes
        buffers = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)  # on pages, for direct writes

        def encode(start: int) -> NDArray[np.uint8]:
            records = buffers[start // at_once % 2, : count - start]
            batch.encode(start, records, first_expert + start, first_group + start, self.commit)
            return records.reshape(-1)

        rows, key_rows = [], []
        with ThreadPoolExecutor(2) as beside:  # one piece ahead of the disk; all file operations stay in this thread
            encoded = beside.submit(encode, 0)
            for start in range(0, count, at_once):
                records = encoded.result()
                if start + at_once < count:
                    encoded = beside.submit(encode, start + at_once)
                rows.append(self._experts.append(records, beside).start)
                key_rows.append(self._keys.append(_bytes_of(keys[start : start + at_once])).start)
        self._changes.add_experts(rows[0], first_expert, first_group, groups=count, per_group=1)
        self._changes.add_keys(key_rows[0], first_group, groups=count, per_group=keys.shape[1])
        if memories is None:
            self._changes.add_groups(first_group, count, mode, activation, 0)
        else:
            for group_id, memory in enumerate(memories, first_group):
                self._changes.add_groups(group_id, 1, mode, activation, self._add_memory(memory))

    def _add_memory(self, memory: Memory | None) -> int:
        """Its id; 0 for none."""
        if memory is None:
            return 0
        self._changes.add_memory(self._next_memory, memory)
        self._next_memory += 1
        return self._next_memory - 1

    def _retire(self, group_id: int) -> None:
        if not self._changes.retire_group(group_id):
            raise UnknownIdError("group", [group_id])


def _check_settings(mode: str, activation: str, memories: Iterable[Memory | None]) -> None:
    if mode not in MODES:
        raise SchemaError(f"mode must be one of {', '.join(MODES)}, found {mode!r}")
    if activation not in ACTIVATIONS:
        raise SchemaError(f"activation must be one of {', '.join(ACTIVATIONS)}, found {activation!r}")
    for memory in memories:
        if memory is not None and not isinstance(memory, Memory):
            raise SchemaError(f"memory must be a Memory or None, found {type(memory).__name__}")


def _bytes_of(keys: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(keys, dtype="<f4").reshape(-1).view(np.uint8)

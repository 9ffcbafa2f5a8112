"""A store on disk: create it, open it for reading or as its one writer, change it, take snapshots of it.

A handle is for one thread at a time. A writer refuses to be used in a forked child: SQLite's connection does not
survive a fork, and parent and child share the flock. Reading handles and snapshots may cross a fork.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from mome_store.errors import (
    ClosedError,
    DamagedStoreError,
    SchemaError,
    StoreNotFoundError,
    StoreReadOnlyError,
)
from mome_store.store.catalog import CATALOG_NAME, CatalogState, load_state
from mome_store.store.checksum import canonical_json
from mome_store.store.co_use import Usage
from mome_store.store.compaction import (
    CompactionReport,
    Progress,
)
from mome_store.store.creation import create_store, is_unfinished
from mome_store.store.files import FileOperations
from mome_store.store.lock import WriterLock
from mome_store.store.schema import ExpertSchema
from mome_store.store.snapshot import Snapshot
from mome_store.store.transaction import Transaction, TransactionState
from mome_store.store.writer import GarbageReport, StoreWriter
from mome_store.store.zarr_metadata import (
    ARRAYS,
    ZARR_JSON,
    StoreLayout,
    metadata_problems,
    read_attributes,
)

MAX_ROWS_PER_SHARD = 1 << 20


class ExpertStore:
    """A store of experts. Make one with `create` or `open`, and close it (or use it as a context manager).

    path: where it lies. schema, key_dim, rows_per_shard, base_model, encoder: as given to `create`.
    """

    def __init__(
        self,
        directory: Path,
        layout: StoreLayout,
        writer: StoreWriter | None,
        state: CatalogState | None = None,
        automatic_compaction: bool = True,
    ) -> None:
        """state: what was read while opening; the first snapshot makes use of it."""
        self.path = directory
        self.schema: ExpertSchema = layout.schema
        self.key_dim = layout.key_dim
        self.rows_per_shard = layout.rows_per_shard
        self.base_model = layout.base_model
        self.encoder = layout.encoder
        self.mode = "r" if writer is None else "r+"
        self._writer = writer
        self._state = state
        self._automatic_compaction = automatic_compaction
        self._closed = False

    @classmethod
    def create(
        cls,
        path: Path | str,
        schema: ExpertSchema,
        key_dim: int,
        base_model: Mapping[str, Any] | None = None,
        encoder: Mapping[str, Any] | None = None,
        rows_per_shard: int = 4096,
        *,
        automatic_compaction: bool = True,
        files: FileOperations | None = None,
    ) -> ExpertStore:
        """Makes an empty store and opens it for writing.

        key_dim: width of a key. base_model, encoder: JSON-able descriptions that the store remembers.
        rows_per_shard: the most rows in one shard file; each file costs 16 bytes of index per possible row.
        automatic_compaction: see `open`.
        files: the file operations of the writer; tests put a faulty one here.
        Raises StoreExistsError where the path holds anything.
        """
        for name, value, limit in (
            ("key_dim", key_dim, 1 << 20),
            ("rows_per_shard", rows_per_shard, MAX_ROWS_PER_SHARD),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
                raise SchemaError(f"{name} must be an integer from 1 to {limit}, found {value!r}")
        directory = Path(path)
        files = files or FileOperations()
        layout = StoreLayout(
            schema,
            key_dim,
            rows_per_shard,
            _json("base_model", base_model),
            _json("encoder", encoder),
            id=uuid4().hex,
        )
        lock = create_store(directory, layout, files)
        try:
            writer = StoreWriter(directory, layout, lock, files)
            return cls(directory, layout, writer, automatic_compaction=automatic_compaction)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(
        cls,
        path: Path | str,
        mode: str = "r",
        *,
        automatic_compaction: bool = True,
        files: FileOperations | None = None,
    ) -> ExpertStore:
        """Opens a store: mode "r" to read, "r+" as its one writer, which also removes what a crashed writer left.

        automatic_compaction: merge shards after a commit when small ones pile up, or more experts are dead than alive.
        files: the file operations of the writer; tests put a faulty one here.
        Raises StoreNotFoundError, FormatVersionError, DamagedStoreError, and for "r+" StoreLockedError and
        StoreReadOnlyError.
        """
        if mode not in ("r", "r+"):
            raise ValueError(f"mode must be 'r' or 'r+', found {mode!r}")
        directory = Path(path)
        attributes = find_store(directory)
        if mode == "r":
            state = _checked_state(directory, attributes)
            return cls(directory, state.layout, None, state)
        for written in (directory, *(directory / array / "c" for array in ARRAYS)):
            if written.exists() and not os.access(written, os.W_OK | os.X_OK):
                raise StoreReadOnlyError(f"{written}: can't be written; open with mode='r'")
        lock = WriterLock(directory)
        try:
            state = _checked_state(directory, attributes)
            writer = StoreWriter(directory, state.layout, lock, files or FileOperations())
            return cls(directory, state.layout, writer, state, automatic_compaction)
        except BaseException:
            lock.release()
            raise

    def snapshot(self) -> Snapshot:
        """A view of the newest commit. Every shard is opened and checked: damage raises DamagedStoreError."""
        if self._closed:
            raise ClosedError(f"{self.path}: the store is closed")
        known, self._state = self._state, None  # it may be large, and a second snapshot mostly is of another commit
        return Snapshot(self.path, known)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A change of the store: commits when the block ends, leaves nothing when it raises.

        Raises StoreReadOnlyError for a store opened with mode "r", WriteError where the disk is full.
        """
        writer = self._writing()
        with writer.transaction() as transaction:
            yield transaction
        if self._automatic_compaction and transaction.state is TransactionState.COMMITTED:
            writer.compact_when_due(transaction.experts_retired)

    def compact(
        self,
        usage: Usage | None = None,
        max_rate: float | None = None,
        on_progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> CompactionReport:
        """Merges small shards, drops dead rows, and forgets the texts of groups that were removed.

        Snapshots read on undisturbed. What was removed can't be brought back afterwards.

        usage: what was used together, such as a `mome_store.runtime.Trace`: experts used together get neighbouring
        rows. max_rate: bytes to move a second, at most. should_stop: asked between commits; what is done by then stays,
        and the next compaction goes on from there.
        Raises DamagedStoreError for a record or a shard of keys that is damaged, WriteError where the disk is full;
        commits made by then stay.
        """
        return self._writing().compact(usage, max_rate, on_progress, should_stop)

    def collect_garbage(self) -> GarbageReport:
        """Gives back what nobody can need any more: files that no commit names, texts that waited for a reader.

        Opening a store for writing removes such files as well; the report counts them.
        """
        return self._writing().collect_garbage()

    def _writing(self) -> StoreWriter:
        if self._closed:
            raise ClosedError(f"{self.path}: the store is closed")
        if self._writer is None:
            raise StoreReadOnlyError(f"{self.path}: the store is open for reading; open it with mode='r+'")
        return self._writer

    def close(self) -> None:
        """Gives up the writer lock, abandoning an open transaction. Snapshots taken before stay valid."""
        if not self._closed:
            self._closed = True
            if self._writer is not None:
                self._writer.close()

    def __enter__(self) -> ExpertStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_store(directory: Path) -> dict[str, Any]:
    """The attributes of the store that is at `directory`.

    Raises StoreNotFoundError, FormatVersionError, and DamagedStoreError where there is a store without its `zarr.json`.
    """
    try:
        return read_attributes(directory)
    except StoreNotFoundError:
        if (directory / CATALOG_NAME).exists() and not is_unfinished(directory):
            raise DamagedStoreError(
                ZARR_JSON, None, None, "is missing or tells of no store, yet there is a catalogue"
            ) from None
        raise


def _checked_state(directory: Path, attributes: Mapping[str, Any]) -> CatalogState:
    """The newest commit's state, once the three `zarr.json` agree with it."""
    state = load_state(directory)
    for file, problem in metadata_problems(directory, attributes, state.layout, state.rows()):
        raise DamagedStoreError(file, None, None, problem)
    return state


def _json(name: str, value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`value` as it will come back from disk."""
    if value is None:
        return None
    try:
        if not isinstance(value, Mapping):
            raise TypeError(f"expected a mapping, found {type(value).__name__}")
        result: dict[str, Any] = json.loads(canonical_json(dict(value)).encode("utf-8"))
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{name} can't be told in JSON: {error}") from error
    return result

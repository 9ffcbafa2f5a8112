"""A store on disk: create it, open it for reading or as its one writer, change it, take snapshots of it.

A handle is for one thread at a time. A writer refuses to be used in a forked child: SQLite's connection does not
survive a fork, and parent and child share the flock. Reading handles and snapshots may cross a fork.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from mome_store.errors import (
    ClosedError,
    DamagedStoreError,
    SchemaError,
    StoreNotFoundError,
    StoreReadOnlyError,
    TransactionError,
)
from mome_store.store.catalog import CATALOG_NAME, CatalogState, CatalogWriter, load_state
from mome_store.store.checksum import canonical_json
from mome_store.store.creation import create_store, is_unfinished
from mome_store.store.files import FileOperations, temporary_path, writing
from mome_store.store.lock import WriterLock
from mome_store.store.schema import ExpertSchema
from mome_store.store.shard import remove_shard
from mome_store.store.snapshot import Snapshot
from mome_store.store.transaction import Transaction, TransactionState
from mome_store.store.zarr_metadata import (
    ARRAYS,
    ZARR_JSON,
    StoreLayout,
    metadata_problems,
    read_attributes,
    shard_path,
)

MAX_ROWS_PER_SHARD = 1 << 20


class ExpertStore:
    """A store of experts. Make one with `create` or `open`, and close it (or use it as a context manager).

    path: where it lies. schema, key_dim, rows_per_shard, base_model, encoder: as given to `create`.
    """

    def __init__(
        self, directory: Path, layout: StoreLayout, writer: _Writer | None, state: CatalogState | None = None
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
        files: FileOperations | None = None,
    ) -> ExpertStore:
        """Makes an empty store and opens it for writing.

        key_dim: width of a key. base_model, encoder: JSON-able descriptions that the store remembers.
        rows_per_shard: the most rows in one shard file; each file costs 16 bytes of index per possible row.
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
            schema, key_dim, rows_per_shard, _json("base_model", base_model), _json("encoder", encoder)
        )
        lock = create_store(directory, layout, files)
        try:
            return cls(directory, layout, _Writer(directory, layout, lock, files))
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path | str, mode: str = "r", *, files: FileOperations | None = None) -> ExpertStore:
        """Opens a store: mode "r" to read, "r+" as its one writer, which also removes what a crashed writer left.

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
            writer = _Writer(directory, state.layout, lock, files or FileOperations())
            return cls(directory, state.layout, writer, state)
        except BaseException:
            lock.release()
            raise

    def snapshot(self) -> Snapshot:
        """A view of the newest commit. Every shard is opened and checked: damage raises DamagedStoreError."""
        if self._closed:
            raise ClosedError(f"{self.path}: the store is closed")
        known, self._state = self._state, None  # it may be large, and a second snapshot mostly is of another commit
        return Snapshot(self.path, load_state(self.path, known))

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A change of the store: commits when the block ends, leaves nothing when it raises.

        Raises StoreReadOnlyError for a store opened with mode "r", WriteError where the disk is full.
        """
        if self._closed:
            raise ClosedError(f"{self.path}: the store is closed")
        if self._writer is None:
            raise StoreReadOnlyError(f"{self.path}: the store is open for reading; open it with mode='r+'")
        transaction = self._writer.begin()
        try:
            yield transaction
            transaction.finish()
        except BaseException as error:
            transaction.abandon(error)
            raise

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


class _Writer:
    """What only the writing handle has: the lock, the catalogue's connection, and the transaction under way."""

    def __init__(self, directory: Path, layout: StoreLayout, lock: WriterLock, files: FileOperations) -> None:
        self._directory = directory
        self._layout = layout
        self._lock = lock
        self._files = files
        self._process = os.getpid()
        self._last: Transaction | None = None
        self._catalog = CatalogWriter(directory)
        try:
            self._recover()
        except BaseException:
            self._catalog.close()
            raise

    def begin(self) -> Transaction:
        if os.getpid() != self._process:
            raise TransactionError(
                f"{self._directory}: the writer belongs to process {self._process}; a forked child must open its own"
            )
        if self._last is not None and self._last.state is TransactionState.OPEN:
            raise TransactionError(f"{self._directory}: a transaction is under way already; end it first")
        if self._last is not None and self._last.state is TransactionState.UNCLEAN:
            self._recover()
        self._last = Transaction(self._directory, self._layout, self._catalog, self._files)
        return self._last

    def close(self) -> None:
        if os.getpid() == self._process:
            if self._last is not None:
                self._last.abandon(TransactionError("the store was closed"))
            self._catalog.close()
        self._lock.release()

    def _recover(self) -> None:
        """Removes files that no row of the catalogue names: what a crash or a failed undo left."""
        self._catalog.rollback()
        temporary = [temporary_path(self._directory / ZARR_JSON)]
        shards: list[Path] = []
        for array in ARRAYS:
            temporary.append(temporary_path(self._directory / array / ZARR_JSON))
            named = self._catalog.shard_numbers(array)
            shards_directory = self._directory / array / "c"
            with writing(shards_directory):
                if not shards_directory.exists():  # tools that copy may drop empty directories
                    self._files.make_directory(shards_directory)
                names = os.listdir(shards_directory)
            numbers = (int(name) for name in names if name.isascii() and name.isdecimal() and str(int(name)) == name)
            shards += [shard_path(self._directory, array, number) for number in numbers if number not in named]
        leftovers = [path for path in temporary if path.exists()]
        if shards or leftovers:
            self._catalog.seal()
            for path in shards:
                remove_shard(self._files, path)
            for path in leftovers:
                with writing(path):
                    self._files.unlink(path)


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

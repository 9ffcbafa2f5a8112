"""A store on disk: create it, open it for reading or as its one writer, change it, take snapshots of it.

A handle is for one thread at a time. A writer refuses to be used in a forked child: SQLite's connection does not
survive a fork, and parent and child share the flock. Reading handles and snapshots may cross a fork.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from mome_store.errors import (
    ClosedError,
    DamagedStoreError,
    MomeError,
    SchemaError,
    StoreNotFoundError,
    StoreReadOnlyError,
    StoreWarning,
    TransactionError,
)
from mome_store.store.catalog import CATALOG_NAME, CatalogState, CatalogWriter, load_state
from mome_store.store.checksum import canonical_json
from mome_store.store.co_use import Usage
from mome_store.store.compaction import (
    Chunk,
    CompactionReport,
    Pace,
    Progress,
    RowSource,
    crowded,
    empty_shards,
    plan,
    plan_dead,
    plan_small,
    steps,
)
from mome_store.store.creation import create_store, is_unfinished
from mome_store.store.files import FileOperations, temporary_path, writing
from mome_store.store.lock import WriterLock
from mome_store.store.pins import oldest_pin
from mome_store.store.schema import ExpertSchema
from mome_store.store.shard import remove_shard
from mome_store.store.snapshot import Snapshot
from mome_store.store.transaction import Transaction, TransactionState
from mome_store.store.zarr_metadata import (
    ARRAYS,
    INDEX_FOLDER,
    ZARR_JSON,
    ArrayName,
    StoreLayout,
    metadata_problems,
    read_attributes,
    shard_path,
)

MAX_ROWS_PER_SHARD = 1 << 20


@dataclass(frozen=True)
class GarbageReport:
    """What a garbage collection gave back: files (and their bytes), and groups whose texts went."""

    files: int
    bytes: int
    groups_forgotten: int


class ExpertStore:
    """A store of experts. Make one with `create` or `open`, and close it (or use it as a context manager).

    path: where it lies. schema, key_dim, rows_per_shard, base_model, encoder: as given to `create`.
    """

    def __init__(
        self,
        directory: Path,
        layout: StoreLayout,
        writer: _Writer | None,
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
            writer = _Writer(directory, layout, lock, files)
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
            writer = _Writer(directory, state.layout, lock, files or FileOperations())
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
        return self._writing().compact(plan(self._newest(), usage), max_rate, on_progress, should_stop)

    def collect_garbage(self) -> GarbageReport:
        """Gives back what nobody can need any more: files that no commit names, texts that waited for a reader.

        Opening a store for writing removes such files as well; the report counts them.
        """
        return self._writing().collect_garbage()

    def _newest(self) -> CatalogState:
        return load_state(self.path)

    def _writing(self) -> _Writer:
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


class _Writer:
    """What only the writing handle has: the lock, the catalogue's connection, and the transaction under way."""

    def __init__(self, directory: Path, layout: StoreLayout, lock: WriterLock, files: FileOperations) -> None:
        self._directory = directory
        self._layout = layout
        self._lock = lock
        self._files = files
        self._process = os.getpid()
        self._last: Transaction | None = None
        self._unclean = False  # files are left for recovery to remove
        self._removed = (0, 0)  # files and bytes that recovery has removed and no report has told of
        self._dead: int | None = None  # experts retired and not compacted away; None: not counted
        self._catalog = CatalogWriter(directory)
        try:
            self._catalog.check_indexes()
            self._recover()
        except BaseException:
            self._catalog.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        transaction = self._begin()
        try:
            yield transaction
            transaction.finish()
        except BaseException as error:
            transaction.abandon(error)
            raise
        if transaction.dropped:
            self._sweep(transaction.dropped)

    def compact(
        self,
        chunks: Sequence[Chunk],
        max_rate: float | None = None,
        on_progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> CompactionReport:
        before = load_state(self._directory)
        pace = Pace(sum(chunk.bytes(self._layout) for chunk in chunks), max_rate, on_progress)
        moved: list[Chunk] = []
        dropped: set[tuple[ArrayName, int]] = set()
        forgotten = 0
        stopped = False
        todo = list(steps(chunks, self._layout)) or [[]]  # one at least, for what needs no moving
        for number, step in enumerate(todo, 1):
            if should_stop is not None and should_stop():
                stopped = True
                break
            moved += step
            with self.transaction() as transaction, RowSource(self._directory, before, pace) as source:
                for chunk in step:
                    transaction.move(chunk.array, chunk.groups, source.pieces(chunk))
                for array in ARRAYS:
                    empty = [n for n in empty_shards(before, array, moved) if (array, n) not in dropped]
                    if empty:
                        transaction.drop_shards(array, empty)
                        dropped.update((array, shard) for shard in empty)
                if number == len(todo):
                    forgotten = transaction.forget_groups(oldest_pin(self._directory, transaction.commit - 1))
        if any(array == "keys" for array, _ in dropped):
            self._drop_index()
        self._catalog.release_space()
        after = load_state(self._directory)
        return CompactionReport(
            bytes_before=sum(shard.bytes for shard in before.shards),
            bytes_after=sum(shard.bytes for shard in after.shards),
            shards_before=len(before.shards),
            shards_after=len(after.shards),
            bytes_moved=pace.moved,
            groups_forgotten=forgotten,
            complete=not stopped,
        )

    def compact_when_due(self, experts_retired: int) -> None:
        """What compaction there is to do of itself after a commit. The commit stands whatever becomes of it."""
        try:
            self._count_dead(experts_retired)
            sizes = {array: self._catalog.shard_sizes(array) for array in ARRAYS}
            rows = sum(count for _, count in sizes["experts"])
            if self._dead is not None and self._dead >= self._layout.rows_per_shard and 2 * self._dead > rows:
                self._dead = None
                self.compact(plan_dead(load_state(self._directory)))
            elif any(crowded(found, self._layout.rows_per_shard) for found in sizes.values()):
                self._dead = None
                self.compact(plan_small(load_state(self._directory)))
        except (MomeError, OSError) as error:
            warnings.warn(
                f"{self._directory}: small shards could not be merged after the commit, which stands: {error}",
                StoreWarning,
                stacklevel=4,
            )

    def collect_garbage(self) -> GarbageReport:
        self._check_process()
        self._recover()
        (files, size), self._removed = self._removed, (0, 0)
        with self.transaction() as transaction:
            forgotten = transaction.forget_groups(oldest_pin(self._directory, transaction.commit - 1))
        self._catalog.release_space()
        return GarbageReport(files, size, forgotten)

    def _begin(self) -> Transaction:
        self._check_process()
        if self._last is not None and self._last.state is TransactionState.OPEN:
            raise TransactionError(f"{self._directory}: a transaction is under way already; end it first")
        if self._last is not None and self._last.state is TransactionState.UNCLEAN:
            self._recover()
        elif self._unclean:
            with suppress(MomeError, OSError):  # only space is lost as long as it fails
                self._recover()
        self._last = Transaction(self._directory, self._layout, self._catalog, self._files)
        return self._last

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise TransactionError(
                f"{self._directory}: the writer belongs to process {self._process}; a forked child must open its own"
            )

    def _count_dead(self, retired: int) -> None:
        """Keeps up how many experts are dead, once any was retired: counting costs what the catalogue has of runs."""
        if self._dead is not None:
            self._dead += retired
        elif retired:
            self._dead = self._catalog.count_retired("experts")

    def _sweep(self, paths: Sequence[Path]) -> None:
        """Unlinks shards that are no more; what can't be is left to the next transaction's recovery."""
        try:
            for path in paths:
                remove_shard(self._files, path)
        except (MomeError, OSError) as error:
            self._unclean = True
            warnings.warn(f"{error}; the next transaction tries again", StoreWarning, stacklevel=5)

    def _drop_index(self) -> None:
        """The router's cache holds the keys of groups that are gone."""
        folder = self._directory / INDEX_FOLDER
        with writing(folder):
            for path in sorted(folder.glob("*")) if folder.is_dir() else ():
                self._files.unlink(path)

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
        size = sum(path.stat().st_size for path in (*shards, *leftovers) if path.exists())
        if shards or leftovers:
            self._catalog.seal()
            for path in shards:
                remove_shard(self._files, path)
            for path in leftovers:
                with writing(path):
                    self._files.unlink(path)
        files, removed = self._removed
        self._removed = files + len(shards) + len(leftovers), removed + size
        self._unclean = False


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

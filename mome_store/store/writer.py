"""The one writer of a store: its lock, the catalogue's connection, the transaction under way, what follows a commit.

After a commit come the unlinking of what it dropped, and compaction that is due by itself. Both may fail without
touching the commit, which stands; what is left to do is done later, and a warning says so.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mome_store.errors import MomeError, StoreWarning, TransactionError
from mome_store.store.catalog import ShardContents, load_state
from mome_store.store.catalog_writer import CatalogWriter
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
from mome_store.store.files import FileOperations, temporary_path, writing
from mome_store.store.lock import WriterLock
from mome_store.store.pins import oldest_pin
from mome_store.store.shard import remove_shard
from mome_store.store.transaction import Transaction, TransactionState
from mome_store.store.zarr_metadata import ARRAYS, INDEX_FOLDER, ZARR_JSON, ArrayName, StoreLayout, shard_path


@dataclass(frozen=True)
class GarbageReport:
    """What a garbage collection gave back: files (and their bytes), and groups whose texts went."""

    files: int
    bytes: int
    groups_forgotten: int


class StoreWriter:
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
        usage: Usage | None = None,
        max_rate: float | None = None,
        on_progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> CompactionReport:
        shards, size = self._catalog.shard_totals()
        contents = load_state(self._directory)
        chunks = plan(contents, usage)
        pace = Pace(sum(chunk.bytes(self._layout) for chunk in chunks), max_rate, on_progress)
        forgotten, complete = self._compact(contents, chunks, pace, should_stop)
        shards_after, size_after = self._catalog.shard_totals()
        return CompactionReport(
            bytes_before=size,
            bytes_after=size_after,
            shards_before=shards,
            shards_after=shards_after,
            bytes_moved=pace.moved,
            groups_forgotten=forgotten,
            complete=complete,
        )

    def compact_when_due(self, experts_retired: int) -> None:
        """What compaction there is to do of itself after a commit. The commit stands whatever becomes of it.

        Merging small shards looks at these alone, so that it costs what they hold, not what the store does.
        """
        try:
            self._count_dead(experts_retired)
            sizes = {array: self._catalog.shard_sizes(array) for array in ARRAYS}
            rows = sum(count for _, count in sizes["experts"])
            small = {array: crowded(found, self._layout.rows_per_shard) for array, found in sizes.items()}
            if self._dead is not None and self._dead >= self._layout.rows_per_shard and 2 * self._dead > rows:
                self._dead = None
                state = load_state(self._directory)
                self._compact(state, plan_dead(state))
            elif any(small.values()):
                self._dead = None
                contents = self._catalog.contents(self._layout, small) or load_state(self._directory)
                self._compact(contents, plan_small(contents))
        except (MomeError, OSError) as error:
            warnings.warn(
                f"{self._directory}: small shards could not be merged after the commit, which stands: {error}",
                StoreWarning,
                stacklevel=4,
            )

    def _compact(
        self,
        contents: ShardContents,
        chunks: Sequence[Chunk],
        pace: Pace | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> tuple[int, bool]:
        """Moves the chunks, drops the shards of `contents` in which nothing is left, and forgets what can be.

        Returns how many groups' texts went, and False where it was stopped before its end.
        """
        pace = pace or Pace()
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
            with self.transaction() as transaction, RowSource(self._directory, contents, pace) as source:
                for chunk in step:
                    transaction.move(chunk.array, chunk.groups, source.pieces(chunk))
                for array in ARRAYS:
                    empty = [n for n in empty_shards(contents, array, moved) if (array, n) not in dropped]
                    if empty:
                        transaction.drop_shards(array, empty)
                        dropped.update((array, shard) for shard in empty)
                if number == len(todo):
                    forgotten = transaction.forget_groups(oldest_pin(self._directory, transaction.commit - 1))
        if any(array == "keys" for array, _ in dropped):
            self._drop_index()
        self._catalog.release_space()
        return forgotten, not stopped

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

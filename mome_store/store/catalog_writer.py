"""The writer's connection to the catalogue: how it is made, and SQLite's transactions on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import DamagedStoreError
from mome_store.store import sqlite_access
from mome_store.store.catalog import (
    CATALOG_NAME,
    CREATE,
    STORE_META,
    CommitRow,
    ShardContents,
    newest_commit,
    runs_in_shards,
    table_rows,
)
from mome_store.store.catalog_changes import CatalogChanges, write_version
from mome_store.store.runs import counted, spelled_out, within
from mome_store.store.shard import ShardRow
from mome_store.store.zarr_metadata import ARRAYS, ArrayName, StoreLayout

_PAGES = ("freelist_count", "page_count")
_FREE_SHARE = 0.25  # of the catalogue's pages; below it, rewriting the file costs more than it gives back


def create_catalog(directory: Path, layout: StoreLayout, time_us: int) -> None:
    """Makes the catalogue with commit 0, which holds nothing but the layout."""
    # Ids start at 1: a zeroed record, Zarr's fill value, is nobody's.
    first = CommitRow(0, time_us, next_group=1, next_expert=1, next_memory=1, next_experts_shard=0, next_keys_shard=0)
    write_catalog(directory / CATALOG_NAME, first, lambda changes: changes.set_meta(STORE_META, layout.to_json()))


def write_catalog(path: Path, commit: CommitRow, fill: Callable[[CatalogChanges], None]) -> None:
    """Makes a catalogue of one commit, which holds what `fill` puts in."""
    with closing(sqlite_access.open_writer(path, create=True)) as connection, sqlite_access.translated(path):
        connection.execute("BEGIN IMMEDIATE")
        for statement in CREATE:
            connection.execute(statement)
        changes = CatalogChanges(connection, commit, commit.id, digest=0)
        fill(changes)
        changes.write_commit(commit)
        connection.execute("COMMIT")


class CatalogWriter:
    """The writer's connection to the catalogue."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CATALOG_NAME
        self._connection = sqlite_access.open_writer(self._path)

    def begin(self) -> CatalogChanges:
        """Opens SQLite's write transaction on top of the newest commit."""
        self.rollback()  # of one that Ctrl-C kept from reaching its owner
        with sqlite_access.translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            newest, digest = newest_commit(self._connection)
            return CatalogChanges(self._connection, newest, newest.id + 1, digest - newest.digest())

    def commit(self, changes: CatalogChanges, row: CommitRow) -> None:
        """The commit point: once this returns, the commit is durable."""
        with sqlite_access.translated(self._path):
            changes.write_commit(row)
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        with sqlite_access.translated(self._path):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def newest_commit(self) -> int:
        with sqlite_access.translated(self._path):
            return newest_commit(self._connection)[0].id

    def seal(self) -> None:
        """Makes what this connection sees the truth for good.

        A COMMIT that failed may have left a whole commit in the WAL, which a crash would bring to life. Writing
        anything durable on top of the state that we see overwrites it; only then may the files that it names go.
        """
        with sqlite_access.translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            write_version(self._connection, newest_commit(self._connection)[0].id)
            self._connection.execute("COMMIT")

    def release_space(self) -> None:
        """Gives the pages of deleted rows back to the disk: those of the file when they are many, and the WAL.

        Leaves the WAL to the last connection that closes, where a reader is in the way.
        """
        with sqlite_access.translated(self._path):
            free, pages = (self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _PAGES)
            if free > _FREE_SHARE * pages:
                self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def shard_numbers(self, array: ArrayName) -> set[int]:
        """The shards that any commit names."""
        with sqlite_access.translated(self._path):
            rows = self._connection.execute("SELECT number FROM shards WHERE array = ?", (ARRAYS.index(array),))
            return {row[0] for row in rows}

    def shard_sizes(self, array: ArrayName) -> list[tuple[int, int]]:
        """(number, rows) of every shard of the newest commit."""
        with sqlite_access.translated(self._path):
            where = "array = ? AND retired IS NULL"
            return self._connection.execute(
                f"SELECT number, rows FROM shards WHERE {where}", (ARRAYS.index(array),)
            ).fetchall()

    def shard_totals(self) -> tuple[int, int]:
        """How many shards the newest commit has, and their bytes."""
        with sqlite_access.translated(self._path):
            totals = "SELECT count(*), coalesce(sum(bytes), 0) FROM shards WHERE retired IS NULL"
            count, size = self._connection.execute(totals).fetchone()
            return count, size

    def contents(self, layout: StoreLayout, numbers: Mapping[ArrayName, set[int]]) -> ShardContents | None:
        """What is in these shards of each array, and in those that a live group of theirs reaches into, and so on.

        Reads what the catalogue says of these and no more, whatever the store holds. No digest covers that, so where it
        does not account for each of their rows, the answer is None.
        """
        shards: list[ShardRow] = []
        live: dict[ArrayName, NDArray[np.int64]] = {}
        with sqlite_access.translated(self._path):
            for array in ARRAYS:
                reached, live[array], dead = self._reached(array, numbers[array], layout.rows_per_shard)
                where = "WHERE array = ? AND retired IS NULL AND number BETWEEN ? AND ?"
                between = (ARRAYS.index(array), min(reached, default=0), max(reached, default=-1))
                rows = table_rows(self._connection, "shards", where, between).tolist()
                found = [ShardRow(array, *row[1:]) for row in rows if row[1] in reached]
                if not _accounted(found, reached, np.concatenate((live[array], dead)), layout.rows_per_shard):
                    return None
                shards += found
        return ShardContents(layout, tuple(shards), live["experts"], live["keys"])

    def _reached(
        self, array: ArrayName, numbers: set[int], rows_per_shard: int
    ) -> tuple[set[int], NDArray[np.int64], NDArray[np.int64]]:
        """The shards of `contents`, the runs of the live groups in them, one for each, and the runs of retired ones."""
        reached: set[int] = set()
        fresh = numbers
        groups = spelled_out(self._runs_in(array, set(), rows_per_shard, live=True))
        while fresh:
            reached |= fresh
            found = spelled_out(self._runs_in(array, fresh, rows_per_shard, live=True))
            first, last = found[:, 0] // rows_per_shard, (found[:, 0] + found[:, -1] - 1) // rows_per_shard
            asked = np.fromiter(fresh, np.int64)
            inside = np.isin(first, asked) | np.isin(last, asked)
            groups = np.concatenate((groups, found[inside]))
            fresh = set(np.concatenate((first[inside], last[inside])).tolist()) - reached
        groups = groups[np.unique(groups[:, 0], return_index=True)[1]]
        return reached, groups, self._runs_in(array, reached, rows_per_shard, live=False)

    def _runs_in(self, array: ArrayName, numbers: set[int], rows_per_shard: int, live: bool) -> NDArray[np.int64]:
        """Live or retired ones, but for what lies before the first shard and behind the last."""
        start, end = min(numbers, default=0) * rows_per_shard, (max(numbers, default=0) + 1) * rows_per_shard
        runs = runs_in_shards(self._connection, array, numbers, rows_per_shard)
        return within(runs[(runs[:, -1] == 0) == live, :-2], start, end)

    def count_retired(self, array: ArrayName) -> int:
        """How many rows of an array are in its shards and no longer live."""
        with sqlite_access.translated(self._path):
            count = f"SELECT coalesce(sum(groups * per_group), 0) FROM {array} WHERE retired IS NOT NULL"
            return int(self._connection.execute(count).fetchone()[0])

    def check_indexes(self) -> None:
        """Raises DamagedStoreError unless the indexes by group say what the tables say.

        Only a writer uses them, and no checksum covers them: they would lead it to cut the wrong run.
        """
        with sqlite_access.translated(self._path):
            for table in ("experts", "keys"):
                by_index, by_row = (
                    self._connection.execute(
                        f"SELECT group_id, row FROM {table} {how} WHERE retired IS NULL"
                    ).fetchall()
                    for how in (f"INDEXED BY {table}_by_group", "NOT INDEXED")
                )
                if by_index != sorted(by_row):
                    raise DamagedStoreError(
                        CATALOG_NAME, None, None, f"the index of {table} by group differs from the table"
                    )

    def close(self) -> None:
        """Copies the WAL into the file and removes it, unless a reader is in the way."""
        self._connection.close()


def _accounted(shards: Sequence[ShardRow], numbers: set[int], runs: NDArray[np.int64], rows_per_shard: int) -> bool:
    """Whether these are the shards `numbers`, and each row in them belongs to just one run."""
    rows = counted(runs[:, 0], runs[:, -2] * runs[:, -1])
    rows = rows[np.isin(rows // rows_per_shard, np.fromiter(numbers, np.int64))]
    named = {shard.number for shard in shards}
    return named == numbers and len(np.unique(rows)) == len(rows) == sum(shard.rows for shard in shards)

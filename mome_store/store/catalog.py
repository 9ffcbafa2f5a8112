"""The catalogue: the SQLite file that says what is live. All SQL of the store is here (remains.py reads damaged ones).

Every row that can come and go says in which commit it came (`created`) and went (`retired`, NULL while it is live), so
that the state as of any commit can be read. `commits.digest` is the sum of the hashes of all rows live as of it
(checksum.rows_digest); a reader recomputes it, so damage to a row never passes for data. The rows of `groups`,
`experts` and `keys` are runs (runs.py).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import astuple, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import DamagedStoreError, FormatVersionError, SchemaError
from mome_store.store import sqlite_access
from mome_store.store.checksum import canonical_json, rows_digest, signed, text_crc
from mome_store.store.memory import Memory
from mome_store.store.runs import ExpertRun, GroupRun, KeyRun, Run, joined, packed, spelled_out, without
from mome_store.store.shard import ShardRow
from mome_store.store.zarr_metadata import ARRAYS, FORMAT_VERSION, ArrayName, StoreLayout

CATALOG_NAME = "catalog.sqlite"
STORE_META = "store"  # the name of the meta row that holds the StoreLayout

# Codes, by position. Their order is part of the format.
MODES = ("owned", "pool")
ACTIVATIONS = ("answer", "all")

_CREATE = (
    """CREATE TABLE commits (
        id INTEGER PRIMARY KEY, time_us INTEGER NOT NULL, next_group INTEGER NOT NULL, next_expert INTEGER NOT NULL,
        next_memory INTEGER NOT NULL, next_experts_shard INTEGER NOT NULL, next_keys_shard INTEGER NOT NULL,
        digest INTEGER NOT NULL) STRICT""",
    """CREATE TABLE shards (
        array INTEGER NOT NULL, number INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
        index_crc INTEGER NOT NULL, content_crc INTEGER NOT NULL, created INTEGER NOT NULL, retired INTEGER,
        PRIMARY KEY (array, number)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE groups (
        id INTEGER PRIMARY KEY, groups INTEGER NOT NULL, mode INTEGER NOT NULL, activation INTEGER NOT NULL,
        memory INTEGER NOT NULL, created INTEGER NOT NULL, retired INTEGER) STRICT""",
    """CREATE TABLE experts (
        row INTEGER PRIMARY KEY, id INTEGER NOT NULL, group_id INTEGER NOT NULL, groups INTEGER NOT NULL,
        per_group INTEGER NOT NULL, created INTEGER NOT NULL, retired INTEGER) STRICT""",
    "CREATE INDEX experts_by_group ON experts (group_id) WHERE retired IS NULL",
    """CREATE TABLE keys (
        row INTEGER PRIMARY KEY, group_id INTEGER NOT NULL, groups INTEGER NOT NULL, per_group INTEGER NOT NULL,
        created INTEGER NOT NULL, retired INTEGER) STRICT""",
    "CREATE INDEX keys_by_group ON keys (group_id) WHERE retired IS NULL",
    """CREATE TABLE memories (
        id INTEGER PRIMARY KEY, name TEXT, question TEXT NOT NULL, paraphrases TEXT NOT NULL, answer TEXT NOT NULL,
        status TEXT NOT NULL, nll REAL, tuned_at TEXT, crc INTEGER NOT NULL) STRICT""",
    """CREATE TABLE meta (
        name TEXT NOT NULL, value TEXT NOT NULL, created INTEGER NOT NULL, retired INTEGER,
        PRIMARY KEY (name, created)) STRICT, WITHOUT ROWID""",
)
# The columns that the digest covers. The code that buffers rows and the code that loads them both follow this order.
_COLUMNS = {
    "shards": ("array", "number", "rows", "bytes", "index_crc", "content_crc"),
    "groups": GroupRun._fields,
    "experts": ExpertRun._fields,
    "keys": KeyRun._fields,
}
_LIVE = "created <= :commit AND (retired IS NULL OR retired > :commit)"
_FLUSH_ROWS = 4096
_PAGES = ("freelist_count", "page_count")
_FREE_SHARE = 0.25  # of the catalogue's pages; below it, rewriting the file costs more than it gives back


@dataclass(frozen=True)
class CommitRow:
    """A commit: its number, when it was (microseconds since 1970), and the ids and shard numbers that come next.

    None of them is ever used twice.
    """

    id: int
    time_us: int
    next_group: int
    next_expert: int
    next_memory: int
    next_experts_shard: int
    next_keys_shard: int

    def digest(self) -> int:
        return rows_digest("commits", [[value] for value in astuple(self)])


@dataclass(frozen=True)
class CatalogState:
    """Everything live as of one commit, memories excepted.

    The arrays are the tables' runs, int64, with the columns of those; runs.py has what makes groups, experts and keys
    of them.
    """

    commit: CommitRow
    digest: int
    layout: StoreLayout
    meta: Mapping[str, str]
    shards: tuple[ShardRow, ...]
    groups: NDArray[np.int64]  # [., 5], id ascending
    experts: NDArray[np.int64]  # [., 5], row ascending
    keys: NDArray[np.int64]  # [., 4], row ascending

    def rows(self) -> dict[ArrayName, int]:
        """How many rows each Zarr array must have to hold this commit's shards."""
        rows: dict[ArrayName, int] = dict.fromkeys(ARRAYS, 0)
        for shard in self.shards:
            rows[shard.array] = max(rows[shard.array], shard.number * self.layout.rows_per_shard + shard.rows)
        return rows


def load_state(directory: Path, known: CatalogState | None = None) -> CatalogState:
    """The newest commit's state, read in one transaction. Raises DamagedStoreError where it does not add up.

    known: a state read before, which is returned when there has been no commit since.
    """
    return sqlite_access.read(directory / CATALOG_NAME, partial(_load_state, directory, known))


def load_memories(directory: Path, ids: NDArray[np.int64]) -> Iterator[Memory]:
    """The memories with these ids, in this order, a thousand in memory at a time.

    Their rows never change, so pages read one after the other are consistent.
    """
    for start in range(0, len(ids), 1000):
        page = ids[start : start + 1000].tolist()
        yield from sqlite_access.read(directory / CATALOG_NAME, partial(_load_memories, page))


def count_retired(directory: Path, array: ArrayName, commit: int) -> int:
    """How many rows of an array were live before `commit` and are not as of it."""

    def query(connection: sqlite3.Connection) -> int:
        count = f"SELECT coalesce(sum(groups * per_group), 0) FROM {array} WHERE retired <= ?"
        return int(connection.execute(count, (commit,)).fetchone()[0])

    return sqlite_access.read(directory / CATALOG_NAME, query)


def load_commits(directory: Path) -> NDArray[np.int64]:
    """int64 [n, 4]: of every commit its id, when it was (microseconds since 1970), and the next free group and expert
    id after it. Ids ascending; a commit added the groups and experts from the numbers of the one before on.
    """

    def query(connection: sqlite3.Connection) -> NDArray[np.int64]:
        cursor = connection.execute("SELECT id, time_us, next_group, next_expert FROM commits ORDER BY id")
        return _matrix(cursor, 4)

    return sqlite_access.read(directory / CATALOG_NAME, query)


def integrity_problems(directory: Path) -> list[str]:
    """What SQLite itself finds wrong with the file's structure, and what it would put up with.

    A column of another name, for one: not every reader would fall over it.
    """

    def query(connection: sqlite3.Connection) -> list[str]:
        problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        with closing(sqlite3.connect(":memory:")) as fresh:
            for statement in _CREATE:
                fresh.execute(statement)
            changed = _definitions(fresh) - _definitions(connection)
        problems += [f"the definition of {kind} {name} is missing or changed" for kind, name, *_ in sorted(changed)]
        if (directory / CATALOG_NAME).stat().st_size % connection.execute("PRAGMA page_size").fetchone()[0]:
            problems.append("the file ends within a page")  # SQLite takes what is missing for zeros
        return problems

    return sqlite_access.read(directory / CATALOG_NAME, query)


def _definitions(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    """Type, name, table and SQL, but for blanks, of all that the database defines."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return {tuple(" ".join(str(value).split()) for value in row) for row in rows}


def create_catalog(directory: Path, layout: StoreLayout, time_us: int) -> None:
    """Makes the catalogue with commit 0, which holds nothing but the layout."""
    # Ids start at 1: a zeroed record, Zarr's fill value, is nobody's.
    first = CommitRow(0, time_us, next_group=1, next_expert=1, next_memory=1, next_experts_shard=0, next_keys_shard=0)
    write_catalog(directory / CATALOG_NAME, first, lambda changes: changes.set_meta(STORE_META, layout.to_json()))


def write_catalog(path: Path, commit: CommitRow, fill: Callable[[CatalogChanges], None]) -> None:
    """Makes a catalogue of one commit, which holds what `fill` puts in."""
    with closing(sqlite_access.open_writer(path, create=True)) as connection, sqlite_access.translated(path):
        connection.execute("BEGIN IMMEDIATE")
        for statement in _CREATE:
            connection.execute(statement)
        changes = CatalogChanges(connection, commit, commit.id, digest=0)
        fill(changes)
        changes.write_commit(commit)
        connection.execute("COMMIT")


def memory_problems(directory: Path, ids: NDArray[np.int64]) -> Iterator[str]:
    """What is wrong with each of these memories that can't be read or does not match its checksum."""
    for start in range(0, len(ids), 1000):
        page = ids[start : start + 1000].tolist()
        try:
            found = sqlite_access.read(directory / CATALOG_NAME, partial(_memory_rows, page))
        except DamagedStoreError as error:
            if len(page) == 1:
                yield f"memory {page[0]}: {error.problem}"
            else:  # one bad page of the file must not condemn all
                for i in range(start, start + len(page)):
                    yield from memory_problems(directory, ids[i : i + 1])
        else:
            yield from filter(None, (_memory_problem(memory_id, found.get(memory_id)) for memory_id in page))


def has_commit(directory: Path, commit: int, time_us: int) -> bool:
    """Whether there was a commit of this number at this time."""

    def query(connection: sqlite3.Connection) -> bool:
        found = connection.execute("SELECT 1 FROM commits WHERE id = ? AND time_us = ?", (commit, time_us))
        return found.fetchone() is not None

    return sqlite_access.read(directory / CATALOG_NAME, query)


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
            newest, digest = _newest(self._connection)
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
            return _newest(self._connection)[0].id

    def seal(self) -> None:
        """Makes what this connection sees the truth for good.

        A COMMIT that failed may have left a whole commit in the WAL, which a crash would bring to life. Writing
        anything durable on top of the state that we see overwrites it; only then may the files that it names go.
        """
        with sqlite_access.translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            _write_version(self._connection, _newest(self._connection)[0].id)
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


class CatalogChanges:
    """What one commit changes, written into SQLite's open transaction. Rows are buffered and digested in bulk.

    before: the newest commit; commit: the number of the one being made; digest: of the rows live before.
    """

    def __init__(self, connection: sqlite3.Connection, before: CommitRow, commit: int, digest: int) -> None:
        self.before = before
        self.commit = commit
        self._connection = connection
        self.experts_retired = 0
        self._digest = digest
        self._pending: dict[str, list[Any]] = {table: [] for table in _COLUMNS}
        self._memories: list[tuple[object, ...]] = []
        self._cut: dict[str, list[Any]] = {table: [] for table in _COLUMNS}  # runs that went: not yet in the digest
        self._left: dict[str, list[Any]] = {table: [] for table in _COLUMNS}  # what is left of them: likewise

    def add_groups(self, group_id: int, groups: int, mode: str, activation: str, memory_id: int) -> None:
        """`groups` of them; the arguments are those of the first (memory_id 0: none has a memory)."""
        self._add_run("groups", GroupRun(group_id, groups, MODES.index(mode), ACTIVATIONS.index(activation), memory_id))

    def add_experts(self, row: int, expert_id: int, group_id: int, groups: int, per_group: int) -> None:
        """Of `groups` groups, `per_group` each; the other arguments are those of the first."""
        self._add_run("experts", ExpertRun(row, expert_id, group_id, groups, per_group))

    def add_keys(self, row: int, group_id: int, groups: int, per_group: int) -> None:
        """Of `groups` groups, `per_group` each; the other arguments are those of the first."""
        if per_group:
            self._add_run("keys", KeyRun(row, group_id, groups, per_group))

    def add_shards(self, shards: Iterable[ShardRow]) -> None:
        self._pending["shards"] += ((ARRAYS.index(shard.array), *astuple(shard)[1:]) for shard in shards)

    def add_memory(self, memory_id: int, memory: Memory) -> None:
        fields = (memory.id, memory.question, canonical_json(memory.paraphrases), memory.answer)
        fields_and_result = (memory_id, *fields, memory.status, memory.nll, memory.tuned_at)
        self._memories.append((*fields_and_result, _memory_crc(fields_and_result)))
        if len(self._memories) >= _FLUSH_ROWS:
            self._flush()

    def retire_group(self, group_id: int) -> bool:
        """Retires a group with its experts and keys; False when no live group has this id."""
        self._flush()
        with self._translated():
            if not self._retire("groups", GroupRun, group_id):
                return False
            if not self._retire("experts", ExpertRun, group_id):
                raise DamagedStoreError(CATALOG_NAME, None, None, f"the experts of group {group_id} can't be found")
            self._retire("keys", KeyRun, group_id)
        return True

    def keep_keys(self, group_id: int, first_row: int, count: int) -> None:
        """Leaves a live group with those of its keys that are in `count` rows from `first_row` on."""
        self._flush()
        with self._translated():
            self._retire("keys", KeyRun, group_id)
            where = "FROM keys WHERE group_id = ? AND retired = ?", (group_id, self.commit)
            ((row, keys, created),) = self._connection.execute(f"SELECT row, per_group, created {where[0]}", where[1])
            self._connection.execute(f"DELETE {where[0]}", where[1])
            for start, end in ((row, first_row), (first_row + count, row + keys)):
                if start < end:
                    self._insert("keys", [KeyRun(start, group_id, 1, end - start)], created, self.commit)
        self.add_keys(first_row, group_id, 1, count)

    def drop_memory(self, group: GroupRun) -> None:
        """Leaves a live group, given as a run of one, without its memory."""
        self._flush()
        with self._translated():
            self._retire("groups", GroupRun, group.id)
            self._connection.execute("DELETE FROM groups WHERE id = ? AND retired = ?", (group.id, self.commit))
        self._add_run("groups", group._replace(memory=0))

    def replace_shard(self, before: ShardRow, after: ShardRow) -> None:
        """Says that another file is in the place of a live shard."""
        for sign, row in ((-1, before), (1, after)):
            self._digest += sign * rows_digest(
                "shards", [[ARRAYS.index(row.array)], *([value] for value in astuple(row)[1:])]
            )
        with self._translated():
            self._connection.execute(
                "UPDATE shards SET rows = ?, bytes = ?, index_crc = ?, content_crc = ? WHERE array = ? AND number = ?",
                (*astuple(after)[2:], ARRAYS.index(before.array), before.number),
            )

    def _retire(self, table: str, kind: type[Run], group_id: int) -> bool:
        """Cuts a group out of its live run; False when it is in none."""
        # The last run that starts at or before the group is the only one that can hold it. Groups keep their place in
        # their table for good; of experts and keys only live runs are ordered so, and the index has just those.
        first, live = ("id", "") if table == "groups" else ("group_id", "retired IS NULL AND")
        found = self._connection.execute(
            f"SELECT * FROM {table} WHERE {live} {first} <= ? ORDER BY {first} DESC LIMIT 1", (group_id,)
        ).fetchone()
        if found is None or found[-1] is not None:
            return False
        run, created = kind(*found[:-2]), found[-2]
        position = group_id - found[_COLUMNS[table].index(first)]
        if position >= run.groups:
            return False
        self._connection.execute(f"DELETE FROM {table} WHERE {_COLUMNS[table][0]} = ?", run[:1])
        parts = without(run, position)
        self._insert(table, parts, created, None)
        gone = run.part(position, 1)
        self._insert(table, [gone], created, self.commit)
        if isinstance(gone, ExpertRun):
            self.experts_retired += gone.per_group
        self._cut[table].append(run)
        self._left[table] += parts
        if len(self._cut[table]) >= _FLUSH_ROWS:
            self._digest_cuts()
        return True

    def _digest_cuts(self) -> None:
        for table, width in ((table, len(columns)) for table, columns in _COLUMNS.items()):
            self._digest -= rows_digest(table, list(_matrix(self._cut[table], width).T))
            self._digest += rows_digest(table, list(_matrix(self._left[table], width).T))
            self._cut[table].clear()
            self._left[table].clear()

    def _insert(self, table: str, rows: Sequence[tuple[int, ...]], created: int, retired: int | None) -> None:
        marks = ", ".join("?" * (len(_COLUMNS[table]) + 2))
        self._connection.executemany(
            f"INSERT INTO {table} VALUES ({marks})", ((*row, created, retired) for row in rows)
        )

    def _insert_live(self, table: str, runs: NDArray[np.int64], created: NDArray[np.int64]) -> None:
        marks = ", ".join("?" * len(_COLUMNS[table]))
        rows = np.column_stack((runs, created)).tolist()
        self._connection.executemany(f"INSERT INTO {table} VALUES ({marks}, ?, NULL)", rows)

    def set_meta(self, name: str, value: object) -> None:
        """Puts `value` (JSON-able) in the place of what `name` held."""
        text = canonical_json(value)
        held = "WHERE name = ? AND retired IS NULL"
        with self._translated():
            for row in self._connection.execute(f"SELECT name, value FROM meta {held}", (name,)).fetchall():
                self._digest -= _meta_digest([row])
            self._connection.execute(f"UPDATE meta SET retired = ? {held}", (self.commit, name))
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?, NULL)", (name, text, self.commit))
        self._digest += _meta_digest([(name, text)])

    def move(self, table: ArrayName, groups: NDArray[np.int64], row: int) -> None:
        """The rows of these live groups are in new places: one after the other, from `row` on.

        groups: runs of one group each, as runs.spelled_out gives them, in the order of their new places.
        """
        self._flush()
        columns = ", ".join(_COLUMNS[table])
        with self._translated():
            found = self._connection.execute(f"SELECT {columns}, created FROM {table} WHERE retired IS NULL")
            live = _matrix(found, len(_COLUMNS[table]) + 1)
            live = live[np.argsort(live[:, -4])]  # by group
            held = np.searchsorted(live[:, -4], groups[:, -3], "right") - 1
            touched = live[np.unique(held)]
            cut, since = touched[:, :-1], touched[:, -1]
            each = spelled_out(cut)
            source = np.repeat(np.arange(len(cut)), cut[:, -2])
            stays = ~np.isin(each[:, -3], groups[:, -3])
            left, first = packed(each[stays], source[stays])
            moved = groups.copy()
            moved[:, 0] = row + np.cumsum(groups[:, -1]) - groups[:, -1]
            moved, _ = packed(moved)
            self._connection.executemany(f"DELETE FROM {table} WHERE row = ?", cut[:, :1].tolist())
            self._insert_live(table, left, since[source[stays][first]])
            self._insert_live(table, moved, np.full(len(moved), self.commit))
        for sign, rows in ((-1, cut), (1, left), (1, moved)):
            self._digest += sign * rows_digest(table, list(rows.T))

    def drop_shards(self, array: ArrayName, numbers: Sequence[int], rows_per_shard: int) -> None:
        """These shards, in which no row is live, are no more, and neither are the retired rows in them."""
        self._flush()
        width = len(_COLUMNS["shards"])
        with self._translated():
            for number in numbers:
                where = (ARRAYS.index(array), number)
                shard = _table(self._connection, "shards", "WHERE array = ? AND number = ?", where)
                self._digest -= rows_digest("shards", list(shard.reshape(-1, width).T))
                self._connection.execute("DELETE FROM shards WHERE array = ? AND number = ?", where)
                self._forget_rows(array, number * rows_per_shard, (number + 1) * rows_per_shard)

    def _forget_rows(self, table: ArrayName, start: int, end: int) -> None:
        """Deletes what is retired in rows `start` to `end` - 1. A retired run is of one group, so it can be cut."""
        found = self._connection.execute(
            f"SELECT * FROM {table} WHERE retired IS NOT NULL AND row >= ? AND row < ? UNION ALL SELECT * FROM "
            f"(SELECT * FROM {table} WHERE retired IS NOT NULL AND row < ? ORDER BY row DESC LIMIT 1)",
            (start, end, start),
        ).fetchall()
        for *run, created, retired in found:
            first, last = run[0], run[0] + run[-1]
            if last <= start:
                continue
            self._connection.execute(f"DELETE FROM {table} WHERE row = ?", (first,))
            for kept_from, kept_to in ((first, min(last, start)), (max(first, end), last)):
                if kept_from < kept_to:
                    places = [value + kept_from - first for value in run[:-3]]
                    self._insert(table, [(*places, run[-3], 1, kept_to - kept_from)], created, retired)

    def forget_groups(self, seen_until: int) -> tuple[int, bool]:
        """Deletes the texts of groups that are gone: retired, no record of theirs in a shard, and in no snapshot.

        seen_until: the oldest commit that a snapshot holds; the groups retired by then are in none. Returns how many
        there were, and whether anything changed: values of meta that were replaced go as well.
        """
        self._flush()
        before = self._connection.total_changes
        gone = "retired IS NOT NULL AND retired <= ?"
        with self._translated():
            runs = self._connection.execute(f"SELECT id, groups, memory FROM groups WHERE {gone}", (seen_until,))
            found = _matrix(runs, 3)
            held = self._connection.execute("SELECT group_id, groups FROM experts WHERE retired IS NOT NULL")
            still = _matrix(held, 2)[:, 0]  # retired runs are of one group each
            found = found[~np.isin(found[:, 0], still)]
            memories = ((memory, memory + groups - 1) for _, groups, memory in found.tolist() if memory)
            self._connection.executemany("DELETE FROM memories WHERE id BETWEEN ? AND ?", memories)
            self._connection.executemany("DELETE FROM groups WHERE id = ?", ((run,) for run in found[:, 0].tolist()))
            self._connection.execute("DELETE FROM meta WHERE retired IS NOT NULL")
        return int(found[:, 1].sum()), self._connection.total_changes > before

    def write_commit(self, row: CommitRow) -> None:
        self._flush()
        self._digest_cuts()
        with self._translated():
            digest = signed(self._digest + row.digest())
            self._connection.execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*astuple(row), digest))
            _write_version(self._connection, row.id)

    def _add_run(self, table: str, run: Run) -> None:
        pending = self._pending[table]
        whole = joined(pending[-1], run) if pending else None
        if whole is None:
            pending.append(run)
        else:
            pending[-1] = whole
        if len(pending) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        with self._translated():
            for table, rows in self._pending.items():
                if rows:
                    self._insert(table, rows, self.commit, None)
                    self._digest += rows_digest(table, list(_matrix(rows, len(_COLUMNS[table])).T))
                    rows.clear()
            if self._memories:
                self._connection.executemany("INSERT INTO memories VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._memories)
                self._memories.clear()

    def _translated(self) -> AbstractContextManager[None]:
        return sqlite_access.translated(Path(CATALOG_NAME))


def _newest(connection: sqlite3.Connection) -> tuple[CommitRow, int]:
    """The newest commit and its digest.

    Its number is kept a second time in the file's header (`user_version`), since damage to the page that holds
    `commits` could hide the last row and so pass an older state off as the newest.
    """
    row = connection.execute("SELECT * FROM commits ORDER BY id DESC LIMIT 1").fetchone()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if row is None or not all(isinstance(value, int) for value in row) or row[0] & 0x7FFFFFFF != version:
        raise DamagedStoreError(
            CATALOG_NAME, None, None, f"the newest commit is {row}, the file's header says {version}"
        )
    return CommitRow(*row[:-1]), row[-1]


def _write_version(connection: sqlite3.Connection, commit: int) -> None:
    connection.execute(f"PRAGMA user_version = {commit & 0x7FFFFFFF}")


def _check_room(rows: Mapping[str, NDArray[np.int64]]) -> None:
    """Lest runs that no writer makes be spelled out: there are no more experts and keys than rows in their shards."""
    shards = rows["shards"]
    for table, array in (("experts", "experts"), ("keys", "keys")):
        groups, per_group = rows[table][:, -2:].astype(np.float64).T
        room = shards[shards[:, 0] == ARRAYS.index(array), 2].sum()
        if (groups < 1).any() or (per_group < 1).any() or groups @ per_group > room:
            raise DamagedStoreError(CATALOG_NAME, None, None, f"it names more {table} than the shards have rows")
    groups = rows["groups"][:, 1].astype(np.float64)
    if (groups < 1).any() or groups.sum() > rows["experts"][:, -2].astype(np.float64).sum():
        raise DamagedStoreError(CATALOG_NAME, None, None, "it names more groups than have experts")


def _load_state(directory: Path, known: CatalogState | None, connection: sqlite3.Connection) -> CatalogState:
    try:
        newest, digest = _newest(connection)
        if known is not None and (known.commit, known.digest) == (newest, digest):
            return known
        at = {"commit": newest.id}
        meta = connection.execute(f"SELECT name, value FROM meta WHERE {_LIVE}", at).fetchall()
        rows = {table: _table(connection, table, f"WHERE {_LIVE}", at) for table in _COLUMNS}
        total = newest.digest() + _meta_digest(meta)
        total += sum(rows_digest(table, list(columns.T)) for table, columns in rows.items())
        if signed(total) != digest:
            raise DamagedStoreError(
                CATALOG_NAME, None, None, f"the rows of commit {newest.id} do not match its checksum"
            )
        _check_room(rows)
        layout = json.loads(dict(meta)[STORE_META])
        if layout["format"] != FORMAT_VERSION:
            raise FormatVersionError(directory / CATALOG_NAME, layout["format"], FORMAT_VERSION)
        return CatalogState(
            commit=newest,
            digest=digest,
            layout=StoreLayout.from_json(layout),
            meta={name: value for name, value in meta if name != STORE_META},
            shards=tuple(ShardRow(ARRAYS[row[0]], *row[1:]) for row in rows["shards"].tolist()),
            groups=rows["groups"],
            experts=rows["experts"],
            keys=rows["keys"],
        )
    except (TypeError, ValueError, OverflowError, LookupError, SchemaError) as error:
        raise DamagedStoreError(CATALOG_NAME, None, None, f"a row is not what was written: {error!r}") from error


def _table(
    connection: sqlite3.Connection, table: str, where: str, parameters: Mapping[str, int] | Sequence[int]
) -> NDArray[np.int64]:
    """The digested columns of rows of `table`, int64 [rows, columns], in the order of its primary key."""
    columns = _COLUMNS[table]
    order = "array, number" if table == "shards" else columns[0]
    cursor = connection.execute(f"SELECT {', '.join(columns)} FROM {table} {where} ORDER BY {order}", parameters)
    return _matrix(cursor, len(columns))


def _matrix(rows: Iterable[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64).reshape(-1, width)


def _meta_digest(rows: Sequence[tuple[str, str]]) -> int:
    """Raises TypeError where damage has made something else than text of a name or value."""
    if not all(isinstance(text, str) for row in rows for text in row):
        raise TypeError("a name or value of meta is no text")
    return rows_digest("meta", [[text_crc(name) for name, _ in rows], [text_crc(value) for _, value in rows]])


def _memory_rows(ids: list[int], connection: sqlite3.Connection) -> dict[int, tuple[Any, ...]]:
    marks = ", ".join("?" * len(ids))
    return {row[0]: row for row in connection.execute(f"SELECT * FROM memories WHERE id IN ({marks})", ids)}


def _load_memories(ids: list[int], connection: sqlite3.Connection) -> list[Memory]:
    found = _memory_rows(ids, connection)
    memories = []
    for memory_id in ids:
        row = found.get(memory_id)
        problem = _memory_problem(memory_id, row)
        if row is None or problem is not None:
            raise DamagedStoreError(CATALOG_NAME, None, None, str(problem))
        memories.append(_memory(row))
    return memories


def _memory_problem(memory_id: int, row: Sequence[Any] | None) -> str | None:
    if row is None:
        return f"memory {memory_id} is missing"
    return None if _memory_crc(row[:-1]) == row[-1] else f"memory {memory_id} does not match its checksum"


def memory_of(row: Sequence[Any]) -> Memory | None:
    """The memory in a row of `memories`; None where it does not match its checksum."""
    return _memory(row) if _memory_crc(row[:-1]) == row[-1] else None


def _memory(row: Sequence[Any]) -> Memory:
    _, name, question, paraphrases, answer, status, nll, tuned_at, _ = row
    return Memory(question, answer, tuple(json.loads(paraphrases)), name, status, nll, tuned_at)


def _memory_crc(fields: Sequence[object]) -> int | None:
    """None where damage has made a field what no memory has: bytes, or a number that is none."""
    try:
        return text_crc(canonical_json(fields))
    except (TypeError, ValueError):
        return None

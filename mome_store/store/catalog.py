"""The catalogue: the SQLite file that says what is live. All SQL of the store is here (remains.py reads damaged ones).

Every row that can come and go says in which commit it came (`created`) and went (`retired`, NULL while it is live), so
that the state as of any commit can be read. `commits.digest` is the sum of the hashes of all rows live as of it
(checksum.rows_digest); a reader recomputes it, so damage to a row never passes for data. The rows of `groups`,
`experts` and `keys` are runs (runs.py).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
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
from mome_store.store.runs import ExpertRun, GroupRun, KeyRun
from mome_store.store.shard import ShardRow
from mome_store.store.zarr_metadata import ARRAYS, FORMAT_VERSION, ArrayName, StoreLayout

CATALOG_NAME = "catalog.sqlite"
STORE_META = "store"  # the name of the meta row that holds the StoreLayout

# Codes, by position. Their order is part of the format.
MODES = ("owned", "pool")
ACTIVATIONS = ("answer", "all")

CREATE = (
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
COLUMNS = {
    "shards": ("array", "number", "rows", "bytes", "index_crc", "content_crc"),
    "groups": GroupRun._fields,
    "experts": ExpertRun._fields,
    "keys": KeyRun._fields,
}
_LIVE = "created <= :commit AND (retired IS NULL OR retired > :commit)"


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
class ShardContents:
    """Some of a store's shards, and the groups that are live in them.

    The arrays are the tables' runs, int64, with the columns of those; runs.py has what makes groups, experts and keys
    of them.
    """

    layout: StoreLayout
    shards: tuple[ShardRow, ...]
    experts: NDArray[np.int64]  # [., 5], row ascending
    keys: NDArray[np.int64]  # [., 4], row ascending


@dataclass(frozen=True)
class CatalogState(ShardContents):
    """Everything live as of one commit, memories excepted."""

    commit: CommitRow
    digest: int
    meta: Mapping[str, str]
    groups: NDArray[np.int64]  # [., 5], id ascending

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
        return matrix(cursor, 4)

    return sqlite_access.read(directory / CATALOG_NAME, query)


def integrity_problems(directory: Path) -> list[str]:
    """What SQLite itself finds wrong with the file's structure, and what it would put up with.

    A column of another name, for one: not every reader would fall over it.
    """

    def query(connection: sqlite3.Connection) -> list[str]:
        problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        with closing(sqlite3.connect(":memory:")) as fresh:
            for statement in CREATE:
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


def newest_commit(connection: sqlite3.Connection) -> tuple[CommitRow, int]:
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
        newest, digest = newest_commit(connection)
        if known is not None and (known.commit, known.digest) == (newest, digest):
            return known
        at = {"commit": newest.id}
        meta = connection.execute(f"SELECT name, value FROM meta WHERE {_LIVE}", at).fetchall()
        rows = {table: table_rows(connection, table, f"WHERE {_LIVE}", at) for table in COLUMNS}
        total = newest.digest() + meta_digest(meta)
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


def table_rows(
    connection: sqlite3.Connection, table: str, where: str, parameters: Mapping[str, int] | Sequence[int]
) -> NDArray[np.int64]:
    """The digested columns of rows of `table`, int64 [rows, columns], in the order of its primary key."""
    columns = COLUMNS[table]
    order = "array, number" if table == "shards" else columns[0]
    cursor = connection.execute(f"SELECT {', '.join(columns)} FROM {table} {where} ORDER BY {order}", parameters)
    return matrix(cursor, len(columns))


def runs_in_shards(
    connection: sqlite3.Connection, table: ArrayName, numbers: Iterable[int], rows_per_shard: int
) -> NDArray[np.int64]:
    """The runs with rows in these shards, live and retired; no more of the table is read. int64 [n, c + 2].

    Rows ascending; the last two columns are `created` and `retired` (0: live). Raises DamagedStoreError for what is no
    run.
    """
    # No two runs have a row in common, so of those that begin before `start` only the last can reach it.
    query = f"""SELECT {", ".join(COLUMNS[table])}, created, coalesce(retired, 0) FROM {table} WHERE row < :end
        AND row >= coalesce((SELECT max(row) FROM {table} WHERE row <= :start), :start)"""
    asked = np.unique(np.fromiter(numbers, np.int64))
    found = [np.empty((0, len(COLUMNS[table]) + 2), np.int64)]
    for together in np.split(asked, np.flatnonzero(np.diff(asked) != 1) + 1) if len(asked) else ():
        start, end = int(together[0]) * rows_per_shard, (int(together[-1]) + 1) * rows_per_shard
        try:
            runs = matrix(connection.execute(query, {"start": start, "end": end}), found[0].shape[1])
            if (runs[:, -4:-2] < 1).any():
                raise ValueError("a run without a row")
        except (TypeError, ValueError, OverflowError) as error:
            raise DamagedStoreError(CATALOG_NAME, None, None, f"a row is not what was written: {error!r}") from error
        found.append(runs[runs[:, 0] + runs[:, -4] * runs[:, -3] > start])
    runs = np.concatenate(found)
    return runs[np.unique(runs[:, 0], return_index=True)[1]]  # one may reach into shards that lie apart


def matrix(rows: Iterable[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64).reshape(-1, width)


def meta_digest(rows: Sequence[tuple[str, str]]) -> int:
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
    return None if memory_crc(row[:-1]) == row[-1] else f"memory {memory_id} does not match its checksum"


def memory_of(row: Sequence[Any]) -> Memory | None:
    """The memory in a row of `memories`; None where it does not match its checksum."""
    return _memory(row) if memory_crc(row[:-1]) == row[-1] else None


def _memory(row: Sequence[Any]) -> Memory:
    _, name, question, paraphrases, answer, status, nll, tuned_at, _ = row
    return Memory(question, answer, tuple(json.loads(paraphrases)), name, status, nll, tuned_at)


def memory_crc(fields: Sequence[object]) -> int | None:
    """None where damage has made a field what no memory has: bytes, or a number that is none."""
    try:
        return text_crc(canonical_json(fields))
    except (TypeError, ValueError):
        return None

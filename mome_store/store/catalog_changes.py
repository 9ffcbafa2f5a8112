"""What one commit changes in the catalogue: its rows, and the digest that is kept up with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import DamagedStoreError
from mome_store.store import sqlite_access
from mome_store.store.catalog import (
    ACTIVATIONS,
    CATALOG_NAME,
    COLUMNS,
    MODES,
    CommitRow,
    matrix,
    memory_crc,
    meta_digest,
    runs_in_shards,
    table_rows,
)
from mome_store.store.checksum import canonical_json, rows_digest, signed
from mome_store.store.memory import Memory
from mome_store.store.runs import (
    ExpertRun,
    GroupRun,
    KeyRun,
    Run,
    joined,
    packed,
    packed_groups,
    parts,
    spelled_out,
    without,
)
from mome_store.store.shard import ShardRow
from mome_store.store.zarr_metadata import ARRAYS, ArrayName

_FLUSH_ROWS = 4096


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
        self._pending: dict[str, list[Any]] = {table: [] for table in COLUMNS}
        self._memories: list[tuple[object, ...]] = []
        self._cut: dict[str, list[Any]] = {table: [] for table in COLUMNS}  # runs that went: not yet in the digest
        self._left: dict[str, list[Any]] = {table: [] for table in COLUMNS}  # what is left of them: likewise

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
        self._memories.append((*fields_and_result, memory_crc(fields_and_result)))
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
        position = group_id - found[COLUMNS[table].index(first)]
        if position >= run.groups:
            return False
        self._connection.execute(f"DELETE FROM {table} WHERE {COLUMNS[table][0]} = ?", run[:1])
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
        for table, width in ((table, len(columns)) for table, columns in COLUMNS.items()):
            self._digest -= rows_digest(table, list(matrix(self._cut[table], width).T))
            self._digest += rows_digest(table, list(matrix(self._left[table], width).T))
            self._cut[table].clear()
            self._left[table].clear()

    def _insert(self, table: str, rows: Sequence[tuple[int, ...]], created: int, retired: int | None) -> None:
        marks = ", ".join("?" * (len(COLUMNS[table]) + 2))
        self._connection.executemany(
            f"INSERT INTO {table} VALUES ({marks})", ((*row, created, retired) for row in rows)
        )

    def _insert_live(self, table: str, runs: NDArray[np.int64], created: NDArray[np.int64]) -> None:
        marks = ", ".join("?" * len(COLUMNS[table]))
        rows = np.column_stack((runs, created)).tolist()
        self._connection.executemany(f"INSERT INTO {table} VALUES ({marks}, ?, NULL)", rows)

    def set_meta(self, name: str, value: object) -> None:
        """Puts `value` (JSON-able) in the place of what `name` held."""
        text = canonical_json(value)
        held = "WHERE name = ? AND retired IS NULL"
        with self._translated():
            for row in self._connection.execute(f"SELECT name, value FROM meta {held}", (name,)).fetchall():
                self._digest -= meta_digest([row])
            self._connection.execute(f"UPDATE meta SET retired = ? {held}", (self.commit, name))
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?, NULL)", (name, text, self.commit))
        self._digest += meta_digest([(name, text)])

    def move(self, table: ArrayName, groups: NDArray[np.int64], row: int, rows_per_shard: int) -> None:
        """The rows of these live groups are in new places: one after the other, from `row` on.

        groups: runs of one group each, as runs.spelled_out gives them, in the order of their new places.
        """
        self._flush()
        ids = np.sort(groups[:, -3])
        ends = groups[:, 0] + groups[:, -1] - 1
        numbers = np.concatenate((groups[:, 0], ends)) // rows_per_shard
        with self._translated():
            live = runs_in_shards(self._connection, table, numbers, rows_per_shard)
            live = live[live[:, -1] == 0, :-1]
            first = np.searchsorted(ids, live[:, -4])
            last = np.searchsorted(ids, live[:, -4] + live[:, -3])
            cut, since = live[first < last, :-1], live[first < last, -1]
            # What is left of a run: before its first group that moves, between those that do, and after the last one.
            start = ids[first[first < last]] - cut[:, -3]
            end = ids[last[first < last] - 1] + 1 - cut[:, -3]
            between = spelled_out(parts(cut, start, end - start))
            stays = ~np.isin(between[:, -3], ids)
            left = np.concatenate((parts(cut, 0 * start, start), between[stays], parts(cut, end, cut[:, -2] - end)))
            source = np.arange(len(cut))
            source = np.concatenate((source, np.repeat(source, end - start)[stays], source))
            order = np.argsort(left[:, 0], kind="stable")
            order = order[left[order, -2] > 0]
            left, first = packed(left[order], source[order])
            moved = groups.copy()
            moved[:, 0] = row + np.cumsum(groups[:, -1]) - groups[:, -1]
            moved, _ = packed(moved)
            self._connection.executemany(f"DELETE FROM {table} WHERE row = ?", cut[:, :1].tolist())
            self._insert_live(table, left, since[source[order][first]])
            self._insert_live(table, moved, np.full(len(moved), self.commit))
        for sign, rows in ((-1, cut), (1, left), (1, moved)):
            self._digest += sign * rows_digest(table, list(rows.T))

    def join_groups(self, first_id: int, last_id: int) -> None:
        """Makes as few runs as can be of those that hold the groups `first_id` to `last_id` and of their neighbours."""
        self._flush()
        where = "WHERE retired IS NULL AND id <= ? AND id >= coalesce((SELECT max(id) FROM groups WHERE id < ?), 0)"
        with self._translated():
            runs = table_rows(self._connection, "groups", where, (last_id + 1, first_id))
            whole = packed_groups(runs)
            if len(whole) == len(runs):
                return
            self._connection.executemany("DELETE FROM groups WHERE id = ?", runs[:, :1].tolist())
            self._insert_live("groups", whole, np.full(len(whole), self.commit))
        self._digest += rows_digest("groups", list(whole.T)) - rows_digest("groups", list(runs.T))

    def drop_shards(self, array: ArrayName, numbers: Sequence[int], rows_per_shard: int) -> None:
        """These shards, in which no row is live, are no more, and neither are the retired rows in them."""
        self._flush()
        with self._translated():
            for number in numbers:
                where = (ARRAYS.index(array), number)
                shard = table_rows(self._connection, "shards", "WHERE array = ? AND number = ?", where)
                self._digest -= rows_digest("shards", list(shard.T))
                self._connection.execute("DELETE FROM shards WHERE array = ? AND number = ?", where)
                self._forget_rows(array, number, rows_per_shard)

    def _forget_rows(self, table: ArrayName, number: int, rows_per_shard: int) -> None:
        """Deletes what is retired in a shard. A retired run is of one group, so it can be cut."""
        start, end = number * rows_per_shard, (number + 1) * rows_per_shard
        runs = runs_in_shards(self._connection, table, (number,), rows_per_shard)
        for *run, created, retired in runs[runs[:, -1] > 0].tolist():
            first, last = run[0], run[0] + run[-1]
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
            found = matrix(runs, 3)
            held = self._connection.execute("SELECT group_id, groups FROM experts WHERE retired IS NOT NULL")
            still = matrix(held, 2)[:, 0]  # retired runs are of one group each
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
            write_version(self._connection, row.id)

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
                    self._digest += rows_digest(table, list(matrix(rows, len(COLUMNS[table])).T))
                    rows.clear()
            if self._memories:
                self._connection.executemany("INSERT INTO memories VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._memories)
                self._memories.clear()

    def _translated(self) -> AbstractContextManager[None]:
        return sqlite_access.translated(Path(CATALOG_NAME))


def write_version(connection: sqlite3.Connection, commit: int) -> None:
    connection.execute(f"PRAGMA user_version = {commit & 0x7FFFFFFF}")

"""What lies together costs one row of the catalogue, whatever its number, and a snapshot small arrays and no lists."""

from __future__ import annotations

import sqlite3
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome_store.store import ExpertSchema, ExpertStore, Memory, statistics, verify
from mome_store.store.compaction import SMALL_SHARDS

SCHEMA = ExpertSchema({"layer": (8, 8)}, rank=1)
KEY_DIM = 4
BATCH = 50_000


def fill(path: Path, count: int, per_group: int = 1) -> None:
    a, b = np.ones((BATCH, 1, 8), np.float32), np.ones((BATCH, 8, 1), np.float32)
    keys = np.ones((BATCH, per_group, KEY_DIM), np.float32)
    with ExpertStore.create(path, SCHEMA, KEY_DIM) as store, store.transaction() as txn:
        for start in range(0, count, BATCH):
            n = min(BATCH, count - start)
            txn.add_groups({"layer": (a[:n], b[:n])}, keys[:n])


def runs(path: Path, table: str) -> list[tuple[Any, ...]]:
    """The rows of a table, those of live runs first."""
    with closing(sqlite3.connect(path / "catalog.sqlite")) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY retired IS NOT NULL, 1").fetchall()


class Rows(sqlite3.Connection):
    """Counts the rows that SQLite gives out."""

    count = 0

    class Cursor(sqlite3.Cursor):
        def __next__(self) -> Any:
            row = super().__next__()
            Rows.count += 1
            return row

    def execute(self, *arguments: Any) -> Any:
        return self.cursor(Rows.Cursor).execute(*arguments)


class Steps(sqlite3.Connection):
    """Counts the instructions that SQLite's virtual machine executes."""

    count = 0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.set_progress_handler(self.step, 1)

    @staticmethod
    def step() -> int:
        Steps.count += 1
        return 0


def counted(kind: type[Rows] | type[Steps], work: Callable[[], object]) -> int:
    """How many of them there are while `work` runs."""
    connect, kind.count = sqlite3.connect, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=kind))
        work()
    return kind.count


def append(store: ExpertStore, count: int) -> list[tuple[float, float]]:
    """Adds groups one by one; the seconds of each commit with what follows it, by the clock and of the processor."""
    expert = {"layer": (np.ones((1, 8)), np.ones((8, 1)))}
    seconds = []
    for _ in range(count):
        start = time.perf_counter(), time.process_time()
        with store.transaction() as txn:
            txn.add_group([expert], np.full((1, KEY_DIM), txn.next_group, np.float32))
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return seconds


def test_groups_that_are_alike_are_one_run_however_they_were_added(tmp_path: Path, oracle: Any) -> None:
    with oracle.create(tmp_path / "s") as store, store.transaction() as txn:
        for i in range(20):
            oracle.add(txn, experts=2, keys=3, memory=Memory(f"q{i}", "a"))
        oracle.add_many(txn, 10, keys=3)
        for _ in range(5):
            oracle.add(txn, keys=3)
    assert runs(tmp_path / "s", "groups") == [(1, 20, 0, 0, 1, 1, None), (21, 15, 0, 0, 0, 1, None)]
    assert runs(tmp_path / "s", "experts") == [(0, 1, 1, 20, 2, 1, None), (40, 41, 21, 15, 1, 1, None)]
    assert runs(tmp_path / "s", "keys") == [(0, 1, 35, 3, 1, None)]
    oracle.check_path(tmp_path / "s")


def test_a_group_that_goes_cuts_its_run_and_nothing_else_changes(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    with oracle.create(path) as store:
        with store.transaction() as txn:
            oracle.add_many(txn, 9, keys=2, memories=[Memory(f"q{i}", "a") for i in range(9)])
        for gone in (5, 1, 9, 4):
            with store.transaction() as txn:
                oracle.remove(txn, gone)
            oracle.check_path(path)
    assert runs(path, "groups") == [
        (2, 2, 0, 0, 2, 1, None),
        (6, 3, 0, 0, 6, 1, None),
        (1, 1, 0, 0, 1, 1, 3),
        (4, 1, 0, 0, 4, 1, 5),
        (5, 1, 0, 0, 5, 1, 2),
        (9, 1, 0, 0, 9, 1, 4),
    ]
    assert runs(path, "keys")[:2] == [(2, 2, 2, 2, 1, None), (10, 6, 3, 2, 1, None)]
    assert (statistics(path).experts_dead, statistics(path).keys) == (4, 10)
    assert verify(path, deep=True).ok


def test_opening_reads_as_many_rows_of_the_catalogue_whatever_the_store_holds(tmp_path: Path) -> None:
    read = []
    for count in (2 * 4096, 8 * 4096):
        fill(tmp_path / str(count), count)

        def work(path: Path = tmp_path / str(count)) -> None:
            with ExpertStore.open(path) as store, store.snapshot() as snapshot:
                assert len(snapshot.expert_ids) == len(snapshot.key_rows) == int(path.name)

        read.append(counted(Rows, work))
    assert read[1] - read[0] == 2 * (8 - 2)  # shards of both arrays


def test_merging_small_shards_asks_of_the_catalogue_what_these_hold(tmp_path: Path) -> None:
    with ExpertStore.create(tmp_path / "s", SCHEMA, KEY_DIM) as store:
        append(store, 100)
    steps = []
    for _ in range(4):

        def work() -> None:
            with ExpertStore.open(tmp_path / "s", "r+") as store:
                append(store, 160)

        steps.append(counted(Steps, work))
    assert steps[-1] < 1.1 * steps[0]


@pytest.mark.parametrize("per_group", [1, 3])
def test_merging_small_shards_takes_memory_for_what_these_hold(tmp_path: Path, per_group: int) -> None:
    fill(tmp_path / "s", 100_000, per_group)
    before = statistics(tmp_path / "s").shards
    with ExpertStore.open(tmp_path / "s", "r+") as store:
        tracemalloc.start()
        append(store, 2 * SMALL_SHARDS)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 << 20
    assert before < statistics(tmp_path / "s").shards < before + 2 * SMALL_SHARDS


def test_groups_that_were_added_one_by_one_become_one_run(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with ExpertStore.create(path, SCHEMA, KEY_DIM) as store:
        append(store, 300)
    assert all(len(runs(path, table)) < 2 * SMALL_SHARDS for table in ("groups", "experts", "keys"))
    with ExpertStore.open(path, "r+") as store, store.transaction() as txn:
        txn.remove_group(100)
    assert {row[0] for row in runs(path, "groups")} >= {1, 100, 101}
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        assert snapshot.group_ids.tolist() == [i for i in range(1, 301) if i != 100]


def test_a_snapshot_holds_under_64_bytes_an_expert_and_needs_under_100_while_it_is_taken(tmp_path: Path) -> None:
    count = 100_000
    fill(tmp_path / "s", count)
    with ExpertStore.open(tmp_path / "s") as store:
        store.snapshot().close()
        tracemalloc.start()
        with store.snapshot() as snapshot:
            held, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert snapshot.group(count).expert_ids.tolist() == [count]
    assert held < 64 * count and peak < 100 * count


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder for more than should lie in memory, gone after the test."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.slow
def test_a_million_experts_open_fast_and_take_another_as_fast_as_a_thousand(disk: Path) -> None:
    count = 1_000_000
    for name, n in (("many", count), ("few", 1000)):
        fill(disk / name, n)
    start = time.perf_counter()
    with ExpertStore.open(disk / "many") as store, store.snapshot() as snapshot:
        assert time.perf_counter() - start < 2
        assert len(snapshot.expert_ids) == count
        snapshot.read_expert(count)
    seconds: dict[str, list[tuple[float, float]]] = {"many": [], "few": []}
    with ExpertStore.open(disk / "many", "r+") as many, ExpertStore.open(disk / "few", "r+") as few:
        for _ in range(20 * SMALL_SHARDS):  # merged twenty times
            for name, store in (("many", many), ("few", few)):
                seconds[name] += append(store, 1)
    assert np.median(seconds["many"], axis=0)[0] < 1.5 * np.median(seconds["few"], axis=0)[0]
    assert np.mean(seconds["many"], axis=0)[1] < 1.5 * np.mean(seconds["few"], axis=0)[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_tiny_commits_leave_few_shards_and_cost_the_same_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with ExpertStore.create(path, SCHEMA, KEY_DIM) as store:
        seconds = append(store, 10_000)
    found = statistics(path)
    assert (found.groups, found.keys) == (10_000, 10_000)
    assert found.shards < 2 * (3 * SMALL_SHARDS + 10_000 // 2048 + 1)
    assert (np.mean(seconds[-2000:], axis=0) < 1.5 * np.mean(seconds[1000:3000], axis=0)).all()
    assert verify(path, deep=True).ok
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        keys, groups = snapshot.keys()
        assert np.array_equal(keys[:, 0], groups)

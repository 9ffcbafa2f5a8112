"""Compaction gives back what is dead and small, keeps every live byte, and disturbs no reader."""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome_store.errors import ClosedError, DamagedStoreError, SchemaError, StoreReadOnlyError
from mome_store.runtime import ExpertCache
from mome_store.runtime.trace import Trace
from mome_store.store import ExpertStore, Memory, compaction, statistics, verify
from mome_store.store.files import FileOperations


def fill(path: Path, oracle: Any, groups: int, **kinds: int) -> None:
    with oracle.create(path, automatic_compaction=False) as store:
        for i in range(groups):
            with store.transaction() as txn:
                oracle.add(txn, memory=Memory(f"q{i}", f"secret {i}"), **kinds)


def compacted(path: Path, **settings: Any) -> Any:
    with ExpertStore.open(path, "r+") as store:
        return store.compact(**settings)


def shard_files(path: Path) -> list[Path]:
    return sorted(path.glob("*/c/*/0"))


def test_dead_rows_and_small_shards_go_and_nothing_else(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    fill(path, oracle, 10, experts=2, keys=3)
    with ExpertStore.open(path, "r+") as store, store.transaction() as txn:
        for group in (2, 3, 9):
            oracle.remove(txn, group)
    before = statistics(path)
    assert (before.experts_dead, before.shards) == (6, 20)
    report = compacted(path)
    oracle.check_path(path)
    after = statistics(path)
    assert (after.experts_dead, after.bytes_dead) == (0, 0)
    assert (after.experts_live, after.keys, after.bytes_live) == (before.experts_live, before.keys, before.bytes_live)
    assert report.shards_before == 20 and report.shards_after == after.shards == len(shard_files(path)) < 13
    assert report.bytes_before > report.bytes_after == sum(file.stat().st_size for file in shard_files(path))
    assert report.complete and report.groups_forgotten == 3
    assert verify(path, deep=True).ok
    with ExpertStore.open(path, "r+") as store, store.transaction() as txn:
        oracle.add(txn, experts=2)
        oracle.remove(txn, 4)
    oracle.check_path(path)


@pytest.mark.parametrize(("experts", "keys"), [(1, 1), (1, 4), (2, 3), (3, 5), (7, 9)])
def test_a_second_compaction_has_nothing_to_do(tmp_path: Path, oracle: Any, experts: int, keys: int) -> None:
    path = tmp_path / "s"
    fill(path, oracle, 12, experts=experts, keys=keys)
    with ExpertStore.open(path, "r+") as store, store.transaction() as txn:
        oracle.remove(txn, 5)
    compacted(path)
    files = {file: file.stat().st_ino for file in shard_files(path)}
    commit = statistics(path).commit
    report = compacted(path)
    assert report.bytes_moved == 0 and report.shards_before == report.shards_after
    assert {file: file.stat().st_ino for file in shard_files(path)} == files
    assert statistics(path).commit == commit
    oracle.check_path(path)


def test_full_shards_are_left_where_they_are(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    with oracle.create(path) as store:
        with store.transaction() as txn:
            oracle.add_many(txn, 16, keys=1)
        with store.transaction() as txn:
            oracle.remove(txn, 7)
    kept = {file: file.stat().st_ino for file in shard_files(path) if file.parent.name in "023"}
    assert compacted(path).bytes_moved == 3 * (oracle.schema.record_bytes + 32)
    assert {file: file.stat().st_ino for file in shard_files(path) if file.parent.name in "023"} == kept
    oracle.check_path(path)


def test_what_was_forgotten_is_in_no_file(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    fill(path, oracle, 4)
    (path / "index").mkdir()
    (path / "index" / "4.faiss").write_bytes(b"keys")
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        record = snapshot.read_record(2)
        key = snapshot.keys()[0][2].tobytes()
    with ExpertStore.open(path, "r+") as store, store.transaction() as txn:
        oracle.remove(txn, 2)
    held = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert record[:64] in held and key in held and b"secret 1" in held
    compacted(path)
    held = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert record[:64] not in held and key not in held and b"secret 1" not in held
    assert b"secret 0" in held and not (path / "index" / "4.faiss").exists()
    oracle.check_path(path)


def test_a_snapshot_of_before_reads_on_and_its_texts_go_once_it_is_closed(
    tmp_path: Path, oracle: Any, oracle_of: Any
) -> None:
    path = tmp_path / "s"
    fill(path, oracle, 6)
    frozen = oracle_of()
    frozen.groups = dict(oracle.groups)
    with ExpertStore.open(path) as reader, reader.snapshot() as snapshot, ExpertStore.open(path, "r+") as store:
        with store.transaction() as txn:
            oracle.remove(txn, 2)
        assert store.compact().groups_forgotten == 0
        frozen.check(snapshot)
        assert store.collect_garbage().groups_forgotten == 0
        frozen.check(snapshot)
        oracle.check_path(path)
        assert snapshot.refresh() and not snapshot.refresh()
        oracle.check(snapshot)
        assert store.collect_garbage().groups_forgotten == 1
        oracle.check(snapshot)


def test_a_reader_that_died_holds_nothing_up(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    fill(path, oracle, 3)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with ExpertStore.open(path) as store, store.snapshot():
            os.write(told, b"1")
            time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    with ExpertStore.open(path, "r+") as store:
        with store.transaction() as txn:
            oracle.remove(txn, 1)
        assert store.compact().groups_forgotten == 0
        os.kill(child, 9)
        os.waitpid(child, 0)
        assert store.collect_garbage().groups_forgotten == 1
    oracle.check_path(path)


def test_the_disk_gets_its_space_back_once_no_reader_is_left(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    fill(path, oracle, 6)
    with ExpertStore.open(path) as reader, reader.snapshot() as snapshot:
        fds = [shard.fd for shard in snapshot.shards]
        compacted(path)
        assert [os.fstat(fd).st_nlink for fd in fds] == [0] * len(fds)  # gone when the snapshot closes them
        snapshot.refresh()
        assert [os.fstat(shard.fd).st_nlink for shard in snapshot.shards] == [1] * len(snapshot.shards)
        for fd in fds:
            with pytest.raises(OSError):
                if fd in {shard.fd for shard in snapshot.shards}:
                    raise OSError  # the number is in use again
                os.fstat(fd)


def test_a_refreshed_snapshot_keeps_the_shards_that_stay(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    with oracle.create(path) as store:
        with store.transaction() as txn:
            oracle.add_many(txn, 8, keys=1)
        with store.snapshot() as snapshot:
            fds = {(shard.array, shard.number): shard.fd for shard in snapshot.shards}
            ids = snapshot.expert_ids
            with store.transaction() as txn:
                oracle.add(txn)
            assert snapshot.refresh()
            assert {key: fd for key, fd in _fds(snapshot).items() if key in fds} == fds
            assert ids.tolist() == list(range(1, 9)) and snapshot.expert_ids.tolist() == list(range(1, 10))
            oracle.check(snapshot)
        with pytest.raises(ClosedError):
            snapshot.refresh()


def _fds(snapshot: Any) -> dict[tuple[str, int], int]:
    return {(shard.array, shard.number): shard.fd for shard in snapshot.shards}


def test_a_snapshot_taken_while_shards_go_is_of_a_whole_commit(
    tmp_path: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer compacts between a reader's look at the catalogue and its opening of the shards."""
    from mome_store.store import snapshot as snapshots

    path = tmp_path / "s"
    fill(path, oracle, 6)
    load, done = snapshots.load_state, []

    def slow(directory: Path, known: Any = None) -> Any:
        state = load(directory, known)
        done.append(state.commit.id)
        if len(done) == 2:  # pinned and looked again; the shards are opened next
            compacted(path)
        return state

    monkeypatch.setattr(snapshots, "load_state", slow)
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        assert snapshot.commit == done[-1] > done[0]
        oracle.check(snapshot)


def test_a_texts_reader_that_comes_between_is_not_left_without_them(
    tmp_path: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer forgets between a reader's look at the catalogue and its pin."""
    from mome_store.store import snapshot as snapshots

    path = tmp_path / "s"
    fill(path, oracle, 3)
    pin, pinned = snapshots.Pin, []

    def late(directory: Path, commit: int) -> Any:
        if not pinned:
            with ExpertStore.open(path, "r+") as store:
                with store.transaction() as txn:
                    oracle.remove(txn, 2)
                assert store.compact().groups_forgotten == 1
        pinned.append(commit)
        return pin(directory, commit)

    monkeypatch.setattr(snapshots, "Pin", late)
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        assert snapshot.commit == pinned[-1] > pinned[0]
        oracle.check(snapshot)


@pytest.mark.parametrize(("experts", "keys"), [(1, 1), (2, 3)])
def test_small_commits_are_merged_by_themselves(tmp_path: Path, oracle: Any, experts: int, keys: int) -> None:
    path = tmp_path / "s"
    with ExpertStore.create(path, oracle.schema, 8, rows_per_shard=64) as store:
        with store.transaction() as txn:
            oracle.add_many(txn, 50, keys=keys)  # its last shards are small, and hold what begins in full ones
        for i in range(200):
            with store.transaction() as txn:
                oracle.add(txn, experts=experts, keys=keys, memory=Memory(f"q{i}", "a") if i % 50 else None)
                if i % 40 == 30:
                    oracle.remove(txn, i)
    found = statistics(path)
    assert found.groups == 245
    limit = sum(2 * compaction.SMALL_SHARDS + 250 * rows // 32 for rows in (experts, keys))
    assert found.shards < limit < 2 * 200
    oracle.check_path(path)
    assert verify(path, deep=True).ok


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM keys WHERE row = 5 * 4",
        "UPDATE keys SET per_group = 2 WHERE row = 5 * 4",
        "UPDATE keys SET per_group = -1 WHERE row = 5 * 4",
        "UPDATE keys SET groups = 1 << 62 WHERE row = 5 * 4",
        "UPDATE experts SET row = row + 1000 WHERE row = 5 * 4",
    ],
)
def test_nothing_is_merged_by_a_catalogue_that_does_not_account_for_it(
    tmp_path: Path, oracle: Any, damage: str
) -> None:
    path = tmp_path / "s"
    with ExpertStore.create(path, oracle.schema, 8, rows_per_shard=4) as store:
        for _ in range(compaction.SMALL_SHARDS - 1):
            with store.transaction() as txn:
                oracle.add(txn, keys=1)
        with closing(sqlite3.connect(path / "catalog.sqlite")) as connection, connection:
            connection.execute(damage)
        files = {file: file.read_bytes() for file in shard_files(path)}
        with pytest.warns(UserWarning, match=r"could not be merged.*(checksum|not what was written)"):
            for _ in range(2):
                with store.transaction() as txn:
                    oracle.add(txn, keys=1)
    assert files.items() <= {file: file.read_bytes() for file in shard_files(path)}.items()


def test_more_dead_than_alive_is_given_back_by_itself(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    with oracle.create(path) as store:
        with store.transaction() as txn:
            oracle.add_many(txn, 40, keys=1)
        for group in range(1, 36):
            with store.transaction() as txn:
                oracle.remove(txn, group)
            found = statistics(path)
            assert found.experts_dead <= max(found.experts_live, store.rows_per_shard)
    oracle.check_path(path)


def test_a_writer_that_asked_for_it_is_left_alone(tmp_path: Path, oracle: Any) -> None:
    fill(tmp_path / "s", oracle, 40)
    assert statistics(tmp_path / "s").shards == 80


def test_what_fails_after_a_commit_is_a_warning_and_the_commit_stands(tmp_path: Path, oracle: Any) -> None:
    class NoUnlink(FileOperations):
        broken = True

        def unlink(self, path: Path) -> None:
            if self.broken and path.name == "0":
                raise OSError(5, "broken")
            super().unlink(path)

    path = tmp_path / "s"
    fill(path, oracle, 4)
    files = NoUnlink()
    with ExpertStore.open(path, "r+", files=files) as store:
        with pytest.warns(UserWarning, match="tries again"):
            store.compact()
        oracle.check_path(path)
        left = len(shard_files(path))
        with store.transaction() as txn:
            oracle.add(txn)
        files.broken = False
        with store.transaction() as txn:
            oracle.add(txn)
        assert len(shard_files(path)) < left
    oracle.check_path(path)
    assert statistics(path).shards == len(shard_files(path))


def test_a_damaged_record_stops_a_compaction_and_is_named(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    fill(path, oracle, 4)
    for name, match in (("experts/c/1/0", "row 4, expert 2"), ("keys/c/2/0", "checksum of the rows")):
        original = (path / name).read_bytes()
        (path / name).write_bytes(bytes([original[0] ^ 1]) + original[1:])
        before = shard_files(path)
        with pytest.raises(DamagedStoreError, match=match) as raised:
            compacted(path)
        assert raised.value.file == name and shard_files(path) == before
        (path / name).write_bytes(original)
    oracle.check_path(path)


def test_a_compaction_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_STEP_BYTES", 4 * oracle.schema.record_bytes)
    path = tmp_path / "s"
    fill(path, oracle, 40)
    with ExpertStore.open(path, "r+", automatic_compaction=False) as store, store.transaction() as txn:
        oracle.remove(txn, 3)
    seen: list[tuple[int, int]] = []
    asked = iter([False, False, False, True])
    first = compacted(path, on_progress=lambda *at: seen.append(at), should_stop=lambda: next(asked))
    oracle.check_path(path)
    assert not first.complete and 0 < first.bytes_moved < seen[-1][1] and seen[-1][0] == first.bytes_moved
    assert first.shards_after < first.shards_before

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compacted(path, on_progress=interrupt)
    oracle.check_path(path)
    second = compacted(path)
    assert second.complete and second.bytes_moved < seen[-1][1]
    assert statistics(path).bytes_dead == 0
    oracle.check_path(path)


def test_a_rate_is_kept(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    fill(path, oracle, 20)
    shutil.copytree(path, tmp_path / "fast")
    moved = compacted(tmp_path / "fast").bytes_moved
    start = time.monotonic()
    compacted(path, max_rate=2.0 * moved)
    assert 0.4 < time.monotonic() - start < 5
    with pytest.raises(SchemaError, match="max_rate"):
        compacted(path, max_rate=0.0)


def trace_of(uses: list[list[int]]) -> Trace:
    ids = np.array([i for use in uses for i in use], np.int64)
    indptr = np.concatenate(([0], np.cumsum([len(use) for use in uses]))).astype(np.int64)
    return Trace(4096, np.zeros(len(uses)), indptr, ids)


def reads(path: Path, uses: list[list[int]]) -> float:
    """How many pieces of consecutive rows a use is read in, on average."""
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        rows = dict(zip(snapshot.expert_ids.tolist(), snapshot.expert_rows.tolist(), strict=True))
    return float(np.mean([1 + np.count_nonzero(np.diff(sorted(rows[i] for i in use)) != 1) for use in uses]))


def test_experts_used_together_come_to_lie_together(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    with ExpertStore.create(path, oracle.schema, 8, rows_per_shard=16) as store, store.transaction() as txn:
        oracle.add_many(txn, 200, keys=1)
    rng = np.random.default_rng(0)
    clusters = rng.permutation(np.arange(1, 161)).reshape(20, 8)
    uses = [rng.choice(clusters[rng.integers(20)], 5, replace=False).tolist() for _ in range(400)]
    before = reads(path, uses)
    unknown = trace_of([*uses, [10_000, 1]])
    compacted(path, usage=unknown)
    oracle.check_path(path)
    assert before > 4.5 and reads(path, uses) < 0.6 * before
    assert compacted(path, usage=unknown).bytes_moved == 0
    assert compacted(path).bytes_moved == 0


class Asked:
    """A route to these experts, each with weight 1."""

    def __init__(self, expert_ids: list[int]) -> None:
        self.expert_ids = [np.array(expert_ids, np.int64)]
        self.weights = [np.ones(len(expert_ids), np.float32)]


@pytest.mark.parametrize(("reader", "slots"), [("mmap", None), ("mmap", 4), ("pread", 4), ("io_uring", 4)])
def test_a_cache_goes_on_over_a_compaction(tmp_path: Path, oracle: Any, reader: str, slots: int | None) -> None:
    path = tmp_path / "s"
    fill(path, oracle, 8)
    size = oracle.schema.record_bytes
    capacity = None if slots is None else slots * size
    with ExpertStore.open(path, "r+") as store, store.snapshot() as snapshot:
        records = {i: snapshot.read_record(i) for i in snapshot.expert_ids.tolist()}
        with ExpertCache(snapshot, capacity=capacity, reader=reader) as cache:
            for step in ("before", "after", "refreshed"):
                if step == "after":
                    store.compact()
                if step == "refreshed":
                    assert snapshot.refresh()
                    cache.refresh(snapshot)
                for expert_id, record in records.items():
                    with cache.acquire(Asked([expert_id])) as lease:
                        held = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(lease.expert_base[0])))
                        assert held.tobytes() == record


def test_only_a_writer_compacts(filled: Path) -> None:
    with ExpertStore.open(filled) as store:
        for work in (store.compact, store.collect_garbage):
            with pytest.raises(StoreReadOnlyError):
                work()
    with pytest.raises(ClosedError):
        store.compact()


def test_garbage_is_what_no_commit_names(filled: Path, oracle: Any) -> None:
    with ExpertStore.open(filled, "r+") as store:
        stray = filled / "experts" / "c" / "77"
        stray.mkdir()
        (stray / "0").write_bytes(b"left by a crash")
        (filled / "notes.txt").write_text("not ours")
        report = store.collect_garbage()
        assert (report.files, report.bytes, report.groups_forgotten) == (1, 15, 0)
        assert not stray.exists() and (filled / "notes.txt").exists()
    oracle.check_path(filled)


def test_the_catalogue_shrinks_with_what_it_forgets(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    with oracle.create(path, automatic_compaction=False) as store:
        with store.transaction() as txn:
            oracle.add_many(txn, 200, keys=1, memories=[Memory(f"q{i}", "x" * 2000) for i in range(200)])
        with store.transaction() as txn:
            for group in range(1, 191):
                oracle.remove(txn, group)
    size = (path / "catalog.sqlite").stat().st_size
    compacted(path)
    assert (path / "catalog.sqlite").stat().st_size < size / 4
    with closing(sqlite3.connect(path / "catalog.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM memories").fetchone() == (10,)
    oracle.check_path(path)

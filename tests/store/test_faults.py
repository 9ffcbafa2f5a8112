"""Whatever goes wrong in a write, at any step: the store holds the last commit, whole, and the next writer goes on."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome_store.errors import StoreNotFoundError, TransactionError, WriteError
from mome_store.store import ExpertStore, Memory, compaction, statistics, transaction, verify
from mome_store.store.catalog_writer import CatalogWriter
from mome_store.store.files import FileOperations

pytestmark = pytest.mark.fault

OPERATIONS = ("create", "write", "fsync", "rename", "unlink", "make_directory", "remove_directory", "fsync_directory")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bulk ingest is interrupted between its pieces too, with the next one being encoded."""
    monkeypatch.setattr(transaction, "_ENCODED_AT_ONCE", 2 * 4096)


class FaultyFiles(FileOperations):
    """Calls `fault` in the place of the operation numbered `at`, and of all later ones when `lasting`."""

    def __init__(self, at: int, fault: Callable[[], None], lasting: bool = False) -> None:
        self.at = at
        self.count = 0
        self.fault = fault
        self.lasting = lasting
        for name in OPERATIONS:
            setattr(self, name, self._guarded(getattr(self, name)))

    def _guarded(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any) -> Any:
            self.count += 1
            if self.count == self.at or (self.lasting and self.count > self.at):
                self.fault()
            return operation(*arguments)

        return guarded


def fail_with(error: BaseException) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


def change(txn: Any, oracle: Any) -> None:
    """Touches every kind of file: three shards of each array, a retired group, a memory, a meta value.

    Some groups come one by one, some in bulk.
    """
    for i in range(3):
        oracle.add(txn, keys=1, memory=Memory(f"q{i}", "a"))
    oracle.add_many(txn, 6, keys=1, memories=[Memory(f"p{i}", "a") for i in range(6)])
    oracle.remove(txn, 1)
    txn.set_meta("router", i)


def files_of(path: Path) -> list[str]:
    """All files but those of a living SQLite connection."""
    names = (str(file.relative_to(path)) for file in path.rglob("*"))
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))


def operations_of_a_change(filled: Path, oracle: Any, tmp_path: Path) -> int:
    shutil.copytree(filled, tmp_path / "count")
    files = FaultyFiles(0, lambda: None)
    held = dict(oracle.groups)
    with ExpertStore.open(tmp_path / "count", "r+", files=files) as store, store.transaction() as txn:
        change(txn, oracle)
    oracle.groups = held
    return files.count


@pytest.mark.parametrize(
    ("error", "lasting"),
    [(OSError(ENOSPC, "full"), False), (OSError(EIO, "broken"), True), (KeyboardInterrupt(), False)],
    ids=["full once", "broken from then on", "Ctrl-C"],
)
def test_a_failure_of_any_file_operation_leaves_nothing(
    filled: Path, oracle: Any, tmp_path: Path, error: BaseException, lasting: bool
) -> None:
    count = operations_of_a_change(filled, oracle, tmp_path)
    assert count > 25
    before = files_of(filled)
    held = dict(oracle.groups)
    expected = WriteError if isinstance(error, OSError) else KeyboardInterrupt
    with ExpertStore.open(filled, "r+") as store:
        for at in range(1, count + 1):
            store._writer._files = files = FaultyFiles(at, fail_with(error), lasting)  # type: ignore[union-attr]
            with pytest.raises(expected) as raised, store.transaction() as txn:
                change(txn, oracle)
            oracle.groups = dict(held)
            if isinstance(raised.value, WriteError):
                assert raised.value.errno == error.errno  # type: ignore[attr-defined]
            with store.snapshot() as snapshot:
                assert snapshot.commit == 2
            files.at, files.lasting = 0, False
            if not lasting:
                assert files_of(filled) == before
        with store.snapshot() as snapshot:
            oracle.check(snapshot)
        with store.transaction() as txn:  # the same handle can go on
            oracle.add(txn)
        oracle.check_path(filled)
    ExpertStore.open(filled, "r+").close()
    assert len(files_of(filled)) == len(before) + 4  # one shard of each array and their directories


@pytest.mark.parametrize("work", ["compact", "collect_garbage"])
@pytest.mark.parametrize("error", [ENOSPC, pytest.param(EIO, marks=pytest.mark.slow)])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.filterwarnings("ignore:.*tries again")
def test_a_failure_of_any_operation_of_compaction_or_garbage_collection_costs_only_space(
    tmp_path: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch, work: str, error: int, lasting: bool
) -> None:
    monkeypatch.setattr(compaction, "_STEP_BYTES", 4 * 4096)
    path = tmp_path / "s"
    with oracle.create(path) as store:
        for _ in range(6):
            with store.transaction() as txn:
                oracle.add(txn, memory=Memory("q", "a"))
        with store.transaction() as txn:
            oracle.remove(txn, 3)
    (path / "index").mkdir()
    for name in ("experts/c/70", "keys/c/71"):
        (path / name).mkdir()
        (path / name / "0").write_bytes(b"left by a crash")
    (path / "index" / "1.faiss").write_bytes(b"left by a router")
    counting = FaultyFiles(0, lambda: None)
    at = 0
    while at <= counting.count:
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        with ExpertStore.open(copy, "r+") as store:
            store._writer._files = files = FaultyFiles(at, fail_with(OSError(error, "broken")), lasting and at > 0)  # type: ignore[union-attr]
            for name in ("experts/c/70", "keys/c/71"):
                shutil.copytree(path / name, copy / name)
            with contextlib.suppress(WriteError):
                getattr(store, work)()
            counting.count = max(counting.count, files.count)
            oracle.check_path(copy)
            assert verify(copy, deep=True).ok
            files.at = 0
            files.lasting = False
            store.compact()
            store.collect_garbage()
            oracle.check_path(copy)
        assert len(list(copy.glob("*/c/*/0"))) == statistics(copy).shards
        shutil.rmtree(copy)
        at += 1
    assert at > (20 if work == "compact" else 4)


def test_writes_that_the_system_cuts_short_are_gone_on_with(
    filled: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = os.write, []

    def short(fd: int, content: Any) -> int:
        calls.append(fd)
        return write(fd, memoryview(content)[: 1 + len(calls) % 700])

    monkeypatch.setattr(os, "write", short)
    with ExpertStore.open(filled, "r+") as store:
        with store.transaction() as txn:
            change(txn, oracle)
        store.compact()
    monkeypatch.undo()
    assert len(calls) > 100
    oracle.check_path(filled)
    assert verify(filled, deep=True).ok


def test_a_write_error_that_the_caller_swallows_still_breaks_the_transaction(filled: Path, oracle: Any) -> None:
    before = files_of(filled)
    with ExpertStore.open(filled, "r+", files=FaultyFiles(3, fail_with(OSError(ENOSPC, "full")))) as store:
        with pytest.raises(TransactionError, match="broke"), store.transaction() as txn:
            for _ in range(3):
                with contextlib.suppress(WriteError, TransactionError):
                    txn.add_group(*oracle.group())
        assert files_of(filled) == before
    oracle.check_path(filled)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked child and gives its exit code."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_at_any_file_operation_leaves_the_last_commit(filled: Path, oracle: Any, tmp_path: Path) -> None:
    count = operations_of_a_change(filled, oracle, tmp_path)
    before = files_of(filled)

    def work(at: int) -> None:
        with ExpertStore.open(filled, "r+", files=FaultyFiles(at, die)) as store, store.transaction() as txn:
            change(txn, oracle)

    for at in range(1, count + 1):
        assert in_child(lambda at=at: work(at)) == -signal.SIGKILL  # type: ignore[misc]
        oracle.check_path(filled)
    ExpertStore.open(filled, "r+").close()
    assert files_of(filled) == before and verify(filled, deep=True).ok
    with ExpertStore.open(filled, "r+") as store, store.transaction() as txn:
        change(txn, oracle)
    oracle.check_path(filled)


def test_a_kill_at_any_operation_of_create_leaves_no_store_and_create_works(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "s"
    files = FaultyFiles(0, lambda: None)
    oracle.create(tmp_path / "count", files=files).close()
    for at in range(1, files.count + 1):
        code = in_child(lambda at=at: oracle.create(path, files=FaultyFiles(at, die)).close())  # type: ignore[misc]
        assert code == -signal.SIGKILL
        if at < files.count:
            with pytest.raises(StoreNotFoundError):
                ExpertStore.open(path)
    shutil.rmtree(path)
    for at in range(1, files.count + 1):
        with pytest.raises(WriteError):
            oracle.create(path, files=FaultyFiles(at, fail_with(OSError(ENOSPC, "full"))))
        assert [file.name for file in path.iterdir()] == ["LOCK"]
    oracle.create(path).close()
    oracle.check_path(path)


def test_everything_is_durable_before_the_commit_names_it(
    filled: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order: each file's last write, its fsync, the fsync of every directory that names it, then the commit."""
    log: list[tuple[str, Any]] = []

    class Recorded(FileOperations):
        def create(self, path: Path) -> int:
            fd = super().create(path)
            log.append(("create", (fd, path)))
            return fd

        def write(self, fd: int, content: bytes) -> None:
            super().write(fd, content)
            log.append(("write", fd))

        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            log.append(("fsync", fd))

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            log.append(("rename", (source, target)))

        def make_directory(self, path: Path) -> None:
            super().make_directory(path)
            log.append(("make", path))

        def fsync_directory(self, path: Path) -> None:
            super().fsync_directory(path)
            log.append(("fsync directory", path))

    commit = CatalogWriter.commit

    def logged(*arguments: Any) -> None:
        log.append(("commit", None))
        commit(*arguments)

    monkeypatch.setattr(CatalogWriter, "commit", logged)
    with ExpertStore.open(filled, "r+", files=Recorded()) as store, store.transaction() as txn:
        change(txn, oracle)

    end = log.index(("commit", None))
    assert end == len(log) - 1
    dirty_files: dict[int, Path] = {}
    dirty_directories: set[Path] = set()
    paths: dict[int, Path] = {}
    for kind, what in log[:end]:
        if kind == "create":
            paths[what[0]] = what[1]
            dirty_directories.add(what[1].parent)
        elif kind == "write":
            dirty_files[what] = paths[what]
        elif kind == "fsync":
            dirty_files.pop(what)
        elif kind == "make":
            dirty_directories.add(what.parent)
        elif kind == "fsync directory":
            dirty_directories.discard(what)
        elif kind == "rename":
            assert what[0] not in dirty_files.values(), "renamed before its content was on disk"
            shards = filled / what[1].parent.name / "c"
            assert not any(shards in (d, *d.parents) for d in dirty_directories), "grown before its shards were on disk"
            dirty_directories.add(what[1].parent)
    assert dirty_files == {} and dirty_directories == set()
    assert {p.name for p in paths.values()} == {"0", "zarr.json.tmp"}


def test_ctrl_c_that_arrives_after_the_commit_does_not_undo_it(
    filled: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = CatalogWriter.commit

    def interrupted(*arguments: Any) -> None:
        commit(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(CatalogWriter, "commit", interrupted)
    with ExpertStore.open(filled, "r+") as store:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt), store.transaction() as txn:
                oracle.add(txn)
            with store.snapshot() as snapshot:
                oracle.check(snapshot)
    assert verify(filled, deep=True).ok


def test_after_a_commit_that_failed_files_go_only_once_the_catalogue_is_sealed(
    filled: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A COMMIT whose fsync failed may come to life in a crash: what it names must be there until it can't."""
    before = files_of(filled)
    log: list[str] = []
    seal, commit = CatalogWriter.seal, CatalogWriter.commit

    def failing(self: Any, changes: Any, row: Any) -> None:
        raise WriteError(filled, EIO)

    class Logged(FileOperations):
        def unlink(self, path: Path) -> None:
            if path.exists():
                log.append("unlink")
            super().unlink(path)

    def logged(self: Any) -> None:
        log.append("seal")
        seal(self)

    monkeypatch.setattr(CatalogWriter, "commit", failing)
    monkeypatch.setattr(CatalogWriter, "seal", logged)
    with ExpertStore.open(filled, "r+", files=Logged()) as store:
        held = dict(oracle.groups)
        with pytest.raises(WriteError), store.transaction() as txn:
            change(txn, oracle)
        oracle.groups = held
        assert log == [] and len(files_of(filled)) > len(before)
        monkeypatch.setattr(CatalogWriter, "commit", commit)
        with store.transaction():
            pass
        assert log == ["seal"] + ["unlink"] * 6 and files_of(filled) == before
        with store.transaction() as txn:
            oracle.add(txn)
    oracle.check_path(filled)


@pytest.mark.parametrize("memory_bytes", [10, 300_000], ids=["in a shard", "in SQLite"])
def test_a_full_disk_leaves_the_last_commit_and_a_handle_that_works(
    filled: Path, oracle: Any, memory_bytes: int
) -> None:
    """A real limit of the kernel stands in for the disk: no file may grow past it, SQLite's WAL included."""

    def work() -> None:
        with ExpertStore.open(filled, "r+") as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if memory_bytes > 10 else 5_000, resource.RLIM_INFINITY))
            for _ in range(2):
                held = dict(oracle.groups)
                try:
                    with store.transaction() as txn:
                        oracle.add(txn, memory=Memory("q", "a" * memory_bytes))
                except WriteError:
                    oracle.groups = held
                else:
                    os._exit(3)
                with store.snapshot() as snapshot:
                    oracle.check(snapshot)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            with store.transaction() as txn:
                oracle.remove(txn, 1)
        os._exit(4)

    before = files_of(filled)
    assert in_child(work) == 4
    del oracle.groups[1]
    ExpertStore.open(filled, "r+").close()
    assert files_of(filled) == before
    oracle.check_path(filled)


WRITER = textwrap.dedent(
    """
    import sys
    import numpy as np
    from mome_store.store import ExpertStore, Memory
    path = sys.argv[1]
    with ExpertStore.open(path, "r+") as store:
        while True:
            with store.transaction() as txn:
                group = txn.next_group
                rng = np.random.default_rng(group)
                experts = [{name: (rng.standard_normal((2, d_in)), rng.standard_normal((d_out, 2)))
                            for name, (d_in, d_out) in store.schema.modules.items()} for _ in range(3)]
                txn.add_group(experts, np.full((2, 8), group, np.float32), Memory(f"q{group}", "a"))
                if group > 2:
                    txn.remove_group(group - 2)
            print(group, flush=True)
            if group % 7 == 0:
                store.compact()
            if group % 11 == 0:
                store.collect_garbage()
    """
)


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_writer_killed_at_any_moment_leaves_a_whole_commit_that_it_told_of(
    tmp_path: Path, oracle: Any, kills: int, record_property: Callable[[str, object], None]
) -> None:
    """It appends, removes, compacts, by itself as well, and collects garbage; what it acknowledged is there."""
    path = tmp_path / "s"
    oracle.create(path).close()
    told = 0
    rng = random.Random(kills)
    with ExpertStore.open(path) as reader, reader.snapshot() as followed:
        for _ in range(kills):
            child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            first = int(child.stdout.readline())
            assert first > told, "a group that was told of was given again"
            time.sleep(rng.uniform(0, 0.25))
            child.kill()
            told = max([first, *(int(line) for line in child.stdout.read().split("\n")[:-1])])
            child.wait()
            report = verify(path, deep=True)
            assert report.ok, report.damage
            followed.refresh()
            assert followed.group_ids.tolist()[-1] - told in (0, 1)
            last = followed.group_ids.tolist()[-1]
            assert followed.group_ids.tolist() == [g for g in (last - 1, last) if g > 0]
            keys, groups = followed.keys()
            assert (
                sorted(keys[:, 0].tolist())
                == sorted(groups.tolist())
                == [g for g in (last - 1, last) if g for _ in "12"]
            )
            assert [memory.question for _, memory in followed.memories()] == [f"q{g}" for g in (last - 1, last) if g]
            for group_id in followed.group_ids.tolist():
                rng_of_group = np.random.default_rng(group_id)
                for expert_id in followed.group(group_id).expert_ids.tolist():
                    for name, (a, b) in followed.read_expert(expert_id).items():
                        d_in, d_out = oracle.schema.modules[name]
                        expected = rng_of_group.standard_normal((2, d_in)), rng_of_group.standard_normal((d_out, 2))
                        assert np.array_equal(a, expected[0].astype(a.dtype))
                        assert np.array_equal(b, expected[1].astype(b.dtype))
    assert told > kills
    record_property("damage", f"kills: {kills} of writers that had told of {told} commits; none was lost or half there")
    with ExpertStore.open(path, "r+") as store:
        store.compact()
    found = statistics(path)
    assert (found.groups, found.experts_dead, found.shards) == (2, 0, 3)  # six experts and four keys, four to a shard

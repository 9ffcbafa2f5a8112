"""A reader needs no right to write and changes no file; it works beside a living writer and after a dead one."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from errno import EACCES
from pathlib import Path
from typing import Any

import pytest

from mome_store.errors import ReadError, StoreLockedError, StoreReadOnlyError
from mome_store.store import ExpertStore, Memory, sqlite_access, statistics, verify

NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may enter (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def without_rights(path: Path, work: Callable[[], None], unreadable: Path | None = None) -> None:
    """Runs `work` in a child that may only read what is at `path`."""
    modes = {file: file.stat().st_mode for file in [path, *path.rglob("*")]}
    for file in modes:
        os.chmod(file, 0o555 if file.is_dir() else 0o000 if file == unreadable else 0o444)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    for file, mode in modes.items():
        os.chmod(file, mode)
    assert os.waitstatus_to_exitcode(status) == 0


def state_of(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file but the shared memory of living connections."""
    return {
        str(file): (file.stat().st_mtime_ns, file.stat().st_ino, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file() and not file.name.endswith("-shm")
    }


def read_all(path: Path, oracle: Any) -> None:
    oracle.check_path(path)
    statistics(path)
    assert verify(path, deep=True).ok


def fill(path: Path, oracle: Any, close: bool) -> Any:
    store = oracle.create(path)
    for _ in range(2):
        with store.transaction() as txn:
            oracle.add(txn, memory=Memory("q", "a"))
    if close:
        store.close()
    return store


def test_a_closed_store_opens_in_a_read_only_directory(place: Path, oracle: Any) -> None:
    path = place / "s"
    fill(path, oracle, close=True)
    before = state_of(path)
    without_rights(path, lambda: read_all(path, oracle))
    read_all(path, oracle)
    assert state_of(path) == before


@pytest.mark.parametrize("name", ["catalog.sqlite", "experts/c/0/0"])
def test_a_file_that_may_not_be_read_is_named(place: Path, oracle: Any, name: str) -> None:
    path = place / "s"
    fill(path, oracle, close=True)

    def work() -> None:
        with pytest.raises(ReadError) as raised:
            read_all(path, oracle)
        assert raised.value.errno == EACCES and raised.value.path == str(path / name)

    without_rights(path, work, unreadable=path / name)


def test_writing_where_nothing_may_be_written_is_refused_plainly(place: Path, oracle: Any) -> None:
    path = place / "s"
    fill(path, oracle, close=True)

    def work() -> None:
        for attempt in (lambda: ExpertStore.open(path, "r+"), lambda: oracle.create(path / "new")):
            with pytest.raises(StoreReadOnlyError):
                attempt()

    without_rights(path, work)


@pytest.mark.parametrize("shm", [True, False], ids=["as it died", "copied without -shm"])
def test_what_a_killed_writer_left_is_read_whole_without_rights(place: Path, oracle: Any, shm: bool) -> None:
    path = place / "s"
    child = os.fork()
    if child == 0:
        fill(path, oracle, close=False)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    for group_id in (1, 2):  # the child's random numbers, drawn again
        oracle.groups[group_id] = oracle.group(memory=Memory("q", "a"))
    assert (path / "catalog.sqlite-wal").stat().st_size > 0
    if not shm:
        (path / "catalog.sqlite-shm").unlink()
    before = state_of(path)
    without_rights(path, lambda: read_all(path, oracle))
    read_all(path, oracle)
    assert state_of(path) == before


def test_a_reader_works_while_a_writer_lives_and_sees_each_commit(place: Path, oracle: Any) -> None:
    path = place / "s"
    with fill(path, oracle, close=False) as store:
        for _ in range(2):
            without_rights(path, lambda: read_all(path, oracle))
            read_all(path, oracle)
            with store.transaction() as txn:
                oracle.add(txn)


def test_a_read_that_a_whole_life_of_a_writer_overtook_is_read_again(filled: Path, oracle: Any) -> None:
    """Without locks the reader may have seen half of either state; it must not return what it then computed."""
    seen: list[int] = []

    def query(connection: sqlite3.Connection) -> int:
        before = int(connection.execute("SELECT max(id) FROM commits").fetchone()[0])
        if not seen:
            with ExpertStore.open(filled, "r+") as store, store.transaction() as txn:
                oracle.add(txn)
        seen.append(before)
        return before

    assert sqlite_access.read(filled / "catalog.sqlite", query) == 3
    assert seen == [2, 3]


def test_readers_beside_a_writer_always_see_a_whole_commit(place: Path, oracle: Any) -> None:
    """Writers open, commit and close (which checkpoints the WAL away) while a reader reads as fast as it can."""
    path = place / "s"
    oracle.create(path).close()
    stop = threading.Event()
    failures: list[BaseException] = []
    seen: set[int] = set()

    def read() -> None:
        while not stop.is_set():
            try:
                with ExpertStore.open(path) as store, store.snapshot() as snapshot:
                    assert snapshot.group_ids.tolist() == list(range(1, snapshot.commit + 1))
                    assert [memory.question for _, memory in snapshot.memories()] == ["q"] * snapshot.commit
                    seen.add(snapshot.commit)
            except BaseException as error:
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(15):
        with ExpertStore.open(path, "r+") as store, store.transaction() as txn:
            txn.add_group(*oracle.group(memory=Memory("q", "a")))
    stop.set()
    reader.join()
    assert failures == [] and len(seen) > 2


def test_a_foreign_connection_that_holds_the_catalogue_is_reported(filled: Path, oracle: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("mome_store.store.sqlite_access.BUSY_SECONDS", 0.05)
    with ExpertStore.open(filled, "r+") as store:
        other = sqlite3.connect(filled / "catalog.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLockedError, match="another SQLite connection"), store.transaction() as txn:
            oracle.add(txn)
        other.close()
        with store.transaction() as txn:
            oracle.add(txn)
    oracle.check_path(filled)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="SQLite can't be asked to before Python 3.12")
def test_a_dead_wal_is_left_where_it_is_though_nothing_in_it_is_whole(place: Path, oracle: Any) -> None:
    path = place / "s"
    fill(path, oracle, close=True)
    (path / "catalog.sqlite-wal").write_bytes(b"the head of a WAL was meant to be here")
    before = state_of(path)
    read_all(path, oracle)
    assert state_of(path) == before

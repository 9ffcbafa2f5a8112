"""How the catalogue's SQLite file is opened, by the one writer and by readers that must never write.

The file is in WAL mode. SQLite lets a read-only connection open such a file only where it may create or find the `-wal`
and `-shm` files, so a store in a read-only directory would not open. A reader here therefore looks first:

* No `-wal` beside the file: no writer lives and nothing waits to be recovered, so the file alone is the catalogue. It
  is opened `immutable`: no locks, no files made. Should a writer come meanwhile, the file's time stamp changes or a
  `-wal` appears; the result is then thrown away and read again.
* A `-wal` is there: a writer lives, or died. SQLite's own protocol is used, which shares `-shm` with the writer
  or, where nobody lives and nothing may be written, rebuilds the WAL's index in private memory.

Never open() the file by other means in this process: POSIX drops all of a process's locks on a file when it closes any
descriptor of it, SQLite's included.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from mome_store.errors import (
    DamagedStoreError,
    MomeError,
    ReadError,
    StoreLockedError,
    StoreReadOnlyError,
    WriteError,
)

T = TypeVar("T")

BUSY_SECONDS = 10.0
_ATTEMPTS = 5


def open_writer(path: Path, create: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode whose commits are durable once they return."""
    with translated(path):
        mode = "rwc" if create else "rw"
        connection = sqlite3.connect(
            f"{_uri(path)}?mode={mode}", uri=True, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False
        )
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise StoreReadOnlyError(
                    f"{path}: the file system does not support SQLite's WAL mode (it stays in {mode!r})"
                )
            connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
        return connection


def read(path: Path, query: Callable[[sqlite3.Connection], T]) -> T:
    """`query`'s result, from one consistent state of the catalogue at `path`. `query` may be called several times."""
    for _ in range(_ATTEMPTS):
        before = _state(path)
        if before is None:
            break
        try:
            result = _read_once(path, "mode=ro&immutable=1", query)
        except MomeError:
            if _state(path) == before:
                raise
            continue
        if _state(path) == before:
            return result
    return _read_once(path, "mode=ro", query)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into those of mome_store."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(path, error) from error


def _read_once(path: Path, parameters: str, query: Callable[[sqlite3.Connection], T]) -> T:
    with translated(path):
        connection = sqlite3.connect(f"{_uri(path)}?{parameters}", uri=True, isolation_level=None, timeout=BUSY_SECONDS)
        with closing(connection):
            connection.execute("BEGIN")
            return query(connection)


def _state(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and time of the file when it alone is the catalogue; None when a WAL lies beside it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DamagedStoreError(path.name, None, None, "the catalogue is missing") from None
    except OSError as error:
        raise ReadError(path, 0, error.errno or errno.EIO) from error
    if path.with_name(path.name + "-wal").exists():
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _uri(path: Path) -> str:
    return path.absolute().as_uri()


def _translate(path: Path, error: sqlite3.Error) -> MomeError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return WriteError(path, errno.ENOSPC)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLockedError(path, "another SQLite connection")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return StoreReadOnlyError(f"{path}: SQLite can't open or write it: {error}")
    if code == sqlite3.SQLITE_IOERR:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_READ:
            return ReadError(path, 0, errno.EIO)
        return WriteError(path, errno.EIO)
    return DamagedStoreError(path.name, None, None, f"the catalogue can't be read: {error}")

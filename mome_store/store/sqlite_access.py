"""How the catalogue's SQLite file is opened, by the one writer and by readers that must never write.

The file is in WAL mode. SQLite lets a read-only connection open such a file only where it may create or find the `-wal`
and `-shm` files, so a store in a read-only directory would not open. A reader here therefore looks first:

* `-shm` is there: a writer lives, or died lately. SQLite's own protocol is used, which shares `-shm` with the writer
  or, where nobody lives and nothing may be written, rebuilds the WAL's index in private memory.
* There is none: nobody writes, since every connection in WAL mode needs it. The file, and the `-wal` that a dead writer
  may have left, are read without locks and without making files. Should a writer come meanwhile, `-shm` appears or a
  file's time stamp changes; the result is then thrown away and read again.

Never open() the file by other means in this process: POSIX drops all of a process's locks on a file when it closes any
descriptor of it, SQLite's included.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
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
_ATTEMPTS = 20
_PAUSE_SECONDS = 1e-3  # longer before each attempt: a writer that is opening or closing may have been put to sleep


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
            connection.execute("PRAGMA secure_delete=ON")  # what is forgotten is overwritten, not just unlinked
        except BaseException:
            connection.close()
            raise
        return connection


def read(path: Path, query: Callable[[sqlite3.Connection], T]) -> T:
    """`query`'s result, from one consistent state of the catalogue at `path`. `query` may be called several times."""
    failure: MomeError | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(attempt * _PAUSE_SECONDS)
        before = _state(path)
        try:
            result = _read_once(path, before, query)
        except MomeError as error:
            # `-shm` may have gone with one writer and come back with the next, which shows in no time stamp.
            if _state(path) == before and not before.shared:
                raise
            failure = error
            continue
        if before.shared or _state(path) == before:
            return result
    raise failure or ReadError(path, 0, errno.EAGAIN)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns what SQLite finds into errors of mome_store; wrong use of SQLite stays what it is."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except sqlite3.Error as error:
        raise _translate(path, error) from error
    except UnicodeDecodeError as error:  # of a message of SQLite's that quotes what it could not read
        raise DamagedStoreError(path.name, None, None, f"the catalogue can't be read: {error}") from error


@dataclass(frozen=True)
class _State:
    """What tells one state of the catalogue's files from another: inode, size and time of each; None: not there."""

    database: tuple[int, int, int]
    wal: tuple[int, int, int] | None
    shared: bool


def _state(path: Path) -> _State:
    try:
        database, wal, shared = (_stat(f"{path}{suffix}") for suffix in ("", "-wal", "-shm"))
    except OSError as error:
        raise ReadError(path, 0, error.errno or errno.EIO) from error
    if database is None:
        raise DamagedStoreError(path.name, None, None, "the catalogue is missing")
    return _State(database, wal, shared is not None)


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_once(path: Path, state: _State, query: Callable[[sqlite3.Connection], T]) -> T:
    parameters = "mode=ro"
    if not state.shared:
        parameters += "&immutable=1" if state.wal is None else "&vfs=unix-none"
    with translated(path):
        connection = sqlite3.connect(f"{_uri(path)}?{parameters}", uri=True, isolation_level=None, timeout=BUSY_SECONDS)
        with closing(connection):
            if "unix-none" in parameters:
                # Closing would remove a WAL without a whole commit in it, also if a writer has just come. Before
                # Python 3.12 there is no saying no.
                if sys.version_info >= (3, 12):
                    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # keeps the WAL's index in private memory
            connection.execute("BEGIN")
            return query(connection)


def _uri(path: Path) -> str:
    return path.absolute().as_uri()


def _translate(path: Path, error: sqlite3.Error) -> MomeError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return WriteError(path, errno.ENOSPC)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLockedError(path, "another SQLite connection")
    if code == sqlite3.SQLITE_CANTOPEN and not os.access(path, os.R_OK):
        return ReadError(path, 0, errno.EACCES)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return StoreReadOnlyError(f"{path}: SQLite can't open or write it: {error}")
    if code == sqlite3.SQLITE_IOERR:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_READ:
            return ReadError(path, 0, errno.EIO)
        return WriteError(path, errno.EIO)
    return DamagedStoreError(path.name, None, None, f"the catalogue can't be read: {error}")

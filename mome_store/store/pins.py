"""Which commits are being read: a snapshot pins its commit, and the writer asks for the oldest pin.

A pin is a shared lock on one byte of the store's LOCK file, at the offset that is the commit's number (an open file
description lock of Linux, fcntl(2)). It needs no right to write, leaves nothing behind when its holder dies, and does
not meet the writer's flock on the same file. Files need no pin: an unlinked file stays until its last reader has closed
it. What a reader still fetches from the catalogue does: the texts of memories.

Where there is no LOCK file, as in a copy that left it out, or no such lock, nothing is pinned: a snapshot then holds as
long as no writer compacts, and one that finds a memory gone says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from mome_store.errors import ReadError
from mome_store.store.lock import LOCK_NAME

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Pin:
    """Keeps what commit `commit` needs of the catalogue, until it is released or its process dies.

    A forked child shares it: it holds until both are done.
    """

    def __init__(self, directory: Path, commit: int) -> None:
        self._fd: int | None = None
        path = directory / LOCK_NAME
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            return
        except OSError as error:
            raise ReadError(path, 0, error.errno or errno.EIO) from error
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, commit, 1, 0))
        except OSError as error:
            os.close(fd)
            if error.errno not in _NO_LOCKS:
                raise ReadError(path, commit, error.errno or errno.EIO) from error
            return
        self._fd = fd

    def release(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def oldest_pin(directory: Path, before: int) -> int:
    """The oldest commit below `before` that a snapshot of any process has pinned; `before` when there is none."""
    fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    try:
        oldest = before
        while oldest > 0:  # the kernel names one lock in the way, not the first
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, oldest, 0)
            try:
                kind, _, start, _, _ = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    break
                raise
            if kind == fcntl.F_UNLCK:
                break
            oldest = start
        return oldest
    finally:
        os.close(fd)

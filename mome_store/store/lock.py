"""One writer: an exclusive flock on the store's LOCK file, held from opening to closing.

flock belongs to the open file: a second handle of the same process is refused as well, and the kernel drops the lock
when its holder dies, so nothing stale can be left. A forked child shares the lock: it lasts until parent and child are
both gone, but only the process that took it may write (see ExpertStore).
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from mome_store.errors import StoreLockedError, StoreReadOnlyError
from mome_store.store.files import writing

LOCK_NAME = "LOCK"


class WriterLock:
    """The right to write to the store at `directory`. Raises StoreLockedError or StoreReadOnlyError."""

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_NAME
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise StoreReadOnlyError(
                    f"{directory}: can't be written ({error.strerror}); open with mode='r'"
                ) from error
            raise
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 64, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StoreLockedError(directory, owner or None) from None
        except OSError as error:
            os.close(self._fd)
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise StoreReadOnlyError(
                    f"{directory}: the file system has no file locks, so two writers could not be kept apart; "
                    "keep the store on a local disk, or open with mode='r'"
                ) from error
            raise
        try:
            with writing(path):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, f"process {os.getpid()}\n".encode("ascii"), 0)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        os.close(self._fd)

"""The one narrow seam for changes to the file system: all that a writer does outside SQLite is a `FileOperations`.

Tests put a faulty one in its place. The operations raise plain OSError; `writing` turns that into a WriteError
that names the path.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mome_store.errors import StoreReadOnlyError, WriteError

_DIRECT_BYTES = 1 << 20  # of a smaller piece, waiting for the disk would cost more than the copy


class FileOperations:
    """The real file system."""

    def create(self, path: Path) -> int:
        """Makes a file that must not exist yet, and returns its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, fd: int, content: bytes | memoryview) -> None:
        """Appends all of `content`.

        A large piece that lies on pages, in memory as in the file, goes past the page cache (O_DIRECT) where the file
        system can do that: the disk takes it as fast as it can, and what is read meanwhile stays cached.
        """
        rest = memoryview(content)
        if len(rest) >= _DIRECT_BYTES and page_aligned(rest) and os.lseek(fd, 0, os.SEEK_CUR) % mmap.PAGESIZE == 0:
            with _direct(fd) as can:
                if can:
                    rest = rest[os.write(fd, rest) :]
        while rest:
            rest = rest[os.write(fd, rest) :]

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        """Lets the disk begin with what was written there, so that a later fsync has less to wait for."""
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)  # on Linux, dirty pages are written, not dropped

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Removes a file; one that is gone already is fine."""
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        """Makes a directory; one that is there already is fine, since an empty one may be left of a crash."""
        path.mkdir(exist_ok=True)

    def remove_directory(self, path: Path) -> None:
        """Removes a directory when it is empty; one that is gone, or holds what is not ours, is left alone."""
        try:
            path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise

    def fsync_directory(self, path: Path) -> None:
        """Makes the names in a directory durable."""
        fsync_path(path)


@contextmanager
def _direct(fd: int) -> Iterator[bool]:
    """Direct writes for as long as it is open; False where the file system knows none."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        yield False
        return
    try:
        yield True
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def page_aligned(content: memoryview) -> bool:
    """Whether it starts on a page of memory and is whole pages long."""
    address = np.frombuffer(content, np.uint8).ctypes.data
    return address % mmap.PAGESIZE == 0 and content.nbytes % mmap.PAGESIZE == 0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the operations inside into a WriteError (or StoreReadOnlyError) that names `path`."""
    try:
        yield
    except (WriteError, StoreReadOnlyError):
        raise
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreReadOnlyError(f"{path}: can't be written: {os.strerror(error.errno)}") from error
        raise WriteError(path, error.errno or errno.EIO) from error


def replace_file(files: FileOperations, path: Path, content: bytes) -> None:
    """Puts `content` at `path` such that a crash leaves the old file or the new one, whole.

    1. write and fsync a temporary file beside it: the bytes must be on disk before the name points at them;
    2. rename it over `path`: atomic;
    3. fsync the directory: the rename must be on disk before anything that relies on it.
    """
    temporary = temporary_path(path)
    with writing(path):
        files.unlink(temporary)
        fd = files.create(temporary)
        try:
            files.write(fd, content)
            files.fsync(fd)
        finally:
            files.close(fd)
        files.rename(temporary, path)
        files.fsync_directory(path.parent)


def fsync_path(path: Path) -> None:
    """Makes a file's bytes durable, or a directory's names."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def temporary_path(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")

"""How a file or a folder for others comes to be: whole, or not at all.

It is written under another name in the same place, made durable, and then renamed. An error removes what was written.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mome_store.errors import MomeError
from mome_store.store.files import fsync_path


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """A text file (UTF-8) that is at `path` once the block has ended.

    Raises FileExistsError where something is there, and other errors of the system with `path` in them.
    """
    _refuse_existing(path)
    temporary = _temporary(path)
    with _naming(path):
        try:
            with temporary.open("x", encoding="utf-8", newline="\n") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _refuse_existing(path)
            temporary.rename(path)
            fsync_path(path.absolute().parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to put files into, which is at `path` once the block has ended. An empty one that is there is taken.

    Raises FileExistsError where something else is there, and other errors of the system with `path` in them.
    """
    if not path.is_dir() or any(path.iterdir()):
        _refuse_existing(path)
    temporary = _temporary(path)
    with _naming(path):
        temporary.mkdir()
        try:
            yield temporary
            for file in (*temporary.iterdir(), temporary):
                fsync_path(file)
            temporary.rename(path)  # takes the place of an empty folder, and of nothing else
            fsync_path(path.absolute().parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """The errors of the system with the file that was asked for in them, not the temporary one."""
    try:
        yield
    except OSError as error:
        if isinstance(error, MomeError) or error.errno is None:
            raise
        code = errno.EEXIST if error.errno == errno.ENOTEMPTY else error.errno
        raise OSError(code, os.strerror(code), str(path)) from error


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _temporary(path: Path) -> Path:
    absolute = Path(os.path.abspath(path))
    return absolute.with_name(f"{absolute.name}.{os.getpid()}.tmp")

"""How a store comes to be. Its root `zarr.json` is written last: a directory without it is no store yet.

A creation that a crash cut short is begun afresh by the next `create`; anything else in the way is refused.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from mome_store.errors import StoreExistsError
from mome_store.store.catalog import CATALOG_NAME
from mome_store.store.catalog_writer import create_catalog
from mome_store.store.files import FileOperations, replace_file, temporary_path, writing
from mome_store.store.lock import LOCK_NAME, WriterLock
from mome_store.store.zarr_metadata import ARRAYS, ZARR_JSON, StoreLayout, array_metadata, group_metadata

_CATALOG_FILES = tuple(CATALOG_NAME + suffix for suffix in ("", "-wal", "-shm", "-journal"))
_BEFORE_ROOT = {LOCK_NAME, *_CATALOG_FILES, *ARRAYS, temporary_path(Path(ZARR_JSON)).name}


def create_store(directory: Path, layout: StoreLayout, files: FileOperations) -> WriterLock:
    """Makes an empty store and returns its writer lock. Raises StoreExistsError where anything is."""
    _refuse_anything_else(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(directory)
    try:
        with writing(directory):
            files.fsync_directory(directory)  # LOCK tells an unfinished store from somebody else's folder
        _refuse_anything_else(directory)  # another process may have been first to the lock
        _remove_unfinished(directory, files)
        try:
            _write(directory, layout, files)
        except BaseException:
            _remove_unfinished(directory, files)
            raise
    except BaseException:
        lock.release()
        raise
    return lock


def is_unfinished(directory: Path) -> bool:
    """Whether `directory` holds what an interrupted `create_store` leaves, and nothing that was ever committed."""
    names = set(os.listdir(directory))
    return (
        LOCK_NAME in names
        and names <= _BEFORE_ROOT
        and not any(any((directory / array / "c").glob("*")) for array in ARRAYS)
    )


def _write(directory: Path, layout: StoreLayout, files: FileOperations) -> None:
    with writing(directory):
        for array in ARRAYS:
            files.make_directory(directory / array)
            files.make_directory(directory / array / "c")
            replace_file(files, directory / array / ZARR_JSON, array_metadata(layout, array, rows=0))
    create_catalog(directory, layout, time.time_ns() // 1000)
    with writing(directory):
        files.fsync_directory(directory)
        files.fsync_directory(directory.absolute().parent)
        replace_file(files, directory / ZARR_JSON, group_metadata(layout))


def _remove_unfinished(directory: Path, files: FileOperations) -> None:
    with writing(directory):
        for name in (*_CATALOG_FILES, ZARR_JSON, temporary_path(Path(ZARR_JSON)).name):
            files.unlink(directory / name)
        for array in ARRAYS:
            if (directory / array).exists():
                files.unlink(directory / array / ZARR_JSON)
                files.unlink(temporary_path(directory / array / ZARR_JSON))
                files.remove_directory(directory / array / "c")
                files.remove_directory(directory / array)


def _refuse_anything_else(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise StoreExistsError(f"{directory}: a file is there; a store needs a directory of its own")
    if any(directory.iterdir()) and not is_unfinished(directory):
        raise StoreExistsError(f"{directory}: is not empty; open the store that is there, or choose another directory")

"""The FAISS index over a snapshot's keys, kept as a file so that the next reader need not build it.

The keys are the truth and the file, `index/<commit>.faiss`, is only a cache. It starts with a line of JSON
(`_Header`), then come the bytes of the FAISS index. A file is used, of whatever commit, only when its header holds the
checksum of these very keys, and when its own size and checksum are right, all of it before FAISS parses a byte. In any
doubt the index is built again. Where the file can't be written (a read-only store, a full disk) there is none.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from mome_store.routing.index import KeyIndex, build_index
from mome_store.store.checksum import canonical_json, crc32c
from mome_store.store.files import FileOperations
from mome_store.store.zarr_metadata import INDEX_FOLDER

_FORMAT = 2
_MAX_HEADER_BYTES = 4096


@dataclass(frozen=True)
class _Header:
    """First line of the file.

    keys_crc32c: of the keys that the index was built from. candidates: see KeyIndex. bytes: of the FAISS index behind
    the line. crc32c: of the line's other values and of these bytes.
    """

    format: int
    rows: int
    dim: int
    keys_crc32c: int
    candidates: int
    bytes: int
    crc32c: int = 0

    def sealed(self, content: NDArray[np.uint8]) -> _Header:
        """With the checksum that belongs to it and to `content`."""
        unsealed = canonical_json(asdict(replace(self, crc32c=0)))
        return replace(self, crc32c=crc32c(content, crc32c(unsealed.encode())))


def load_or_build_index(
    store: Path, commit: int, keys: NDArray[np.float32], files: FileOperations | None = None
) -> KeyIndex:
    """What `build_index` makes of `keys` [m, dim]. files: how the cache is written; tests put a faulty one here."""
    folder = store / INDEX_FOLDER
    keys = np.ascontiguousarray(keys, np.float32)
    keys_crc = crc32c(keys.reshape(-1).view(np.uint8))
    for path in sorted(folder.glob("*.faiss")):
        index = _read(path, keys, keys_crc)
        if index is not None:
            return index
    index = build_index(keys)
    if len(keys):
        _write(folder / f"{commit}.faiss", index, keys_crc, files or FileOperations())
    return index


def _read(path: Path, keys: NDArray[np.float32], keys_crc: int) -> KeyIndex | None:
    try:
        with path.open("rb") as file:
            header = _Header(**json.loads(file.readline(_MAX_HEADER_BYTES)))
            rows, dim = keys.shape
            expected = _Header(_FORMAT, rows, dim, keys_crc, header.candidates, header.bytes, header.crc32c)
            if header != expected or os.fstat(file.fileno()).st_size != file.tell() + header.bytes:
                return None
            content = np.frombuffer(file.read(header.bytes), np.uint8)
        if len(content) != header.bytes or header != header.sealed(content):
            return None
    except (OSError, ValueError, TypeError, RecursionError):  # missing, unreadable, not our header
        return None  # built again, which is always right
    try:
        searched = faiss.deserialize_index(content)
    except RuntimeError:  # written by a FAISS that this one does not understand
        return None
    kind = faiss.IndexIVFPQFastScan if header.candidates else faiss.IndexFlatIP
    if not isinstance(searched, kind) or (searched.ntotal, searched.d) != keys.shape:
        return None
    return KeyIndex(keys, searched, header.candidates)


def _write(path: Path, index: KeyIndex, keys_crc: int, files: FileOperations) -> None:
    """Nothing is fsynced: a file that a crash tore has not its checksum."""
    content = faiss.serialize_index(index.searched)
    rows, dim = index.ntotal, index.searched.d
    header = _Header(_FORMAT, rows, dim, keys_crc, index.candidates, len(content)).sealed(content)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        files.make_directory(path.parent)
        files.unlink(temporary)
        fd = files.create(temporary)
        try:
            files.write(fd, canonical_json(asdict(header)).encode() + b"\n")
            files.write(fd, content.data)
        finally:
            files.close(fd)
        files.rename(temporary, path)
        for stale in path.parent.glob("*.faiss"):
            if stale != path:
                files.unlink(stale)
    except OSError:  # only a cache: the index in memory serves
        with suppress(OSError):
            files.unlink(temporary)

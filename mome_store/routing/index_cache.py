"""The FAISS index over a snapshot's keys, kept as a file so that the next reader need not build it.

The keys are the truth and the file, `index/<commit>.faiss`, is only a cache. It starts with a line of JSON
(`_Header`), then come the bytes of the index. A file is used only when its header holds the checksum of these very
keys, and when its own size and checksum are right, all of it before FAISS parses a byte. In any doubt the
index is built again. Where the file can't be written (a read-only store, a full disk) there is none.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from mome_store.routing.index import EXACT_KEYS, build_index
from mome_store.store.checksum import canonical_json, crc32c

INDEX_FOLDER = "index"
"""The folder of a store that holds nothing but this cache."""
_FORMAT = 1
_MAX_HEADER_BYTES = 4096


@dataclass(frozen=True)
class _Header:
    """First line of the file: `crc32c` and `bytes` of the index behind it, `keys_crc32c` of what it was built from."""

    format: int
    rows: int
    dim: int
    keys_crc32c: int
    bytes: int
    crc32c: int


def load_or_build_index(store: Path, commit: int, keys: NDArray[np.float32]) -> faiss.Index:
    """What `build_index` makes of `keys` [m, dim]."""
    path = store / INDEX_FOLDER / f"{commit}.faiss"
    keys = np.ascontiguousarray(keys, np.float32)
    keys_crc = crc32c(keys.reshape(-1).view(np.uint8))
    index = _read(path, keys.shape, keys_crc)
    if index is None:
        index = build_index(keys)
        if len(keys):
            _write(path, index, keys_crc)
    return index


def _read(path: Path, shape: tuple[int, ...], keys_crc: int) -> faiss.Index | None:
    try:
        with path.open("rb") as file:
            header = _Header(**json.loads(file.readline(_MAX_HEADER_BYTES)))
            expected = _Header(_FORMAT, shape[0], shape[1], keys_crc, header.bytes, header.crc32c)
            if header != expected or os.fstat(file.fileno()).st_size != file.tell() + header.bytes:
                return None
            content = np.frombuffer(file.read(header.bytes), np.uint8)
    except (
        OSError,
        ValueError,
        TypeError,
    ):  # missing, unreadable or not our header: built again, which is always right
        return None
    if len(content) != header.bytes or crc32c(content) != header.crc32c:
        return None
    try:
        index = faiss.deserialize_index(content)
    except RuntimeError:  # written by a FAISS that this one does not understand
        return None
    kind = faiss.IndexFlatIP if shape[0] <= EXACT_KEYS else faiss.IndexIVFFlat
    return index if isinstance(index, kind) and (index.ntotal, index.d) == shape else None


def _write(path: Path, index: faiss.Index, keys_crc: int) -> None:
    content = faiss.serialize_index(index)
    header = _Header(_FORMAT, index.ntotal, index.d, keys_crc, len(content), crc32c(content))
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            file.write(canonical_json(asdict(header)).encode() + b"\n")
            file.write(content.data)
        temporary.replace(path)
        for stale in path.parent.glob("*.faiss"):
            if stale != path:
                stale.unlink(missing_ok=True)
    except OSError:  # only a cache: the index in memory serves
        with suppress(OSError):
            temporary.unlink(missing_ok=True)

"""How the store tells damage from data: CRC-32C of bytes, and a digest of catalogue rows that grows with them.

CRC-32C (Castagnoli, RFC 3720) guards bytes in files. The catalogue's rows are guarded by a sum of 64-bit row hashes
modulo 2^64: adding or retiring a row changes the sum by that row's hash alone, so a commit costs what it changes, and
a snapshot recomputes the whole in one vectorised pass. It detects accidents, not forgery.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def crc32c(data: bytes | NDArray[np.uint8], crc: int = 0) -> int:
    """CRC-32C of `data` (bytes, or a contiguous uint8 array), continuing from `crc`."""
    return int(google_crc32c.extend(crc, data))


def canonical_json(value: object) -> str:
    """The one JSON text of `value`: sorted keys, no spaces. Raises ValueError or TypeError where it has none."""
    return _CANONICAL.encode(value)


def text_crc(text: str) -> int:
    return crc32c(text.encode("utf-8"))


def _mix(h: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def rows_digest(table: str, columns: Sequence[NDArray[np.int64] | Sequence[int]]) -> int:
    """The sum modulo 2^64 of the hashes of rows, given as int64 columns of equal length. Order does not matter."""
    arrays = [np.asarray(column, dtype=np.int64).view(np.uint64) for column in columns]
    h = np.full(len(arrays[0]), text_crc(table), dtype=np.uint64)
    for array in arrays:
        h = _mix(h * np.uint64(0x9E3779B97F4A7C15) + array)
    return int(h.sum(dtype=np.uint64)) & _MASK


def signed(digest: int) -> int:
    """`digest` (taken modulo 2^64) as SQLite's signed 64-bit integer."""
    digest &= _MASK
    return digest - (1 << 64) if digest >> 63 else digest

"""The bytes of an expert: how records are made, checked and read (the table is in docs/format.md).

    A [r, d_in], then B transposed [r, d_out], of each module in schema order; zeros; the trailer in the last 64 bytes

Both are r-major, so that every rank is two contiguous vectors. An expert whose rank is below the schema's fills its
first rows at the same offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mome_store import _core
from mome_store.errors import SchemaError
from mome_store.store.checksum import crc32c
from mome_store.store.schema import TRAILER_BYTES, ExpertSchema

Weights = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""An expert: module name -> (A [r, d_in], B [d_out, r]). Many of them: A [n, r, d_in], B [n, d_out, r]."""

MAGIC = b"MOMEREC\n"
RECORD_VERSION = 1
_TRAILER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("flags", "<u4"),
        ("expert_id", "<u8"),
        ("group_id", "<u8"),
        ("payload_bytes", "<u8"),
        ("rank", "<u4"),
        ("schema_crc", "<u4"),
        ("commit", "<u8"),
        ("reserved", "<u4"),
        ("crc", "<u4"),
    ]
)
_CHECKED_AT_ONCE = 1 << 18  # values; few enough for the cache
_CHECKED_BY_TWO = 32 << 20  # bytes from which on two threads are worth their while; the disk waits for the check


@dataclass(frozen=True)
class Trailer:
    """The last 64 bytes of a record, in the order of its fields."""

    magic: bytes
    version: int
    flags: int
    expert_id: int
    group_id: int
    payload_bytes: int
    rank: int
    schema_crc: int
    commit: int
    reserved: int
    crc: int

    @classmethod
    def of(cls, record: bytes) -> Trailer:
        return cls(*np.frombuffer(record, _TRAILER, 1, len(record) - TRAILER_BYTES)[0].item())


def encode_record(schema: ExpertSchema, weights: Weights, expert_id: int, group_id: int, commit: int) -> bytes:
    """The record of an expert.

    weights: A and B of exactly the schema's modules, all of one rank r, 1 <= r <= schema.rank, any float dtype. They
    are rounded to nearest even; float64 goes by way of float32, as in torch and ml_dtypes. Raises SchemaError where a
    name, shape or dtype does not fit, or a value is not finite once rounded.
    """
    record = np.zeros((1, schema.record_bytes), dtype=np.uint8)
    ExpertBatch.of_one(schema, weights).encode(0, record, expert_id, group_id, commit)
    return record.tobytes()


@dataclass(frozen=True)
class ExpertBatch:
    """Experts of one rank that fit the schema, all values finite in its dtype.

    weights: module name -> (A [n, r, d_in], B [n, d_out, r]), of any float dtype.
    """

    schema: ExpertSchema
    count: int
    rank: int
    weights: Weights

    @classmethod
    def of_one(cls, schema: ExpertSchema, weights: Weights) -> ExpertBatch:
        """A batch of one, from A [r, d_in] and B [d_out, r]. Raises SchemaError as `encode_record` says."""
        rank, arrays = _checked(schema, weights, None)
        return cls(schema, 1, rank, {name: (a[None], b[None]) for name, (a, b) in arrays.items()})

    @classmethod
    def of_many(cls, schema: ExpertSchema, weights: Weights, count: int) -> ExpertBatch:
        """`count` experts, from A [count, r, d_in] and B [count, d_out, r]. Raises SchemaError likewise."""
        rank, arrays = _checked(schema, weights, count)
        return cls(schema, count, rank, arrays)

    def encode(
        self, first: int, records: NDArray[np.uint8], first_expert_id: int, first_group_id: int, commit: int
    ) -> None:
        """Writes the experts from `first` on as records: uint8 [m, record_bytes], zeros or an earlier batch's records.

        The ids are those of the first of them; each next expert has the next, and so has its group.
        """
        schema, rank, count = self.schema, self.rank, len(records)
        batch = slice(first, first + count)
        for name, section in schema.sections.items():
            a, b = self.weights[name]
            _section(records, section.a_offset, schema.numpy_dtype, (rank, section.d_in))[:] = a[batch]
            # Rounded before it is transposed: numpy converts neighbours ten times faster than strided values.
            rounded = np.ascontiguousarray(b[batch], dtype=schema.numpy_dtype)
            bits = np.dtype(f"u{schema.numpy_dtype.itemsize}")  # numpy moves integers faster than bfloat16
            stored = _section(records, section.b_offset, bits, (rank, section.d_out))
            stored[:] = rounded.view(bits).swapaxes(1, 2)
        trailers = records[:, -TRAILER_BYTES:].view(_TRAILER)[:, 0]
        trailers["magic"] = MAGIC
        trailers["version"] = RECORD_VERSION
        trailers["expert_id"] = np.arange(first_expert_id, first_expert_id + count)
        trailers["group_id"] = np.arange(first_group_id, first_group_id + count)
        trailers["payload_bytes"] = schema.payload_bytes
        trailers["rank"] = rank
        trailers["schema_crc"] = schema.crc
        trailers["commit"] = commit
        trailers["crc"] = [_core.crc32c(record) for record in records[:, :-4]]


def record_problem(schema: ExpertSchema, record: bytes, expert_id: int, group_id: int) -> str | None:
    """What is wrong with the bytes found where a record should be, or None."""
    if len(record) != schema.record_bytes:
        return f"the record has {len(record)} bytes, expected {schema.record_bytes}"
    trailer = Trailer.of(record)
    if trailer.magic != MAGIC:
        return f"no record here: magic is {trailer.magic!r}, expected {MAGIC!r}"
    crc = crc32c(record[:-4])
    if trailer.crc != crc:
        return f"checksum of the record is {crc:#010x}, its trailer says {trailer.crc:#010x}"
    expected = {
        "version": RECORD_VERSION,
        "flags": 0,
        "expert_id": expert_id,
        "group_id": group_id,
        "payload_bytes": schema.payload_bytes,
        "schema_crc": schema.crc,
        "reserved": 0,
    }
    for name, value in expected.items():
        if getattr(trailer, name) != value:
            return f"the record's {name} is {getattr(trailer, name)}, expected {value}"
    if not 1 <= trailer.rank <= schema.rank:
        return f"the record's rank is {trailer.rank}, expected 1 to {schema.rank}"
    return None


def decode_record(schema: ExpertSchema, record: bytes) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """The expert in a record that has been checked: module name -> (A [r, d_in], B [d_out, r]), read-only views."""
    rank = Trailer.of(record).rank
    weights = {}
    for name, section in schema.sections.items():
        a = np.frombuffer(record, schema.numpy_dtype, rank * section.d_in, section.a_offset)
        b = np.frombuffer(record, schema.numpy_dtype, rank * section.d_out, section.b_offset)
        weights[name] = (a.reshape(rank, section.d_in), b.reshape(rank, section.d_out).T)
    return weights


def _section(records: NDArray[np.uint8], offset: int, dtype: np.dtype[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The first rows of a section of each record: [m, rank, width], a view."""
    end = offset + shape[0] * shape[1] * dtype.itemsize
    return records[:, offset:end].view(dtype).reshape(len(records), *shape)


def _checked(schema: ExpertSchema, weights: Weights, count: int | None) -> tuple[int, Weights]:
    """The rank of experts that fit the schema, and their arrays. count: how many; None: one, without that axis."""
    if not isinstance(weights, Mapping):
        raise SchemaError(f"an expert is a mapping {{module: (A, B)}}, not {type(weights).__name__}")
    missing, unknown = schema.modules.keys() - weights.keys(), weights.keys() - schema.modules.keys()
    if missing or unknown:
        raise SchemaError(
            f"the expert's modules differ from the schema's: missing {sorted(missing)}, unknown {sorted(unknown)}"
        )
    many = () if count is None else (count,)
    rank: int | None = None
    arrays: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    for name, (d_in, d_out) in schema.modules.items():
        try:
            a, b = (np.asarray(array) for array in weights[name])
        except (TypeError, ValueError) as error:
            raise SchemaError(f"module {name}: expected a pair of arrays (A, B): {error}") from error
        for what, array in (("A", a), ("B", b)):
            if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
                raise SchemaError(f"module {name}: {what} must be of a float dtype, found {array.dtype}")
        if rank is None and a.ndim == len(many) + 2:
            rank = a.shape[-2]
        if a.shape != (*many, rank, d_in) or b.shape != (*many, d_out, rank):
            n = "" if count is None else f"{count}, "
            raise SchemaError(
                f"module {name}: expected A [{n}r, {d_in}] and B [{n}{d_out}, r] of one rank r, "
                f"found {a.shape} and {b.shape}"
            )
        arrays[name] = (a, b)
    if rank is None or not 1 <= rank <= schema.rank:
        raise SchemaError(f"an expert's rank must be 1 to {schema.rank} in this store, found {rank}")
    for name, pair in arrays.items():
        for what, array in zip("AB", pair, strict=True):
            if not all_finite(array, schema.numpy_dtype):
                raise SchemaError(f"module {name}: {what} holds values that are not finite in {schema.dtype}")
    return rank, arrays


def all_finite(values: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether all values are finite once rounded to `dtype`.

    Rounding keeps their order, so it is enough to round the one farthest from zero (NaN counts as farthest).
    """
    step = max(1, _CHECKED_AT_ONCE * len(values) // max(1, values.size))
    pieces = [values[start : start + step] for start in range(0, len(values), step)]
    halves = (pieces[::2], pieces[1::2])
    if values.nbytes < _CHECKED_BY_TWO:
        extremes = [extreme for half in halves for extreme in _extremes(half)]
    else:
        with ThreadPoolExecutor(len(halves)) as threads:
            extremes = [extreme for half in threads.map(_extremes, halves) for extreme in half]
    with np.errstate(over="ignore", invalid="ignore"):
        return not extremes or bool(np.isfinite(np.concatenate(extremes).astype(dtype)).all())


def _extremes(pieces: list[NDArray[Any]]) -> list[NDArray[Any]]:
    with np.errstate(over="ignore", invalid="ignore"):
        return [_farthest_from_zero(piece) for piece in pieces]


def _farthest_from_zero(values: NDArray[Any]) -> NDArray[Any]:
    """One or two values, with the farthest from zero among them."""
    if values.dtype.itemsize == 2 and values.dtype.isnative:
        # numpy compares 16-bit floats forty times slower than integers, and their bits sort alike.
        magnitudes = values.view(np.uint16) & np.uint16(0x7FFF)
        return np.array([magnitudes.max(initial=0)], dtype=np.uint16).view(values.dtype)
    return np.array([values.min(initial=0), values.max(initial=0)], dtype=values.dtype)

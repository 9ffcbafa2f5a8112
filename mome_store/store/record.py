"""The bytes of one expert: how a record is made, checked and read (the table is in docs/format.md).

    A [r, d_in], then B transposed [r, d_out], of each module in schema order; zeros; the trailer in the last 64 bytes

Both are r-major, so that every rank is two contiguous vectors. An expert whose rank is below the schema's fills its
first rows at the same offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mome_store.errors import SchemaError
from mome_store.store.checksum import crc32c
from mome_store.store.schema import TRAILER_BYTES, ExpertSchema

Weights = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""An expert: module name -> (A [r, d_in], B [d_out, r])."""

MAGIC = b"MOMEREC\n"
RECORD_VERSION = 1
_TRAILER = struct.Struct("<8sIIQQQIIQII")


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
        return cls(*_TRAILER.unpack_from(record, len(record) - TRAILER_BYTES))


def encode_record(schema: ExpertSchema, weights: Weights, expert_id: int, group_id: int, commit: int) -> bytes:
    """The record of an expert.

    weights: A and B of exactly the schema's modules, all of one rank r, 1 <= r <= schema.rank, any float dtype. They
    are rounded to nearest even; float64 goes by way of float32, as in torch and ml_dtypes. Raises SchemaError where a
    name, shape or dtype does not fit, or a value is not finite once rounded.
    """
    rank = _check_shapes(schema, weights)
    buffer = np.zeros(schema.record_bytes, dtype=np.uint8)
    for name, section in schema.sections.items():
        a, b = weights[name]
        for what, values, offset in (("A", np.asarray(a), section.a_offset), ("B", np.asarray(b).T, section.b_offset)):
            stored = buffer[offset : offset + values.size * schema.numpy_dtype.itemsize].view(schema.numpy_dtype)
            with np.errstate(over="ignore"):
                stored[:] = values.reshape(-1)
            if not np.isfinite(stored).all():
                raise SchemaError(f"module {name}: {what} holds values that are not finite in {schema.dtype}")
    at = schema.record_bytes - TRAILER_BYTES
    fields = (MAGIC, RECORD_VERSION, 0, expert_id, group_id, schema.payload_bytes, rank, schema.crc, commit, 0)
    buffer[at:] = np.frombuffer(_TRAILER.pack(*fields, 0), np.uint8)
    buffer[-4:] = np.frombuffer(crc32c(buffer[:-4]).to_bytes(4, "little"), np.uint8)
    return buffer.tobytes()


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


def _check_shapes(schema: ExpertSchema, weights: Weights) -> int:
    """The rank of an expert whose modules, shapes and dtypes fit the schema."""
    if not isinstance(weights, Mapping):
        raise SchemaError(f"an expert is a mapping {{module: (A, B)}}, not {type(weights).__name__}")
    missing, unknown = schema.modules.keys() - weights.keys(), weights.keys() - schema.modules.keys()
    if missing or unknown:
        raise SchemaError(
            f"the expert's modules differ from the schema's: missing {sorted(missing)}, unknown {sorted(unknown)}"
        )
    rank: int | None = None
    for name, (d_in, d_out) in schema.modules.items():
        try:
            a, b = (np.asarray(array) for array in weights[name])
        except (TypeError, ValueError) as error:
            raise SchemaError(f"module {name}: expected a pair of arrays (A, B): {error}") from error
        for what, array in (("A", a), ("B", b)):
            if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
                raise SchemaError(f"module {name}: {what} must be of a float dtype, found {array.dtype}")
        if rank is None and a.ndim == 2:
            rank = a.shape[0]
        if a.shape != (rank, d_in) or b.shape != (d_out, rank):
            raise SchemaError(
                f"module {name}: expected A [r, {d_in}] and B [{d_out}, r] of one rank r, found {a.shape} and {b.shape}"
            )
    if rank is None or not 1 <= rank <= schema.rank:
        raise SchemaError(f"an expert's rank must be 1 to {schema.rank} in this store, found {rank}")
    return rank

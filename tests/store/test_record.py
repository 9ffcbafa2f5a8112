"""A record: every byte is where the format says, what goes in comes out, and damage is seen."""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome_store.errors import SchemaError
from mome_store.store import ExpertSchema
from mome_store.store.record import decode_record, encode_record, record_problem

WIDTHS = st.integers(1, 12).map(lambda n: 8 * n)


def random_expert(schema: ExpertSchema, rank: int, seed: int, dtype: Any = np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal((rank, d_in)).astype(dtype), rng.standard_normal((d_out, rank)).astype(dtype))
        for name, (d_in, d_out) in schema.modules.items()
    }


def test_the_bytes_of_a_record_are_those_of_the_format_table() -> None:
    schema = ExpertSchema({"x": (8, 16), "y": (24, 8)}, rank=3, dtype="float32")
    expert = random_expert(schema, rank=2, seed=1)
    record = encode_record(schema, expert, expert_id=7, group_id=5, commit=9)

    expected = bytearray(4096)
    at = 0
    for name in ("x", "y"):
        for rows in (expert[name][0], expert[name][1].T):
            at = -(-at // 256) * 256
            content = np.ascontiguousarray(rows, "<f4").tobytes()
            expected[at : at + len(content)] = content
            at += 3 * rows.shape[1] * 4  # the section has room for the schema's rank
    trailer = struct.pack("<8sIIQQQIIQI", b"MOMEREC\n", 1, 0, 7, 5, at, 2, schema.crc, 9, 0)
    expected[-64:-4] = trailer
    expected[-4:] = google_crc32c.value(bytes(expected[:-4])).to_bytes(4, "little")
    assert record == bytes(expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(WIDTHS, WIDTHS), min_size=1, max_size=4),
    st.sampled_from(["bfloat16", "float16", "float32"]),
    st.integers(1, 8),
    st.data(),
)
def test_what_goes_in_comes_out_rounded_to_the_schema(
    widths: list[tuple[int, int]], dtype: str, rank: int, data: st.DataObject
) -> None:
    schema = ExpertSchema({f"m{i}": pair for i, pair in enumerate(widths)}, rank=rank, dtype=dtype)
    r = data.draw(st.integers(1, rank))
    given_dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16]))
    expert = random_expert(schema, r, data.draw(st.integers(0, 99)), given_dtype)
    record = encode_record(schema, expert, 3, 4, 5)
    assert record_problem(schema, record, 3, 4) is None
    for name, (a, b) in decode_record(schema, record).items():
        for read, put in ((a, expert[name][0]), (b, expert[name][1])):
            assert read.dtype == schema.numpy_dtype and not read.flags.writeable
            assert np.array_equal(read, put.astype(schema.numpy_dtype))


def test_rounding_is_to_nearest_even() -> None:
    schema = ExpertSchema({"x": (8, 8)}, rank=1)
    step = 2.0**-7  # between bfloat16 numbers from 1 to 2
    a = np.array([[1 + step / 2, 1 + 3 * step / 2, 1 + 0.51 * step, 1 + 0.49 * step, -1 - step / 2, 0, -0.0, 1e-40]])
    read, _ = decode_record(schema, encode_record(schema, {"x": (a, np.zeros((8, 1)))}, 1, 1, 1))["x"]
    assert read.astype(np.float64)[0, :5].tolist() == [1, 1 + 2 * step, 1 + step, 1, -1]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 8 * 4096 - 1))
def test_any_flipped_bit_is_seen(bit: int) -> None:
    schema = ExpertSchema({"x": (8, 16)}, rank=2)
    record = bytearray(encode_record(schema, random_expert(schema, 2, 0), 3, 4, 5))
    record[bit // 8] ^= 1 << bit % 8
    assert record_problem(schema, bytes(record), 3, 4) is not None


def test_a_whole_record_of_something_else_is_seen() -> None:
    schema = ExpertSchema({"x": (8, 16)}, rank=2)
    record = encode_record(schema, random_expert(schema, 2, 0), 3, 4, 5)
    assert "expert_id is 3, expected 2" in str(record_problem(schema, record, 2, 4))
    assert "group_id is 4, expected 1" in str(record_problem(schema, record, 3, 1))
    other = ExpertSchema({"y": (8, 16)}, rank=2)
    assert "schema_crc" in str(record_problem(other, record, 3, 4))
    assert "no record here" in str(record_problem(schema, bytes(4096), 3, 4))
    assert "bytes" in str(record_problem(schema, record[:-1], 3, 4))


A, B = np.ones((2, 8), np.float32), np.ones((16, 2), np.float32)


@pytest.mark.parametrize(
    ("expert", "words"),
    [
        ([("x", (A, B))], "mapping"),
        ({}, "missing .'x'."),
        ({"x": (A, B), "z": (A, B)}, "unknown .'z'."),
        ({"x": (A,)}, "pair of arrays"),
        ({"x": (A[:, :7], B)}, "expected A .r, 8."),
        ({"x": (A, B[:15])}, "expected A"),
        ({"x": (A[:1], B)}, "one rank"),
        ({"x": (A[0], B)}, "expected A"),
        ({"x": (np.ones((3, 8), np.float32), np.ones((16, 3), np.float32))}, "rank must be 1 to 2"),
        ({"x": (A[:0], B[:, :0])}, "rank must be 1 to 2"),
        ({"x": (A.astype(np.int32), B)}, "float dtype"),
        ({"x": (np.where(A == 1, np.nan, A), B)}, "not finite in float16"),
        ({"x": (A, B * np.inf)}, "B holds values that are not finite"),
        ({"x": (A * 1e6, B)}, "not finite in float16"),
    ],
)
def test_an_expert_that_does_not_fit_is_refused(expert: Any, words: str) -> None:
    schema = ExpertSchema({"x": (8, 16)}, rank=2, dtype="float16")
    with pytest.raises(SchemaError, match=words):
        encode_record(schema, expert, 1, 1, 1)

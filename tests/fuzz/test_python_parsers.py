"""The parsers of untrusted bytes in Python, over real files with bytes changed by chance: exact, or a typed error.

The mutations know the formats: a checksum may be made to fit what was changed, so that what is behind it is reached.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mome_store.errors import DamagedStoreError, FormatVersionError, StoreNotFoundError
from mome_store.routing.index_cache import load_or_build_index
from mome_store.store import ExpertStore
from mome_store.store.catalog import CatalogState, load_state
from mome_store.store.record import Trailer, decode_record, record_problem
from mome_store.store.shard import Shard, ShardRow
from tests.damage.small_store import make_small_store
from tests.store.conftest import memory_directory

FAST, SLOW = 150, 5_000
EXAMPLES = [
    pytest.param(FAST, id="fast"),
    pytest.param(SLOW, id="slow", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]


@pytest.fixture(scope="module")
def store() -> Iterator[Path]:
    with memory_directory() as place:
        make_small_store(place / "store")
        yield place / "store"


@pytest.fixture(scope="module")
def state(store: Path) -> CatalogState:
    return load_state(store)


def mutations(content: bytes) -> st.SearchStrategy[bytes]:
    """Some edits: bytes put in, taken out or changed, a cut, something doubled."""
    at = st.integers(0, len(content))
    word = st.one_of(st.binary(max_size=16), st.sampled_from([b"[" * 2000, b"\0" * 16, b"\xff" * 16, b'"', b"{", b"0"]))
    edit = st.tuples(at, st.integers(0, 64), word)

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = content
        for start, taken, put in edits:
            changed = changed[:start] + put + changed[start + taken :]
        return changed

    return st.lists(edit, min_size=1, max_size=4).map(apply)


def words(content: bytes, first: int, size: int) -> st.SearchStrategy[bytes]:
    """Some of the little-endian numbers of `size` bytes from `first` on replaced; the length stays."""
    count = (len(content) - first) // size
    limit = 2 ** (8 * size) - 1
    near = st.sampled_from([0, 1, 2, 4095, 4096, 4097, 8192, limit, limit - 1, limit // 2, limit - 4095])
    edit = st.tuples(st.integers(0, count - 1), st.one_of(near.map(lambda n: n & limit), st.integers(0, limit)))

    def apply(edits: list[tuple[int, int]]) -> bytes:
        changed = bytearray(content)
        for at, number in edits:
            changed[first + at * size : first + (at + 1) * size] = number.to_bytes(size, "little")
        return bytes(changed)

    return st.lists(edit, min_size=1, max_size=4).map(apply)


def run(examples: int, strategy: st.SearchStrategy[Any], property_: Any) -> None:
    """Checks the property with so many examples, always the same ones."""
    checks = [HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large]
    given(strategy)(
        settings(max_examples=examples, deadline=5000, derandomize=True, database=None, suppress_health_check=checks)(
            property_
        )
    )()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_a_shard_with_any_index(store: Path, state: CatalogState, tmp_path: Path, examples: int) -> None:
    """With checksums that fit: rows that are read lie in the file, and no two in the same place."""
    row = state.shards[0]
    assert row.array == "experts"
    original = (store / "experts/c/0/0").read_bytes()
    index_start = row.rows * 4096
    place = tmp_path / "store"
    shutil.copytree(store, place)

    def check(content: bytes) -> None:
        (place / "experts/c/0/0").write_bytes(content)
        crc = google_crc32c.value(content[index_start:-4])
        (place / "experts/c/0/0").write_bytes(content[:-4] + crc.to_bytes(4, "little"))
        named = ShardRow(row.array, row.number, row.rows, row.bytes, crc, row.content_crc)
        try:
            shard = Shard(place, state.layout, named)
        except DamagedStoreError as error:
            assert error.file == "experts/c/0/0"
            return
        try:
            offsets = [offset for offset in shard.offsets().tolist() if offset != -1]
            assert offsets == [0]
            for i in range(state.layout.rows_per_shard):
                with suppress(DamagedStoreError):
                    assert shard.read_row(i) == content[:4096]
        finally:
            shard.close()

    run(examples, words(original[:-4], index_start, 8).map(lambda changed: changed + bytes(4)), check)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_a_record_with_any_trailer(store: Path, state: CatalogState, examples: int) -> None:
    """With a checksum that fits: what passes is the expert that was asked for, and can be decoded."""
    schema = state.layout.schema
    record = (store / "experts/c/0/0").read_bytes()[: schema.record_bytes]

    def check(changed: bytes) -> None:
        for content in (changed, changed[:-4] + google_crc32c.value(changed[:-4]).to_bytes(4, "little")):
            problem = record_problem(schema, content, 1, 1)
            if problem is None:
                trailer = Trailer.of(content)
                assert (trailer.expert_id, trailer.group_id, trailer.schema_crc) == (1, 1, schema.crc)
                assert 1 <= trailer.rank <= schema.rank
                [(a, b)] = decode_record(schema, content).values()
                assert a.shape == (trailer.rank, 8) and b.shape == (8, trailer.rank)

    run(examples, st.one_of(words(record, len(record) - 64, 4), mutations(record)), check)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", ["zarr.json", "experts/zarr.json"])
def test_metadata_with_any_change(store: Path, state: CatalogState, tmp_path: Path, name: str, examples: int) -> None:
    place = tmp_path / "store"
    shutil.copytree(store, place)
    original = (store / name).read_bytes()

    def check(content: bytes) -> None:
        (place / name).write_bytes(content)
        try:
            with ExpertStore.open(place) as opened:
                assert (opened.schema, opened.base_model) == (state.layout.schema, state.layout.base_model)
        except (DamagedStoreError, FormatVersionError, StoreNotFoundError) as error:
            assert name in str(error)

    numbers = st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    )
    members = st.tuples(st.sampled_from(sorted(json.loads(original))), numbers).map(
        lambda changed: json.dumps({**json.loads(original), changed[0]: changed[1]}).encode()
    )
    run(examples, st.one_of(mutations(original), members), check)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_an_index_file_with_any_header(store: Path, tmp_path: Path, examples: int) -> None:
    """Its keys are exact whatever the header says; its checksum is made to fit where the header is still one."""
    keys = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    load_or_build_index(tmp_path, 1, keys)
    file = tmp_path / "index" / "1.faiss"
    header, _, content = file.read_bytes().partition(b"\n")
    queries = np.eye(4, dtype=np.float32)
    scores, rows = load_or_build_index(tmp_path, 1, keys).search(queries, 5)

    def sealed(line: bytes) -> bytes:
        try:
            fields = json.loads(line)
            unsealed = json.dumps({**fields, "crc32c": 0}, sort_keys=True, separators=(",", ":")).encode()
        except (ValueError, TypeError, RecursionError):
            return line
        fields["crc32c"] = google_crc32c.extend(google_crc32c.value(unsealed), content)
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    def check(line: bytes) -> None:
        for written in (line, sealed(line)):
            file.write_bytes(written + b"\n" + content)
            with_it, found = load_or_build_index(tmp_path, 1, keys).search(queries, 5)
            assert np.array_equal(with_it, scores) and np.array_equal(found, rows)

    values = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4) | st.just([])
    fields = st.dictionaries(st.sampled_from([*json.loads(header), "more"]), values, min_size=1, max_size=3).map(
        lambda changed: json.dumps({**json.loads(header), **changed}).encode()
    )
    run(examples, st.one_of(mutations(header), fields), check)

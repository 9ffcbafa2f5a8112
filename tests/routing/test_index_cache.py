"""The index file is only a cache: whatever state it is in, a search answers as if it weren't there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store.routing import index_cache
from mome_store.routing.index import KeyIndex
from mome_store.routing.index_cache import load_or_build_index
from mome_store.store.files import FileOperations


@pytest.fixture
def keys() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((100, 24)).astype(np.float32)


def vectors_of(index: KeyIndex) -> NDArray[np.float32]:
    """What FAISS compares queries with."""
    return index.searched.reconstruct_n(0, index.ntotal)


def test_the_second_reader_finds_the_first_ones_index(tmp_path: Path, keys: NDArray[np.float32]) -> None:
    first = load_or_build_index(tmp_path, 5, keys)
    (file,) = (tmp_path / "index").iterdir()
    written = file.stat().st_mtime_ns
    second = load_or_build_index(tmp_path, 5, keys)
    assert file.name == "5.faiss" and file.stat().st_mtime_ns == written
    assert np.array_equal(vectors_of(first), keys) and np.array_equal(vectors_of(second), keys)


def test_a_file_of_another_commit_or_other_keys_is_replaced(tmp_path: Path, keys: NDArray[np.float32]) -> None:
    load_or_build_index(tmp_path, 5, keys)
    assert np.array_equal(vectors_of(load_or_build_index(tmp_path, 6, keys[:50])), keys[:50])
    assert [file.name for file in (tmp_path / "index").iterdir()] == ["6.faiss"]
    # the same commit number in another store: an index folder that was copied, or one left of a store made anew
    assert np.array_equal(vectors_of(load_or_build_index(tmp_path, 6, -keys[:50])), -keys[:50])


@pytest.mark.parametrize("position", [0, 20, -1, -200])
def test_a_flipped_bit_anywhere_is_seen(tmp_path: Path, keys: NDArray[np.float32], position: int) -> None:
    load_or_build_index(tmp_path, 5, keys)
    file = tmp_path / "index" / "5.faiss"
    good = file.read_bytes()
    damaged = bytearray(good)
    damaged[position] ^= 1
    file.write_bytes(damaged)
    assert np.array_equal(vectors_of(load_or_build_index(tmp_path, 5, keys)), keys)
    assert file.read_bytes() == good


@pytest.mark.parametrize("length", [0, 1, 100, 3000, -1])
def test_a_truncated_file_is_seen(tmp_path: Path, keys: NDArray[np.float32], length: int) -> None:
    load_or_build_index(tmp_path, 5, keys)
    file = tmp_path / "index" / "5.faiss"
    file.write_bytes(file.read_bytes()[:length])
    assert np.array_equal(vectors_of(load_or_build_index(tmp_path, 5, keys)), keys)


def test_a_header_that_names_another_size_never_reaches_faiss(
    tmp_path: Path, keys: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_or_build_index(tmp_path, 5, keys)
    file = tmp_path / "index" / "5.faiss"
    header, content = file.read_bytes().split(b"\n", 1)
    monkeypatch.setattr(index_cache.faiss, "deserialize_index", None)
    for change in (
        {"bytes": 2**60},
        {"rows": 10**9},
        {"crc32c": 0},
        {"format": 1},
        {"more": 1},
        {"candidates": 5},
        {"candidates": float("nan")},
    ):
        file.write_bytes(json.dumps(json.loads(header) | change).encode() + b"\n" + content)
        assert np.array_equal(vectors_of(load_or_build_index(tmp_path, 5, keys)), keys)


@pytest.mark.parametrize("content", [b"[" * 4096, b'{"a":' * 800 + b"\n", b"1" * 4096, b"\n", b"null\n", b"{}\n"])
def test_a_file_that_begins_with_anything_else_is_replaced(
    tmp_path: Path, keys: NDArray[np.float32], content: bytes
) -> None:
    load_or_build_index(tmp_path, 5, keys)
    file = tmp_path / "index" / "5.faiss"
    good = file.read_bytes()
    file.write_bytes(content)
    assert np.array_equal(vectors_of(load_or_build_index(tmp_path, 5, keys)), keys)
    assert file.read_bytes() == good


def test_a_read_only_directory_just_means_no_cache(tmp_path: Path, keys: NDArray[np.float32]) -> None:
    (tmp_path / "index").write_text("in the way: also root can't make a folder here")
    assert np.array_equal(vectors_of(load_or_build_index(tmp_path, 5, keys)), keys)


@pytest.mark.parametrize("operation", ["make_directory", "create", "write", "rename"])
def test_a_full_disk_just_means_no_cache(
    tmp_path: Path, keys: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileOperations, operation, full)
    assert np.array_equal(vectors_of(load_or_build_index(tmp_path, 5, keys)), keys)
    assert list(tmp_path.rglob("*.*")) == []


def test_an_index_of_the_same_keys_serves_any_commit(tmp_path: Path, keys: NDArray[np.float32]) -> None:
    load_or_build_index(tmp_path, 5, keys)
    written = (tmp_path / "index" / "5.faiss").stat().st_mtime_ns
    assert np.array_equal(vectors_of(load_or_build_index(tmp_path, 9, keys)), keys)
    assert os.listdir(tmp_path / "index") == ["5.faiss"]
    assert (tmp_path / "index" / "5.faiss").stat().st_mtime_ns == written


def test_no_keys_make_no_file(tmp_path: Path) -> None:
    assert load_or_build_index(tmp_path, 5, np.empty((0, 24), np.float32)).ntotal == 0
    assert not (tmp_path / "index").exists()

"""An index of inverted lists finds what an exact one finds, and is kept and read as that is."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store.routing import index as index_module
from mome_store.routing import index_cache
from mome_store.routing.index import build_index
from mome_store.routing.index_cache import load_or_build_index


@pytest.fixture
def keys() -> NDArray[np.float32]:
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((50, 48))
    keys = centres[chance.integers(0, 50, 5000)] + 0.7 * chance.standard_normal((5000, 48))
    return (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def few_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "EXACT_KEYS", 1000)
    monkeypatch.setattr(index_cache, "EXACT_KEYS", 1000)


def test_up_to_the_limit_the_search_is_exact(keys: NDArray[np.float32]) -> None:
    assert isinstance(build_index(keys), faiss.IndexFlatIP)


@pytest.mark.usefixtures("few_are_exact")
def test_beyond_it_the_nearest_keys_are_found_as_often_as_promised(keys: NDArray[np.float32]) -> None:
    index = build_index(keys)
    assert isinstance(index, faiss.IndexIVFFlat) and 1 <= index.nprobe < index.nlist
    chance = np.random.default_rng(1)
    queries = keys[:500] + 0.05 * chance.standard_normal((500, 48)).astype(np.float32)
    _, expected = faiss.knn(queries, keys, 4, metric=faiss.METRIC_INNER_PRODUCT)
    _, found = index.search(queries, 4)
    assert np.mean([np.isin(e, f).mean() for e, f in zip(expected, found, strict=True)]) > 0.98
    assert np.allclose(index.reconstruct(4321), keys[4321])


@pytest.mark.usefixtures("few_are_exact")
def test_inverted_lists_are_read_back_with_what_they_were_tuned_to(tmp_path: Path, keys: NDArray[np.float32]) -> None:
    first = load_or_build_index(tmp_path, 5, keys)
    written = (tmp_path / "index" / "5.faiss").stat().st_mtime_ns
    second = load_or_build_index(tmp_path, 5, keys)
    assert (tmp_path / "index" / "5.faiss").stat().st_mtime_ns == written
    assert second.nprobe == first.nprobe
    assert np.array_equal(second.search(keys[:50], 4)[1], first.search(keys[:50], 4)[1])
    assert np.allclose(second.reconstruct(77), keys[77])

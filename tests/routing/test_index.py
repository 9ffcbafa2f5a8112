"""A search in two stages finds what an exact one finds, scores it exactly, and is kept and read as that is."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store.routing import index as index_module
from mome_store.routing.index import RECALL, KeyIndex, build_index
from mome_store.routing.index_cache import load_or_build_index

Floats = NDArray[np.float32]


@pytest.fixture
def keys() -> Floats:
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((50, 48))
    return unit(centres[chance.integers(0, 50, 5000)] + 0.7 * chance.standard_normal((5000, 48)))


@pytest.fixture
def few_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "EXACT_KEYS", 1000)


def unit(vectors: NDArray[np.floating]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def other_wordings(keys: Floats, count: int) -> Floats:
    """Queries of another seed than the index makes its own from: each at a cosine of some 0.85 from a key."""
    chance = np.random.default_rng(1)
    chosen = keys[chance.choice(len(keys), count, replace=False)]
    return unit(chosen + 0.62 * unit(chance.standard_normal(chosen.shape)))


def exactly(queries: Floats, keys: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
    """The scores and rows of the nearest keys, by comparing all."""
    scores = queries @ keys.T
    rows = np.argsort(-scores, axis=1)[:, :count]
    return np.take_along_axis(scores, rows, axis=1), rows


def recall(found: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(own, others).mean() for own, others in zip(expected, found, strict=True)]))


def test_up_to_the_limit_the_search_is_exact(keys: Floats) -> None:
    index = build_index(keys)
    queries = other_wordings(keys, 100)
    expected_scores, expected = exactly(queries, keys, 8)
    scores, rows = index.search(queries, 8)
    assert index.candidates == 0
    assert np.array_equal(rows, expected) and np.allclose(scores, expected_scores, atol=1e-6)


@pytest.mark.usefixtures("few_are_exact")
def test_beyond_it_the_nearest_keys_are_found_as_often_as_promised(keys: Floats) -> None:
    index = build_index(keys)
    assert 0 < index.candidates < len(keys) and index.searched.nprobe < index.searched.nlist
    queries = other_wordings(keys, 1000)
    _, expected = exactly(queries, keys, 4)
    assert recall(index.search(queries, 4)[1], expected) >= RECALL
    assert recall(index.search(queries, 4)[1], expected[:, :1]) >= 0.998


@pytest.mark.usefixtures("few_are_exact")
def test_scores_and_order_are_those_of_the_keys_themselves(keys: Floats) -> None:
    index = build_index(keys)
    queries = other_wordings(keys, 100)
    scores, rows = index.search(queries, 32)
    assert np.allclose(scores, np.einsum("nkd,nd->nk", keys[rows], queries), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(each)) == 32 for each in rows.tolist())


@pytest.mark.usefixtures("few_are_exact")
def test_with_every_key_a_candidate_the_search_is_exact(keys: Floats) -> None:
    index = build_index(keys)
    index.searched.nprobe = index.searched.nlist
    queries = other_wordings(keys, 50)
    everything = KeyIndex(keys, index.searched, candidates=len(keys))
    assert np.array_equal(everything.search(queries, 32)[1], exactly(queries, keys, 32)[1])


@pytest.mark.usefixtures("few_are_exact")
def test_a_key_is_given_back_as_it_is_stored(keys: Floats) -> None:
    index = build_index(keys)
    assert all(np.array_equal(index.reconstruct(row), keys[row]) for row in range(0, len(keys), 100))


@pytest.mark.usefixtures("few_are_exact")
def test_a_query_finds_the_same_in_any_company(keys: Floats) -> None:
    index = build_index(keys)
    queries = other_wordings(keys, 100)
    scores, rows = index.search(queries, 32)
    for i, query in enumerate(queries):
        alone, found = index.search(query[None], 32)
        assert np.array_equal(alone[0], scores[i]) and np.array_equal(found[0], rows[i])


@pytest.mark.usefixtures("few_are_exact")
@pytest.mark.parametrize("count", [1000, 5000])
def test_as_many_keys_are_found_as_are_asked_for(keys: Floats, count: int) -> None:
    index = build_index(keys)
    index.searched.nprobe = 1  # its list holds far fewer
    queries = other_wordings(keys, 3)
    assert np.array_equal(np.sort(index.search(queries, count)[1]), np.sort(exactly(queries, keys, count)[1]))


@pytest.mark.usefixtures("few_are_exact")
def test_the_same_keys_give_the_same_index(keys: Floats) -> None:
    first, second = build_index(keys), build_index(keys.copy())
    assert first.candidates == second.candidates
    assert np.array_equal(faiss.serialize_index(first.searched), faiss.serialize_index(second.searched))


@pytest.mark.usefixtures("few_are_exact")
def test_many_equal_keys_don_t_make_the_search_look_everywhere() -> None:
    chance = np.random.default_rng(2)
    keys = np.repeat(unit(chance.standard_normal((100, 48))), 50, axis=0)
    index = build_index(keys)
    assert index.searched.nprobe < index.searched.nlist / 2


@pytest.mark.usefixtures("few_are_exact")
def test_keys_that_their_codes_can_t_tell_apart_are_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_MANY_CANDIDATES", 8)
    monkeypatch.setattr(index_module, "_MOST_CANDIDATES", 16)
    chance = np.random.default_rng(3)
    keys = unit(unit(chance.standard_normal((1, 48))) + 0.003 * chance.standard_normal((3000, 48)))
    index = build_index(keys)
    queries = other_wordings(keys, 50)
    scores, _ = index.search(queries, 4)
    assert index.candidates == 0
    assert np.allclose(scores, exactly(queries, keys, 4)[0], atol=1e-6)


@pytest.mark.usefixtures("few_are_exact")
@pytest.mark.parametrize("dim", [1, 7, 24])
def test_keys_of_any_width(dim: int) -> None:
    keys = unit(np.random.default_rng(4).standard_normal((1500, dim)))
    index = build_index(keys)
    assert np.allclose(index.search(keys[:50], 1)[0], 1, atol=1e-2)


@pytest.mark.usefixtures("few_are_exact")
def test_it_is_read_back_with_what_it_was_tuned_to(tmp_path: Path, keys: Floats) -> None:
    first = load_or_build_index(tmp_path, 5, keys)
    written = (tmp_path / "index" / "5.faiss").stat().st_mtime_ns
    second = load_or_build_index(tmp_path, 5, keys)
    assert (tmp_path / "index" / "5.faiss").stat().st_mtime_ns == written
    assert (second.searched.nprobe, second.candidates) == (first.searched.nprobe, first.candidates)
    queries = other_wordings(keys, 50)
    for before, after in zip(first.search(queries, 32), second.search(queries, 32), strict=True):
        assert np.array_equal(before, after)
    assert np.array_equal(second.reconstruct(77), keys[77])


@pytest.mark.usefixtures("few_are_exact")
@pytest.mark.parametrize("place", ["candidates", "codes", "end"])
def test_a_damaged_file_is_built_again(tmp_path: Path, keys: Floats, place: str) -> None:
    good = load_or_build_index(tmp_path, 5, keys)
    file = tmp_path / "index" / "5.faiss"
    written = file.read_bytes()
    header, content = written.split(b"\n", 1)
    damaged = bytearray(content)
    match place:
        case "candidates":  # which alone would go unseen: fewer keys would be found
            header = json.dumps(json.loads(header) | {"candidates": 1}).encode()
        case "codes":
            damaged[len(content) // 2] ^= 1
        case _:
            del damaged[-1]
    file.write_bytes(header + b"\n" + damaged)
    again = load_or_build_index(tmp_path, 5, keys)
    assert again.candidates == good.candidates and file.read_bytes() == written


def test_a_search_leaves_faiss_its_threads(keys: Floats) -> None:
    index = build_index(keys)
    before = faiss.omp_get_max_threads()
    index.search(index.reconstruct(0)[None], 3)
    assert faiss.omp_get_max_threads() == before

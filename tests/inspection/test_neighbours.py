"""The nearest key of another group: as a search by hand finds it, and with bounded work for many keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mome_store.inspection import inspect_store, neighbours
from mome_store.inspection.neighbours import nearest_of_another_group
from mome_store.store import ExpertSchema, ExpertStore, Memory

from .conftest import Lived

DIM = 8


def unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), np.float32)


def store_of(path: Path, keys: list[np.ndarray], memories: list[Memory | None]) -> Path:
    schema = ExpertSchema({"layer": (8, 8)}, rank=1)
    expert = {"layer": (np.ones((1, 8)), np.ones((8, 1)))}
    with ExpertStore.create(path, schema, DIM) as store, store.transaction() as txn:
        for own, memory in zip(keys, memories, strict=True):
            txn.add_group([expert], own, memory)
    return path


def of(path: Path) -> neighbours.Neighbours:
    contents = inspect_store(path).contents
    assert contents is not None
    return contents.neighbours


def test_each_group_finds_its_nearest_other_one(lived: Lived) -> None:
    found = of(lived.path)
    groups = sorted(lived.keys)
    keys = {group: unit(lived.keys[group]) for group in groups}
    best = {a: max((float((keys[a] @ keys[b].T).max()), b) for b in groups if b != a) for a in groups}
    assert found.nearest == pytest.approx([best[group][0] for group in groups], abs=1e-6)
    assert found.own == pytest.approx([float(keys[group][0] @ keys[group][1]) for group in groups], abs=1e-6)
    top = max(groups, key=lambda group: best[group][0])
    assert {found.pairs[0].group_id, found.pairs[0].other_id} == {top, best[top][1]}
    similar = [pair.similarity for pair in found.pairs]
    assert similar == sorted(similar, reverse=True)
    assert len({(pair.group_id, pair.other_id) for pair in found.pairs}) == len(found.pairs)
    assert (found.compared, found.cells, found.found) == (2 * len(groups), 1, None)


def test_keys_of_any_length_are_compared_by_direction(tmp_path: Path) -> None:
    key = unit(np.random.default_rng(0).standard_normal((1, DIM)))
    found = of(store_of(tmp_path / "s", [key, 100 * key, np.zeros((1, DIM), np.float32)], [None] * 3))
    assert found.pairs[0].similarity == pytest.approx(1) and found.pairs[0].crowded


def test_wordings_of_one_group_are_no_pair(tmp_path: Path) -> None:
    key = unit(np.random.default_rng(0).standard_normal((1, DIM)))
    found = of(store_of(tmp_path / "s", [np.repeat(key, 3, axis=0)], [None]))
    assert found.pairs == () and np.isnan(found.nearest).all() and found.own.tolist() == pytest.approx([1.0])


def test_the_same_question_with_two_answers_comes_first_and_one_with_the_same_answer_last(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, two, three = (unit(rng.standard_normal((1, DIM))) for _ in range(3))
    memories = [Memory("a?", "1"), Memory("a!", "1"), Memory("b?", "2"), Memory("b!", "3"), Memory("c?", "4")]
    path = store_of(tmp_path / "s", [one, one, two, unit(two + 0.1 * three), three], list(memories))
    contents = inspect_store(path).contents
    assert contents is not None
    judged = contents.pairs(10)
    assert (judged[0][0].group_id, judged[0][0].other_id, judged[0][1]) == (3, 4, False)
    assert (judged[-1][0].group_id, judged[-1][0].other_id, judged[-1][1]) == (1, 2, True)
    assert judged[0][0].crowded and judged[-1][0].similarity > judged[0][0].similarity


def test_with_many_keys_nearly_equal_ones_are_found_within_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "EXACT_KEYS", 500)
    rng = np.random.default_rng(0)
    keys = unit(rng.standard_normal((1200, DIM)))
    copies = rng.choice(600, 20, replace=False)
    keys[600 + copies] = unit(keys[copies] + 0.001 * rng.standard_normal((20, DIM)))
    found = of(store_of(tmp_path / "s", list(keys[:, None]), [None] * len(keys)))
    assert found.cells > 1 and found.checked == neighbours.CHECKED and found.found is not None
    pairs = {(pair.group_id, pair.other_id) for pair in found.pairs[:20]}
    assert len(pairs & {(int(row) + 1, int(row) + 601) for row in copies}) >= 18
    exact, _ = nearest_of_another_group(keys, np.arange(len(keys)), [np.arange(len(keys))])
    assert 0.3 < (found.nearest >= exact - 1e-5).mean() <= 1
    assert found.found == pytest.approx((found.nearest >= exact - 1e-5).mean(), abs=0.15)


def test_equal_keys_beyond_number_cost_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT_KEYS", 100)
    monkeypatch.setattr(neighbours, "_CELL", 64)
    cells = list(neighbours._cells(np.repeat(unit(np.ones((1, DIM))), 1000, axis=0)))
    assert max(len(rows) for rows in cells) <= 64
    assert sorted(np.concatenate(cells).tolist()) == list(range(1000))


def test_of_too_many_keys_whole_groups_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST_KEYS", 60)
    rng = np.random.default_rng(0)
    keys = [unit(rng.standard_normal((3, DIM))) for _ in range(100)]
    found = of(store_of(tmp_path / "s", keys, [None] * 100))
    assert (found.keys, found.compared, len(found.nearest)) == (300, 60, 20)
    assert np.isfinite(found.own).all()

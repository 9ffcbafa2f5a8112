"""A pool's route: the nearest experts, softmax weights, no gate unless the store has one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store import DamagedStoreError, ExpertSchema, ExpertStore, Router, SchemaError
from mome_store.routing.pool import MOST_EXPERTS, PoolSelection, index_of
from mome_store.store import Transaction

DIM = 6


class Vectors:
    """A QueryEncoder whose texts are numbers of rows."""

    dim = DIM
    identity: dict[str, Any] = {"name": "rows", "fingerprint": "rows"}  # noqa: RUF012

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.rows = rows

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.rows[[int(text) for text in texts]]


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_pool(path: Path, selection: PoolSelection | None, experts: int = 9, mode: str = "pool") -> ExpertStore:
    rng = np.random.default_rng(0)
    store = ExpertStore.create(path, ExpertSchema({"layer": (16, 8)}, rank=2), key_dim=DIM)
    with store.transaction() as txn:
        weights = {"layer": (rng.standard_normal((experts, 2, 16)), rng.standard_normal((experts, 8, 2)))}
        txn.add_groups(weights, unit(rng.standard_normal((experts, DIM))), mode=mode)
        if selection is not None:
            selection.store(txn)
    return store


def make_selection(top_k: int = 4, **others: Any) -> PoolSelection:
    w_q = np.random.default_rng(1).standard_normal((DIM, DIM)).astype(np.float32)
    return PoolSelection(top_k, temperature=0.3, w_q=w_q, **others)


QUERIES = unit(np.random.default_rng(2).standard_normal((5, DIM)))


def test_weights_are_the_softmax_of_the_best_scores(tmp_path: Path) -> None:
    selection = make_selection()
    with make_pool(tmp_path / "s", selection) as store, store.snapshot() as snapshot:
        route = Router.open(snapshot, Vectors(QUERIES)).route([*"01234"])
        keys, groups = snapshot.keys()
    projected = unit(QUERIES @ selection.w_q.T)
    for i, scores in enumerate(projected @ keys.T):
        best = np.argsort(-scores)[:4]
        expected = np.exp(scores[best] / 0.3)
        assert route.group_ids[i] == tuple(groups[best].tolist())
        np.testing.assert_allclose(route.weights[i], expected / expected.sum(), rtol=1e-4)
        assert route.scores[i] == pytest.approx(scores[best[0]], abs=1e-5)
        assert [snapshot.expert_groups[snapshot.expert_ids == e][0] for e in route.expert_ids[i]] == groups[
            best
        ].tolist()
    assert route.opened.all()


def test_a_pool_smaller_than_top_k_gives_all_its_experts(tmp_path: Path) -> None:
    with make_pool(tmp_path / "s", make_selection(top_k=32), experts=3) as store, store.snapshot() as snapshot:
        route = Router.open(snapshot, Vectors(QUERIES)).route(["0"])
    assert sorted(route.expert_ids[0].tolist()) == [1, 2, 3]


def test_a_threshold_shuts_the_gate_below_it(tmp_path: Path) -> None:
    with make_pool(tmp_path / "s", make_selection()) as store:
        with store.snapshot() as snapshot:
            scores = Router.open(snapshot, Vectors(QUERIES)).route([*"01234"]).scores
            assert PoolSelection.stored(snapshot) is not None
        between = float(np.sort(scores)[2])
        with store.transaction() as txn:
            make_selection(threshold=between).store(txn)
        with store.snapshot() as snapshot:
            route = Router.open(snapshot, Vectors(QUERIES)).route([*"01234"])
    assert route.opened.tolist() == (scores >= between).tolist() and route.opened.sum() == 3
    assert [len(ids) for ids in route.expert_ids] == [4 if opened else 0 for opened in route.opened]
    np.testing.assert_array_equal(route.scores, scores)


def test_an_embedding_that_is_not_finite_gets_no_expert(tmp_path: Path) -> None:
    rows = QUERIES.copy()
    rows[1, 2] = np.nan
    with make_pool(tmp_path / "s", make_selection()) as store, store.snapshot() as snapshot:
        route = Router.open(snapshot, Vectors(rows)).route([*"012"])
    assert route.opened.tolist() == [True, False, True] and len(route.expert_ids[1]) == 0
    assert np.isneginf(route.scores[1])


def test_an_empty_batch_has_an_empty_route(tmp_path: Path) -> None:
    with make_pool(tmp_path / "s", make_selection()) as store, store.snapshot() as snapshot:
        assert len(Router.open(snapshot, Vectors(QUERIES)).route([])) == 0


def test_a_selection_comes_back_bit_for_bit(tmp_path: Path) -> None:
    selection = make_selection(threshold=0.25)
    make_pool(tmp_path / "s", selection).close()
    with ExpertStore.open(tmp_path / "s") as store, store.snapshot() as snapshot:
        stored = PoolSelection.stored(snapshot)
    assert stored is not None
    assert (stored.top_k, stored.temperature, stored.threshold) == (4, 0.3, 0.25)
    np.testing.assert_array_equal(stored.w_q, selection.w_q)


def test_a_store_without_a_selection_is_no_pool(tmp_path: Path) -> None:
    with make_pool(tmp_path / "s", None, mode="owned") as store, store.snapshot() as snapshot:
        assert PoolSelection.stored(snapshot) is None and Router.open(snapshot, Vectors(QUERIES)).pool is None
        assert snapshot.modes == {"owned"}


def test_groups_of_both_modes_in_a_pool_are_refused(tmp_path: Path) -> None:
    store = make_pool(tmp_path / "s", make_selection(), mode="owned")
    with store, store.snapshot() as snapshot, pytest.raises(SchemaError, match="mode 'owned'"):
        Router.open(snapshot, Vectors(QUERIES))


@pytest.mark.parametrize(
    "value",
    [
        {"top_k": 4, "temperature": 0.1},
        {"top_k": 0, "temperature": 0.1, "threshold": None, "w_q": ""},
        {"top_k": 4, "temperature": 0.1, "threshold": None, "w_q": "AAA"},
        {"top_k": 4, "temperature": 0.1, "threshold": "high", "w_q": ""},
        [],
    ],
)
def test_a_selection_that_nobody_wrote_is_damage(tmp_path: Path, value: Any) -> None:
    def store_it(txn: Transaction) -> None:
        txn.set_meta("pool", value)

    with make_pool(tmp_path / "s", make_selection()) as store:
        with store.transaction() as txn:
            store_it(txn)
        with store.snapshot() as snapshot, pytest.raises(DamagedStoreError, match="pool"):
            PoolSelection.stored(snapshot)


@pytest.mark.parametrize(("top_k", "temperature"), [(0, 0.1), (MOST_EXPERTS + 1, 0.1), (4, 0.0)])
def test_settings_out_of_range_are_refused(top_k: int, temperature: float) -> None:
    with pytest.raises(SchemaError):
        PoolSelection(top_k, temperature, np.eye(DIM, dtype=np.float32))


def test_the_weights_of_a_query_add_up_to_one() -> None:
    keys = unit(np.random.default_rng(3).standard_normal((200, DIM)))
    experts, weights, scores = make_selection(top_k=32).select(index_of(keys), QUERIES)
    assert experts.shape == weights.shape == scores.shape == (5, 32)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()

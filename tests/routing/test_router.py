"""The router: the nearest key's group wins, and the gate opens only where threshold and margin are both met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store.errors import SchemaError
from mome_store.routing import Route, Router

DIM = 16


@dataclass
class FakeSnapshot:
    """What a router uses of a snapshot."""

    path: Path
    vectors: NDArray[np.float32]
    groups: NDArray[np.int64]
    commit: int = 1
    encoder: Mapping[str, Any] | None = None
    metas: dict[str, Any] = field(default_factory=dict)

    @property
    def key_dim(self) -> int:
        return self.vectors.shape[1]

    def keys(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self.vectors, self.groups

    @property
    def expert_groups(self) -> NDArray[np.int64]:
        return np.tile(np.unique(self.groups), 2)

    @property
    def expert_ids(self) -> NDArray[np.int64]:
        """Group g has the experts 10 g and 10 g + 1."""
        return 10 * self.expert_groups + np.repeat([0, 1], len(self.expert_groups) // 2)

    def meta(self, name: str, default: Any = None) -> Any:
        return self.metas.get(name, default)


class TableEncoder:
    """Looks its vectors up."""

    def __init__(self, table: Mapping[str, NDArray[np.float32]], fingerprint: str = "f") -> None:
        self.table = table
        self.dim = DIM
        self.identity = {"name": "table", "fingerprint": fingerprint}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self.table[text] for text in texts])


def unit(*values: float) -> NDArray[np.float32]:
    """A vector with these inner products to e0, e1, ..., filled up to unit length in the last dimension."""
    vector = np.zeros(DIM, np.float32)
    vector[: len(values)] = values
    vector[-1] = np.sqrt(1 - np.square(vector).sum())
    return vector


@pytest.fixture
def snapshot(tmp_path: Path) -> FakeSnapshot:
    # group 7 has two keys, e0 and e1; group 3 has e2
    return FakeSnapshot(tmp_path, np.eye(3, DIM, dtype=np.float32), np.array([7, 7, 3]))


def open_router(
    snapshot: FakeSnapshot, table: Mapping[str, NDArray[np.float32]] | None = None, **gate: float
) -> Router:
    return Router.open(snapshot, TableEncoder(table or {}), **gate)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "opened"),
    [
        (unit(0.8, 0, 0.2), True),
        (unit(0.2, 0.8, 0.2), True),  # the group's other key
        (unit(0.69, 0, 0.2), False),  # below the threshold
        (unit(0.701, 0.7, 0.1), True),  # another key of the same group is no rival
        (unit(0.72, 0, 0.61), True),  # just far enough ahead
        (unit(0.72, 0, 0.63), False),
    ],
)
def test_the_gate_opens_only_where_score_and_lead_suffice(
    snapshot: FakeSnapshot, query: NDArray[np.float32], opened: bool
) -> None:
    route = open_router(snapshot, {"q": query}, threshold=0.699, margin=0.1).route(["q"])
    assert route.opened.tolist() == [opened]
    assert route.scores[0] == pytest.approx(query[:2].max())
    assert route.group_ids == (((7,) if opened else ()),)
    assert route.expert_ids[0].tolist() == ([70, 71] if opened else [])
    assert route.weights[0].tolist() == ([1.0, 1.0] if opened else [])


def test_each_query_of_a_batch_has_its_own_route(snapshot: FakeSnapshot) -> None:
    table = {"a": unit(0.9), "b": unit(0, 0, 0.95), "none": unit(0.1)}
    router = open_router(snapshot, table, threshold=0.5, margin=0.1)
    route = router.route(["a", "none", "b", "a"])
    assert len(route) == 4
    assert route.group_ids == ((7,), (), (3,), (7,))
    for i, query in enumerate(["a", "none", "b", "a"]):
        alone = router.route([query])
        assert alone.group_ids[0] == route.group_ids[i] and alone.scores[0] == pytest.approx(route.scores[i])


def test_the_winner_is_that_of_an_exhaustive_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((500, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = rng.integers(0, 120, 500)
    queries = rng.standard_normal((60, DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    table = {str(i): query for i, query in enumerate(queries)}
    router = open_router(FakeSnapshot(tmp_path, vectors, groups), table)
    for query, found in zip(queries, router.score(list(table)), strict=True):
        best = {group: (vectors[groups == group] @ query).max() for group in set(groups.tolist())}
        ranked = sorted(best, key=best.__getitem__, reverse=True)
        assert [candidate.group_id for candidate in found[:2]] == ranked[:2]
        assert found[0].score == pytest.approx(best[ranked[0]], abs=1e-6)
        assert all(vectors[candidate.key] @ query == pytest.approx(candidate.score, abs=1e-6) for candidate in found)


@pytest.mark.parametrize("likeness", [0.0, 0.6, 0.99])
def test_the_lead_is_the_share_of_the_way_from_a_tie_to_the_key_however_alike_two_facts_are(
    tmp_path: Path, likeness: float
) -> None:
    key, rival = unit(1.0), unit(likeness)
    tie = (key + rival) / np.linalg.norm(key + rival)
    table = {"key": key, "tie": tie, "between": (key + tie) / 2}
    router = open_router(FakeSnapshot(tmp_path, np.stack([key, rival]), np.array([1, 2])), table)
    at_key, at_tie, between = (router.lead(found) for found in router.score(["key", "tie", "between"]))
    assert at_key == pytest.approx(1, abs=1e-4)
    assert at_tie == pytest.approx(0, abs=1e-4)
    assert between == pytest.approx(0.5, abs=1e-4)


def test_two_groups_with_the_same_key_never_open(tmp_path: Path) -> None:
    same = FakeSnapshot(tmp_path, np.stack([unit(0.6, 0.5)] * 2), np.array([1, 2]))
    assert not open_router(same, {"q": unit(0.6, 0.5)}).route(["q"]).opened[0]


def test_a_group_that_fills_the_whole_top_k_does_not_hide_its_rival(tmp_path: Path) -> None:
    vectors = np.stack([unit(1 - i / 1000) for i in range(400)] + [unit(0.5)])
    router = open_router(FakeSnapshot(tmp_path, vectors, np.array([1] * 400 + [2])), {"q": unit(1.0)})
    (found,) = router.score(["q"])
    assert [candidate.group_id for candidate in found] == [1, 2]
    assert found[1].score == pytest.approx(0.5, abs=1e-6)


def test_the_only_group_of_a_store_needs_no_lead(tmp_path: Path) -> None:
    router = open_router(
        FakeSnapshot(tmp_path, unit(1.0)[None], np.array([1])), {"q": unit(0.8)}, threshold=0.7, margin=0.1
    )
    assert router.route(["q"]).opened.tolist() == [True]


def test_an_empty_store_and_an_empty_batch_are_shut(tmp_path: Path, snapshot: FakeSnapshot) -> None:
    empty = FakeSnapshot(tmp_path, np.empty((0, DIM), np.float32), np.empty(0, np.int64))
    route = open_router(empty, {"q": unit(1.0)}).route(["q"])
    assert not route.opened.any() and route.expert_ids[0].size == 0 and route.scores[0] == -np.inf
    assert len(open_router(snapshot).route([])) == 0


def test_a_refreshed_router_sees_new_keys(snapshot: FakeSnapshot) -> None:
    router = open_router(snapshot, {"q": unit(0, 0, 0, 0.99)}, threshold=0.5, margin=0.1)
    assert not router.route(["q"]).opened[0]
    grown = FakeSnapshot(snapshot.path, np.eye(4, DIM, dtype=np.float32), np.array([7, 7, 3, 8]), commit=2)
    router.refresh(grown)  # type: ignore[arg-type]
    assert router.route(["q"]).group_ids == ((8,),)


def test_the_store_says_where_its_gate_opens_unless_the_caller_does(snapshot: FakeSnapshot) -> None:
    snapshot.metas["router"] = {"threshold": 0.125, "margin": 0.5}
    router = open_router(snapshot)
    assert (router.threshold, router.margin) == (0.125, 0.5)
    router = open_router(snapshot, threshold=0.25)
    assert (router.threshold, router.margin) == (0.25, 0.5)


def test_another_encoder_than_the_stores_is_refused(snapshot: FakeSnapshot) -> None:
    snapshot.encoder = {"name": "first", "fingerprint": "f"}
    Router.open(snapshot, TableEncoder({}, "f"))  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="first"):
        Router.open(snapshot, TableEncoder({}, "g"))  # type: ignore[arg-type]


def test_keys_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="8 dimensions"):
        open_router(FakeSnapshot(tmp_path, np.eye(8, dtype=np.float32), np.arange(8)))


def test_a_shut_route_has_no_experts() -> None:
    route = Route.shut(3)
    assert len(route) == 3 and not route.opened.any()
    assert all(ids.size == 0 for ids in route.expert_ids) and all(w.size == 0 for w in route.weights)

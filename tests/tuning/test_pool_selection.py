"""The generalisation stage: wordings of a fact come to share their experts, facts come to part, the load evens out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store.routing.pool import PoolSelection, index_of
from mome_store.tuning.pool_selection import train_selection
from mome_store.tuning.pool_settings import PoolSettings

FACTS, WORDINGS, DIM = 40, 3, 24


def embeddings(seed: int = 0) -> NDArray[np.float32]:
    """Wordings as an encoder gives them: a part that all facts share, the fact's own, and the wording's own."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(DIM)
    own = np.repeat(rng.standard_normal((FACTS, DIM)), WORDINGS, 0)
    rows = shared + 0.8 * own + 0.3 * np.tile(rng.standard_normal((WORDINGS, DIM)), (FACTS, 1))
    rows += 0.2 * rng.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


FACT_OF = np.repeat(np.arange(FACTS), WORDINGS)


def weights_over_all(experts: int, settings: PoolSettings, temperature: float = 0.1) -> NDArray[np.float32]:
    """[wordings, experts]: the weights that the trained selection gives, 0 where an expert is not selected."""
    embedded = embeddings()
    trained = train_selection(embedded, FACT_OF.tolist(), experts, temperature, settings)
    selection = PoolSelection(min(8, experts), temperature, trained.w_q)
    rows, weights, _ = selection.select(index_of(trained.keys), embedded)
    spread = np.zeros((len(embedded), experts), np.float32)
    np.put_along_axis(spread, rows, weights, 1)
    return spread


def likeness(spread: NDArray[np.float32]) -> tuple[float, float]:
    """Mean overlap of the weights of two wordings of one fact, and of two facts."""
    overlap = np.sqrt(spread) @ np.sqrt(spread).T
    same = FACT_OF[:, None] == FACT_OF[None]
    others = same & ~np.eye(len(spread), dtype=bool)
    return float(overlap[others].mean()), float(overlap[~same].mean())


@pytest.mark.parametrize("experts", [40, 16])
def test_wordings_share_their_experts_and_facts_part(experts: int) -> None:
    before = likeness(weights_over_all(experts, PoolSettings(selection_steps=0)))
    after = likeness(weights_over_all(experts, PoolSettings(selection_steps=200)))
    assert after[0] > 0.95 and after[0] >= before[0]
    assert after[1] < 0.7 * before[1]


def test_every_expert_gets_its_share() -> None:
    loads = [weights_over_all(16, PoolSettings(selection_steps=200, balance=balance)).sum(0) for balance in (0.0, 1.0)]
    unevenness = [float(load.max() / load.mean()) for load in loads]
    assert unevenness[1] < 1.6 and unevenness[1] <= unevenness[0] and (loads[1] > 0).all()


def test_the_same_seed_gives_the_same_selection() -> None:
    one, other = (train_selection(embeddings(), FACT_OF.tolist(), 16, 0.1, PoolSettings()) for _ in range(2))
    np.testing.assert_array_equal(one.w_q, other.w_q)
    np.testing.assert_array_equal(one.keys, other.keys)


def test_more_experts_than_facts_and_facts_of_one_wording_are_fine() -> None:
    embedded = embeddings()[::WORDINGS][:3]
    trained = train_selection(embedded, [0, 1, 2], 10, 0.1, PoolSettings())
    assert trained.keys.shape == (10, DIM)
    np.testing.assert_allclose(np.linalg.norm(trained.keys, axis=1), 1, rtol=1e-5)
    best = (embedded @ trained.w_q.T @ trained.keys.T).argmax(1)
    assert len(set(best.tolist())) == 3

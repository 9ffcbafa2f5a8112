"""The gate's features say what they are named for, and its threshold keeps the share that it was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mome_store.routing.gate import (
    FEATURES,
    Background,
    Gate,
    Reading,
    Surroundings,
    Wordings,
    features,
    stored_relations,
)

WIDTH = 8


def unit(*values: float) -> np.ndarray:
    vector = np.zeros(WIDTH, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


PHONE, LOCKER, PET, ANNA, BERT, TEXT = np.eye(6, WIDTH, dtype=np.float32)
BACKGROUND = Background(["phone", "locker", "animal"], np.stack([PHONE, LOCKER, unit(0, 0, 1, 0, 0, 0.2)]))


def key(relation: np.ndarray, entity: np.ndarray) -> np.ndarray:
    return np.stack([relation, entity, TEXT])


def group(relation: np.ndarray, entity: np.ndarray, *wordings: str) -> Wordings:
    blocks = np.stack([key(relation, entity)] * max(1, len(wordings)))
    return Wordings.of_keys(blocks.reshape(len(blocks), -1) / np.float32(3**0.5), [w.split() for w in wordings])


def compared(query: Reading, *candidates: Wordings) -> list[dict[str, float]]:
    blocks = np.concatenate([candidate.blocks for candidate in candidates])
    rows = features(query, candidates, Surroundings(BACKGROUND, stored_relations(blocks)))
    assert np.isfinite(rows).all()
    return [dict(zip(FEATURES, row.tolist(), strict=True)) for row in rows]


ANNAS_PHONE = group(PHONE, ANNA, "phone of anna", "annas phone anna")
ASKS_PHONE = Reading(key(PHONE, ANNA), {"phone": 0.0, "anna": 1.0})


def test_the_group_that_is_asked_for_has_every_similarity() -> None:
    [row] = compared(ASKS_PHONE, ANNAS_PHONE)
    assert row["relation"] == row["entity"] == row["sentence"] == pytest.approx(1)
    assert row["names found"] == 1 and row["name missing"] == 0 and row["own words found"] == 1


def test_a_name_that_the_group_lacks_shows() -> None:
    [row] = compared(Reading(key(PHONE, ANNA), {"phone": 0.0, "anja": 0.9}), ANNAS_PHONE)
    assert row["name missing"] == pytest.approx(0.9) and row["names found"] == 0


def test_another_relation_of_the_same_entity_is_nearer_to_the_background() -> None:
    asks_locker = Reading(key(LOCKER, ANNA), {"locker": 0.0, "anna": 1.0})
    [other], [own] = compared(asks_locker, ANNAS_PHONE), compared(ASKS_PHONE, ANNAS_PHONE)
    assert other["background"] < -0.5 and own["background"] == pytest.approx(0, abs=1e-6)
    assert other["background lead"] < own["background lead"]
    assert other["other word asked"] > 0.5 > own["other word asked"]
    assert other["own word not asked"] > 0.5 > own["own word not asked"]


def test_a_relation_that_is_stored_of_others_speaks_against_the_group() -> None:
    berts_pet = group(PET, BERT, "pet of bert")
    asks_pet = Reading(key(PET, ANNA), {"pet": 0.0, "anna": 1.0})
    assert compared(asks_pet, ANNAS_PHONE, berts_pet)[0]["stored relations"] < -0.4
    assert compared(asks_pet, ANNAS_PHONE)[0]["stored relations"] == 0, "nothing else is stored to compare with"


def test_the_lead_is_one_at_the_own_key_and_none_in_the_middle() -> None:
    berts_phone = group(PHONE, BERT, "phone of bert")
    between = Reading(key(PHONE, unit(*(ANNA + BERT))), {"phone": 0.0})
    assert compared(ASKS_PHONE, ANNAS_PHONE, berts_phone)[0]["lead"] == pytest.approx(1)
    assert compared(between, ANNAS_PHONE, berts_phone)[0]["lead"] == pytest.approx(0, abs=1e-6)


def test_a_group_without_wordings_is_compared_by_its_keys_alone() -> None:
    [row] = compared(ASKS_PHONE, group(PHONE, ANNA))
    assert row["name missing"] == 0 and row["relation"] == pytest.approx(1)


def test_relations_that_are_kept_stand_for_all_and_none_twice() -> None:
    blocks = np.stack([key(relation, ANNA) for relation in (PHONE, LOCKER, PHONE, PET, LOCKER)])
    assert len(stored_relations(blocks)) == 3
    assert stored_relations(np.empty((0, 3, WIDTH), np.float32)).shape == (0, WIDTH)


def gate(negatives: dict[str, np.ndarray]) -> Gate:
    size = len(FEATURES)
    zero, one = np.zeros(size, np.float32), np.ones(size, np.float32)
    return Gate(zero, one, np.eye(2, size, dtype=np.float32), zero[:2], one[:2], 0.0, negatives)


@given(st.integers(1, 3000), st.sampled_from([0.001, 0.01, 0.05, 0.5]), st.integers(0, 2**32 - 1))
def test_at_most_the_chosen_share_of_what_it_was_calibrated_on_reaches_the_threshold(
    count: int, share: float, seed: int
) -> None:
    values = np.sort(np.random.default_rng(seed).random(count).astype(np.float32))
    threshold = gate({"twin": values}).threshold(share)
    assert (values > threshold).sum() <= share * (count + 1)
    if count < 1 / share - 1:
        assert threshold == 1.0, "too few to promise so little"


def test_the_strictest_kind_decides() -> None:
    low, high = np.linspace(0, 0.1, 2000, dtype=np.float32), np.linspace(0, 0.9, 2000, dtype=np.float32)
    both = gate({"unrelated": low, "twin": high})
    assert both.threshold() == gate({"twin": high}).threshold() > 0.8

"""The gate's features say what they are named for, and its threshold keeps the share that it was asked for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mome_store.routing import gate as gate_module
from mome_store.routing.gate import (
    FEATURES,
    Background,
    Gate,
    Reading,
    StoredWordings,
    Surroundings,
    Wordings,
    features,
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


RARITY = {"icao": 0.9, "iata": 0.9}  # of other words: 0.1


def rarity(words: Iterable[str]) -> dict[str, float]:
    return {word: RARITY.get(word, 0.1) for word in words}


def asks(relation: np.ndarray, entity: np.ndarray, **words: float) -> Reading:
    return Reading(key(relation, entity), words, rarity(words))


def group(relation: np.ndarray, entity: np.ndarray, *wordings: str) -> Wordings:
    blocks = np.stack([key(relation, entity)] * max(1, len(wordings)))
    words = [rarity(wording.split()) for wording in wordings]
    return Wordings.of_keys(blocks.reshape(len(blocks), -1) / np.float32(3**0.5), words)


def compared(query: Reading, *candidates: Wordings) -> list[dict[str, float]]:
    blocks = np.concatenate([candidate.blocks for candidate in candidates])
    groups = np.repeat(np.arange(len(candidates)), [len(candidate.blocks) for candidate in candidates])
    rows = features(query, candidates, Surroundings(BACKGROUND, StoredWordings.of_keys(blocks, groups)))
    assert np.isfinite(rows).all()
    return [dict(zip(FEATURES, row.tolist(), strict=True)) for row in rows]


ANNAS_PHONE = group(PHONE, ANNA, "phone of anna", "annas phone anna")
ASKS_PHONE = asks(PHONE, ANNA, phone=0.0, anna=1.0)


def test_the_group_that_is_asked_for_has_every_similarity() -> None:
    [row] = compared(ASKS_PHONE, ANNAS_PHONE)
    assert row["relation"] == row["entity"] == row["sentence"] == pytest.approx(1)
    assert row["names found"] == 1 and row["name missing"] == 0 and row["own words found"] == 1


def test_a_name_that_the_group_lacks_shows() -> None:
    [row] = compared(asks(PHONE, ANNA, phone=0.0, anja=0.9), ANNAS_PHONE)
    assert row["name missing"] == pytest.approx(0.9) and row["names found"] == 0


def test_another_relation_of_the_same_entity_is_nearer_to_the_background() -> None:
    asks_locker = asks(LOCKER, ANNA, locker=0.0, anna=1.0)
    [other], [own] = compared(asks_locker, ANNAS_PHONE), compared(ASKS_PHONE, ANNAS_PHONE)
    assert other["background"] < -0.5 and own["background"] == pytest.approx(0, abs=1e-6)
    assert other["background lead"] < own["background lead"]
    assert other["other word asked"] > 0.5 > own["other word asked"]
    assert other["own word not asked"] > 0.5 > own["own word not asked"]


def test_a_relation_that_is_stored_of_others_speaks_against_the_group() -> None:
    berts_pet = group(PET, BERT, "pet of bert")
    asks_pet = asks(PET, ANNA, pet=0.0, anna=1.0)
    assert compared(asks_pet, ANNAS_PHONE, berts_pet)[0]["stored relations"] < -0.4
    assert compared(asks_pet, ANNAS_PHONE)[0]["stored relations"] == 0, "nothing else is stored to compare with"


def test_a_group_is_compared_alike_in_any_company() -> None:
    """But for what tells of its rivals. The groups have one wording, two and three."""
    pets = group(PET, BERT, "pet of bert", "berts pet", "bert pet")
    groups = [group(LOCKER, BERT, "locker of bert"), ANNAS_PHONE, pets]
    blocks = np.concatenate([each.blocks for each in groups])
    around = Surroundings(BACKGROUND, StoredWordings.of_keys(blocks, np.repeat(range(3), [1, 2, 3])))
    own = [i for i, name in enumerate(FEATURES) if name not in ("lead", "rival's names")]
    asks_pet = asks(unit(*(PET + 0.2 * PHONE)), unit(*(ANNA + 0.5 * BERT)), pet=0.1, anna=0.9)
    together = features(asks_pet, groups, around)
    for each, row in zip(groups, together, strict=True):
        [alone] = features(asks_pet, [each], around)
        assert row[own] == pytest.approx(alone[own], abs=1e-6)
    assert len({tuple(row) for row in together[:, own].tolist()}) == 3


def test_the_lead_is_one_at_the_own_key_and_none_in_the_middle() -> None:
    berts_phone = group(PHONE, BERT, "phone of bert")
    between = asks(PHONE, unit(*(ANNA + BERT)), phone=0.0)
    assert compared(ASKS_PHONE, ANNAS_PHONE, berts_phone)[0]["lead"] == pytest.approx(1)
    assert compared(between, ANNAS_PHONE, berts_phone)[0]["lead"] == pytest.approx(0, abs=1e-6)


def test_an_acronym_in_place_of_another_shows() -> None:
    icao = group(PHONE, ANNA, "icao code of anna", "anna icao")
    [same] = compared(asks(PHONE, ANNA, icao=0.0, anna=1.0), icao)
    [other] = compared(asks(PHONE, ANNA, iata=0.0, code=0.0, anna=1.0), icao)
    assert same["rare word asked"] == same["own rare word not asked"] == 0
    assert other["rare word asked"] == other["own rare word not asked"] == pytest.approx(0.9)
    assert other["rare word replaced"] == pytest.approx(0.9) and same["rare word replaced"] == 0
    [named] = compared(asks(PHONE, ANNA, iata=1.0, icao=0.0, anna=1.0), icao)
    assert named["rare word asked"] == 0, "a rare name is the business of other features"


def test_a_group_without_wordings_is_compared_by_its_keys_alone() -> None:
    [row] = compared(ASKS_PHONE, group(PHONE, ANNA))
    assert row["name missing"] == 0 and row["relation"] == pytest.approx(1)


def keys(*relations: np.ndarray) -> np.ndarray:
    return np.stack([key(relation, ANNA) for relation in relations])


def asking_the_same(stored: StoredWordings, relation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    own, distinct = stored.asking_the_same(keys(relation)[:, 0] @ stored.blocks.T)
    return own[0], distinct[0]


def test_wordings_that_are_kept_stand_for_all_and_none_twice() -> None:
    found = StoredWordings.of_keys(keys(PHONE, LOCKER, PHONE, PET, LOCKER), np.arange(5))
    assert len(found.blocks) == 3 and len(set(found.relation)) == 3
    empty = StoredWordings.of_keys(np.empty((0, 3, WIDTH), np.float32), np.empty(0, np.int64))
    assert empty.blocks.shape == (0, WIDTH)


def test_of_more_wordings_than_are_compared_the_first_stand_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "_MOST_WORDINGS", 2)
    found = StoredWordings.of_keys(keys(PHONE, LOCKER, PET, PHONE, PET), np.array([0, 0, 1, 2, 2]))
    assert np.array_equal(found.blocks, [PHONE, LOCKER])
    assert asking_the_same(found, LOCKER)[0].tolist() == [True, True], "one group has both"
    assert not asking_the_same(found, PET)[0].any()


def test_wordings_that_groups_join_are_one_relation_however_unlike() -> None:
    call, ring = unit(1, 0, 0, 0, 0, 0, 1), unit(1, 0, 0, 0, 0, 0, 0, 1)
    found = StoredWordings.of_keys(keys(PHONE, call, call, ring, LOCKER), np.array([0, 0, 1, 1, 2]))
    assert len(found.blocks) == 4
    assert asking_the_same(found, PHONE)[0].tolist() == [True, True, True, False]
    assert asking_the_same(found, LOCKER)[0].tolist() == [False, False, False, True]
    assert not asking_the_same(found, PET)[0].any()


def test_a_question_that_is_stored_of_others_word_for_word_speaks_against_a_like_relation() -> None:
    born_when, born_where = unit(1, 0.65), unit(0.65, 1)  # near each other, but no group joins them
    annas = group(born_where, ANNA, "where anna")
    berts = group(born_when, BERT, "when bert")
    [row, _] = compared(asks(born_when, ANNA, when=0.0, anna=1.0), annas, berts)
    assert row["stored relations"] == 0, "they pass for the same"
    assert row["joined relations"] < -0.05


def test_relations_that_one_entity_has_both_are_sure_to_differ() -> None:
    call = unit(1, 0, 0, 0, 0, 0, 1)  # others' wording of the telephone number, or another relation: who knows
    annas, berts_pet = group(PHONE, ANNA, "phone anna"), group(PET, BERT, "pet bert")
    asks_call = asks(call, ANNA, call=0.0, anna=1.0)
    [unknown, *_] = compared(asks_call, annas, berts_pet, group(call, BERT, "call bert"))
    [distinct, *_] = compared(
        asks_call, annas, berts_pet, group(call, BERT, "call bert"), group(PHONE, BERT, "phone bert")
    )
    assert unknown["joined relations"] < -0.2 and distinct["joined relations"] < -0.2
    assert unknown["distinct lead"] == 1 and distinct["distinct lead"] == pytest.approx(-1)
    assert unknown["distinct relations"] == pytest.approx(0.5) and distinct["distinct relations"] < -0.2


def test_one_odd_group_joins_nothing_that_others_keep_apart() -> None:
    """As where the name was not told from what is asked of it, once."""
    relations = [PHONE, LOCKER] * 20 + [PET, TEXT] * 20 + [PHONE, PET]
    found = StoredWordings.of_keys(keys(*relations), np.arange(len(relations)) // 2)
    own, _ = asking_the_same(found, PHONE)
    assert own.tolist() == [True, True, False, False]


def test_an_entitys_two_wordings_of_one_fact_are_not_distinct() -> None:
    found = StoredWordings.of_keys(keys(PHONE, LOCKER, PHONE), np.array([0, 0, 1]))
    assert not found.distinct.any()


def gate(negatives: dict[str, np.ndarray]) -> Gate:
    size = len(FEATURES)
    zero, one = np.zeros(size, np.float32), np.ones(size, np.float32)
    return Gate(zero, one, np.eye(2, size, dtype=np.float32), zero[:2], one[:2], 0.0, negatives)


def test_what_all_but_is_a_wording_of_a_relation_that_is_sure_to_differ_never_opens_the_gate() -> None:
    row = np.zeros((3, len(FEATURES)), np.float32)
    row[:, FEATURES.index("distinct relations")] = -0.2, -0.2, 0.1
    row[:, FEATURES.index("distinct lead")] = -1.0, -0.5, -1.0
    assert (gate({}).probability(row) > 0).tolist() == [False, True, True]


def test_initials_the_other_way_round_are_another_name_and_never_open_the_gate() -> None:
    words = {"j p": 0.2, "p marat": 0.3, "marat": 0.9}
    marats = Wordings.of_keys(keys(PHONE).reshape(1, -1) / np.float32(3**0.5), [rarity(words)])
    [same] = compared(asks(PHONE, ANNA, **words), marats)
    [other] = compared(asks(PHONE, ANNA, **{"p j": 0.2, "j marat": 0.3, "marat": 0.9}), marats)
    [last_name_first] = compared(asks(PHONE, ANNA, **{"marat j": 0.3, "marat": 0.9}), marats)
    assert same["name missing"] == 0 and last_name_first["name missing"] == pytest.approx(0.3)
    row = np.array([[each[name] for name in FEATURES] for each in (same, other)], np.float32)
    assert (gate({}).probability(row) > 0).tolist() == [True, False]


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

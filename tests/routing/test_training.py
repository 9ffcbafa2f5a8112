"""The router's recipe: its lessons are what they say, and a small run of it gives a router that works."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mome_store.routing import KeyEncoder, SentenceEncoder
from mome_store.routing.curriculum.entities import Entities
from mome_store.routing.curriculum.lessons import NEGATIVES, STRANGER, Asker
from mome_store.routing.curriculum.wordings import load_relations
from mome_store.routing.training import OwnFact, RouterSettings, own_lessons, train_router

RELATIONS = load_relations()
KINDS = sorted({relation.kind for relation in RELATIONS})
VOCABULARY = ["water", "music", "teacher", "window", "storm", "paper"]
SMALL = RouterSettings(
    entities=60,
    words_asked=40,
    tagger_steps=8,
    steps=8,
    lessons=6,
    lesson_entities=9,
    background=60,
    gate_steps=60,
    calibration=0.5,
)


def asker(seed: int = 0) -> Asker:
    return Asker(RELATIONS, KINDS, VOCABULARY, seed)


def test_every_kind_of_relation_has_entities_and_several_ways_to_ask() -> None:
    assert set(KINDS) == set(Entities(0).kinds)
    assert all(relation.names and "{e}" in question for relation in RELATIONS for question in relation.questions)
    assert len(RELATIONS) > 700


@pytest.mark.parametrize("held_out", ["phone", "born", "birth", "employer", "locker", "spouse", "pet", "icao"])
def test_what_evaluations_ask_for_is_not_taught(held_out: str) -> None:
    taught = [text for relation in RELATIONS for text in (*relation.names, *relation.questions)]
    assert not [text for text in taught if held_out in text.lower().split()]


def test_a_question_says_where_its_entity_stands() -> None:
    for questions in asker().questions(60):
        for question in questions:
            shown = question.text[question.start : question.end]
            assert question.entity.casefold().startswith(shown.casefold()) and shown
            assert not {"{e}", "{r}", "{t}", "{q}"} & set(re.findall(r"\{.\}", question.text))


def test_a_twin_differs_in_a_single_word() -> None:
    entities = Entities(1)
    for kind in entities.kinds * 5:
        name = entities.draw(kind)
        twin = entities.twin(name)
        assert sum(a != b for a, b in zip(name.split(), twin.split(), strict=True)) == 1
        assert twin.casefold() != name.casefold()


def test_a_lesson_asks_of_every_kind_and_knows_the_answers() -> None:
    lesson = asker().lesson(20)
    assert {query.kind for query in lesson.queries} == {"", *NEGATIVES}
    for query in lesson.queries:
        assert (query.answer is None) == bool(query.kind)
        assert query.answer is None or 0 <= query.answer < len(lesson.facts)


def test_lessons_are_the_same_for_the_same_seed() -> None:
    assert asker(3).lesson(10) == asker(3).lesson(10) != asker(4).lesson(10)


def test_own_facts_are_asked_in_the_wording_that_was_not_stored() -> None:
    facts = [OwnFact((f"a{i}", f"b{i}"), known=i % 5 > 0) for i in range(40)]
    lessons = own_lessons(facts, seed=0)
    assert len(lessons) == 2
    for lesson in lessons:
        for query in lesson.queries:
            assert query.kind in ("", STRANGER)
            if query.answer is not None:
                assert query.text[1:] == lesson.facts[query.answer].wordings[0][1:]
                assert query.text not in lesson.facts[query.answer].wordings
    unknown = {wording for fact in facts if not fact.known for wording in fact.wordings}
    assert not unknown & {w for lesson in lessons for fact in lesson.facts for w in fact.wordings}


def test_too_few_own_facts_make_no_lesson() -> None:
    assert own_lessons([OwnFact(("a", "b"))] * 3, seed=0) == []


def test_a_small_run_gives_a_router_that_reads_and_decides() -> None:
    told: list[str] = []
    sentences = SentenceEncoder()
    router = train_router(sentences, SMALL, lambda what, done, total: told.append(what))
    assert router.recipe["entities"] == 60 and "projection" in told
    assert all(len(values) and np.isfinite(values).all() for values in router.gate.negatives.values())
    encoder = KeyEncoder(sentences, router)
    keys = encoder.encode(["What is the price of the lamp?", "How much is the lamp?"])
    assert np.allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-5)
    facts = [OwnFact((f"What is the code of box {i}?", f"box {i} code")) for i in range(24)]
    tuned = train_router(sentences, SMALL, keep=router, facts=facts)
    assert tuned.fingerprint == router.fingerprint, "the projection is kept"
    assert tuned.gate.output_bias != router.gate.output_bias

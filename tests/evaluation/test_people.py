"""The data set: the same for a seed, nothing held out is trained on, twins differ by little and answers by all."""

from __future__ import annotations

from difflib import SequenceMatcher

import pytest

from mome_store.evaluation import Strangers, make_strangers
from mome_store.evaluation.people import fact_id
from mome_store.evaluation.plain_text import paragraphs
from mome_store.evaluation.questions import choose_questions
from mome_store.evaluation.relations import RELATIONS, STYLES
from mome_store.evaluation.unrelated import TEXTS, everyday_questions


@pytest.fixture(scope="module")
def data() -> Strangers:
    return make_strangers(400, seed=3)


def test_a_seed_gives_the_same_data_set_and_another_seed_another() -> None:
    assert make_strangers(60, seed=1) == make_strangers(60, seed=1)
    assert make_strangers(60, seed=1).facts != make_strangers(60, seed=2).facts


@pytest.mark.parametrize("facts", (2, 3, 12, 100, 1000))
def test_there_are_as_many_facts_as_asked_for_each_once(facts: int) -> None:
    data = make_strangers(facts, seed=0)
    assert len({fact.id for fact in data.facts}) == len(data.facts) == facts
    assert sum(map(len, data.batches())) == facts
    assert all(len(batch) <= 100 for batch in data.batches())
    assert len(data.updated) == len(data.deleted) == max(1, round(0.05 * facts))


def test_too_few_facts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        make_strangers(1, seed=0)


def test_no_held_out_wording_is_ever_trained_on(data: Strangers) -> None:
    trained = {wording.casefold() for fact in data.facts for wording in fact.fact.wordings}
    heldout = {wording.casefold() for fact in data.facts for wording in fact.fact.heldout}
    assert not trained & heldout
    assert len(trained) == 3 * len(data.facts) and len(heldout) == 5 * len(data.facts)


def test_every_relation_has_its_own_wordings_in_every_style() -> None:
    assert len(RELATIONS) == 10 and len(STYLES) == 5
    wordings = [wording for relation in RELATIONS for wording in (*relation.trained, *relation.heldout)]
    assert len(set(wordings)) == 80
    for relation in RELATIONS:
        terse = relation.heldout[STYLES.index("terse")]
        assert "{lower}" in terse and relation.ask(terse, "Ada X") == relation.ask(terse, "Ada X").lower()
        assert all("{name}" in wording for wording in relation.trained)


def test_nothing_that_is_asked_of_the_unknown_is_stored(data: Strangers) -> None:
    stored = {fact.id for fact in data.facts}
    people = {fact.person.casefold() for fact in data.facts}
    texts = {wording.casefold() for fact in data.facts for wording in (*fact.fact.wordings, *fact.fact.heldout)}
    for questions in (data.unknown_people, data.unknown_twins, data.other_relations):
        assert questions and not {question.text.casefold() for question in questions} & texts
    for question in (*data.unknown_people, *data.unknown_twins):
        assert not any(person in question.text.casefold() for person in people)
    for person in {fact.person for fact in data.facts}:
        missing = [relation for relation in RELATIONS if fact_id(person, relation) not in stored]
        asked = [question for question in data.other_relations if person in question.text]
        assert missing and {question.relation.name for question in asked} >= {relation.name for relation in missing}


def test_a_tenth_of_the_people_are_near_twins_with_other_answers(data: Strangers) -> None:
    people = sorted({fact.person for fact in data.facts})
    twins = sorted({fact.person for fact in data.twins})
    assert 0.1 <= len(twins) / len(people) <= 0.25  # a twin and its original both count
    answers = {fact.id: fact.answer for fact in data.facts}
    for person in twins:
        near = [other for other in twins if other != person and SequenceMatcher(None, person, other).ratio() > 0.8]
        assert near
        for other in near:
            for relation in RELATIONS:
                pair = [answers.get(fact_id(name, relation)) for name in (person, other)]
                assert None in pair or pair[0] != pair[1]


def test_updates_change_the_answer_alone_and_spare_the_deleted(data: Strangers) -> None:
    before = {fact.id: fact for fact in data.facts}
    for fact in data.updated:
        assert fact.answer != before[fact.id].answer
        assert fact.fact.wordings == before[fact.id].fact.wordings
        assert fact.answer in fact.statement
    assert not {fact.id for fact in data.updated} & {fact.id for fact in data.deleted}


def test_a_smaller_sample_is_part_of_a_larger_one_and_holds_all_styles_alike(data: Strangers) -> None:
    small, large = choose_questions(data, 10, 20), choose_questions(data, 40, 90)
    for name in ("seen", "heldout", "twins", "routed_seen", "unknown_people", "unrelated", "others"):
        assert set(getattr(small, name)) <= set(getattr(large, name))
    assert set(small.seen) <= set(small.routed_seen)
    assert [sum(q.style == style for q in small.heldout) for style in STYLES] == [2] * 5
    for question, other in zip(small.seen, small.others, strict=True):
        assert question.fact is not None and other.id != question.fact.id and other.relation is question.relation


def test_texts_on_anything_else_are_many_and_name_nobody(data: Strangers) -> None:
    assert len(set(TEXTS)) >= 100 and len({*TEXTS, *everyday_questions()}) == len(TEXTS) + 960
    assert not any(fact.person in text for fact in data.facts for text in (*TEXTS, *paragraphs()))
    assert 550 <= sum(len(paragraph.split()) for paragraph in paragraphs()) <= 750

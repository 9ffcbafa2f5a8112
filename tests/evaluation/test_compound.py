"""Questions for several facts: each kind asks for what it says, and a router is counted right for just these groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from mome_store.evaluation import Strangers, make_strangers
from mome_store.evaluation.compound import (
    FORMS,
    KINDS,
    Changes,
    CompoundQuestion,
    compound_questions,
    measure_changes,
    measure_compound,
)
from mome_store.evaluation.relations import RELATIONS
from mome_store.routing import Route

COUNT = 40


@pytest.fixture(scope="module")
def strangers() -> Strangers:
    return make_strangers(150, seed=4)


@pytest.fixture(scope="module")
def questions(strangers: Strangers) -> dict[str, list[CompoundQuestion]]:
    return compound_questions(strangers, COUNT, seed=4)


def test_every_relation_has_its_forms() -> None:
    assert list(FORMS) == [relation.name for relation in RELATIONS]


def test_a_seed_gives_the_same_questions_and_another_seed_others(
    strangers: Strangers, questions: dict[str, list[CompoundQuestion]]
) -> None:
    assert compound_questions(strangers, COUNT, seed=4) == questions
    assert compound_questions(strangers, COUNT, seed=5) != questions


def test_each_kind_asks_for_as_many_stored_facts_as_it_says(questions: dict[str, list[CompoundQuestion]]) -> None:
    stored = dict(zip(KINDS, (2, 2, 2, 1, 0), strict=True))
    assert {kind: len(asked) for kind, asked in questions.items()} == dict.fromkeys(KINDS, COUNT)
    for kind, asked in questions.items():
        assert all(len({fact.id for fact in each.facts}) == stored[kind] and len(each.alone) == 2 for each in asked)


def test_the_text_names_every_person_that_is_asked_about(questions: dict[str, list[CompoundQuestion]]) -> None:
    for asked in questions.values():
        for each in asked:
            assert "{" not in each.text
            assert all(fact.person.lower() in each.text.lower() for fact in each.facts)


def test_kinds_ask_about_as_many_people_and_relations_as_they_say(questions: dict[str, list[CompoundQuestion]]) -> None:
    for kind, people, relations in ((KINDS[0], 2, 1), (KINDS[1], 1, 2), (KINDS[2], 2, 2)):
        for each in questions[kind]:
            assert len({fact.person for fact in each.facts}) == people
            assert len({fact.relation.name for fact in each.facts}) == relations


class TableRouter:
    """Routes by a table."""

    def __init__(self, groups: Mapping[str, tuple[int, ...]]) -> None:
        self._groups = groups

    def route(self, texts: Sequence[str]) -> Route:
        shut = Route.shut(len(texts))
        groups = tuple(self._groups.get(text, ()) for text in texts)
        for i, each in enumerate(groups):
            shut.opened[i] = bool(each)
        return replace(shut, group_ids=groups)


def test_a_route_is_right_with_all_groups_that_are_asked_for_and_no_other(strangers: Strangers) -> None:
    one, two = strangers.facts[:2]
    asked = [CompoundQuestion(str(i), (one, two), ("one?", "two?")) for i in range(4)]
    router = TableRouter({"0": (1, 2), "1": (2, 1), "2": (1,), "3": (1, 2, 3)})
    plain = TableRouter({"0": (1,), "one?": (1,), "two?": (2,)})
    found = measure_compound(router, plain, {one.id: 1, two.id: 2}, {"both": asked})["both"]  # type: ignore[arg-type]
    assert (found.n, found.right, found.another, found.before, found.apart) == (4, 0.5, 0.25, 0, 1)


def test_changed_routes_and_newly_opened_gates_are_counted() -> None:
    router = TableRouter({"a": (1,), "b": (1, 2), "c": (3,)})
    plain = TableRouter({"a": (1,), "b": (1,)})
    assert measure_changes(router, plain, ["a", "b", "c", "d"]) == Changes(4, changed=2, opened=1)  # type: ignore[arg-type]

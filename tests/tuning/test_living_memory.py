"""A memory that lives: facts that change, go, or would take each other's questions. The others keep every byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mome_store import FactError, MemoryModel, MemoryTuner
from mome_store.routing import Route
from mome_store.tuning import Fact

Make = Callable[..., MemoryModel]
OWL = Fact("Where is the owl?", "in the oak", ("Owl?",))
CAT = Fact("What does the cat eat?", "herring", ("The cat's food?",))


def said(memory: MemoryModel, question: str, **how: Any) -> str:
    return memory.generate([question], max_new_tokens=30, **how)[0].text


def records(memory: MemoryModel) -> dict[str, list[bytes]]:
    snapshot = memory.snapshot
    return {
        stored.question: [snapshot.read_record(int(i)) for i in snapshot.group(group).expert_ids]
        for group, stored in snapshot.memories()
    }


def let_every_route_win(memory: MemoryModel) -> None:
    with memory.store.transaction() as transaction:
        transaction.set_meta("router", {"threshold": -1.0, "margin": -100.0})
    memory.refresh()


def test_an_update_is_said_and_the_old_answer_is_gone(make_memory: Make) -> None:
    memory = make_memory()
    MemoryTuner(memory).memorize([OWL, CAT])
    before = records(memory)
    moved = Fact(OWL.question, "in the elm", OWL.paraphrases)
    report = MemoryTuner(memory).memorize([moved, CAT], update=True)
    assert (report.memorized, report.resumed, report.failed) == (2, 1, ())
    assert [said(memory, wording) for wording in OWL.wordings] == ["in the elm"] * 2
    assert sorted(stored.answer for _, stored in memory.snapshot.memories()) == ["herring", "in the elm"]
    after = records(memory)
    assert after[CAT.question] == before[CAT.question] and after[OWL.question] != before[OWL.question]


def test_another_answer_is_refused_unless_it_is_an_update_of_that_very_fact(make_memory: Make) -> None:
    memory = make_memory()
    MemoryTuner(memory).memorize([OWL, CAT])
    with pytest.raises(FactError, match="update that fact"):
        MemoryTuner(memory).memorize([Fact(OWL.question, "in the elm")])
    with pytest.raises(FactError, match="herring"):  # a wording of another fact is not this one's to change
        MemoryTuner(memory).memorize([Fact(OWL.question, "in the elm", CAT.paraphrases)], update=True)
    assert said(memory, OWL.question) == OWL.answer


def test_an_update_with_the_same_answer_trains_nothing(make_memory: Make) -> None:
    memory = make_memory()
    groups = MemoryTuner(memory).memorize([OWL]).group_ids
    assert MemoryTuner(memory).memorize([OWL], update=True).resumed == 1
    assert tuple(memory.snapshot.group_ids.tolist()) == groups


def test_inserting_and_forgetting_leave_every_other_record_as_it_was(make_memory: Make) -> None:
    memory = make_memory()
    MemoryTuner(memory).memorize([OWL])
    before = records(memory)
    [group] = MemoryTuner(memory).memorize([CAT]).group_ids
    assert records(memory)[OWL.question] == before[OWL.question]
    with memory.store.transaction() as transaction:
        transaction.remove_group(group)
    memory.refresh()
    assert records(memory) == before


def test_what_was_forgotten_is_answered_as_by_the_base_model(make_memory: Make) -> None:
    memory = make_memory()
    base = said(memory, CAT.question, route=Route.shut(1))
    [group] = MemoryTuner(memory).memorize([CAT]).group_ids
    assert said(memory, CAT.question) == CAT.answer != base
    with memory.store.transaction() as transaction:
        transaction.remove_group(group)
    memory.refresh()
    assert said(memory, CAT.question) == base


def test_a_fact_that_takes_an_older_ones_question_is_taken_back_and_reported(make_memory: Make) -> None:
    memory = make_memory()
    let_every_route_win(memory)
    MemoryTuner(memory).memorize([OWL])
    before = records(memory)
    shouted = Fact(OWL.question.upper(), "in the elm")  # the same to this encoder, which knows no case
    report = MemoryTuner(memory).memorize([shouted, CAT])
    assert [failed.fact for failed in report.failed] == [shouted] and OWL.question in report.failed[0].reason
    assert report.memorized == 1 and len(report.group_ids) == 1
    assert records(memory).keys() == {OWL.question, CAT.question}
    assert records(memory)[OWL.question] == before[OWL.question]
    assert said(memory, OWL.question) == OWL.answer


def test_two_wordings_of_one_answer_are_no_theft(make_memory: Make) -> None:
    memory = make_memory()
    let_every_route_win(memory)
    MemoryTuner(memory).memorize([OWL])
    again = Fact(OWL.question.upper(), OWL.answer)
    assert MemoryTuner(memory).memorize([again]).failed == ()

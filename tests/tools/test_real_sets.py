"""The sets of real facts: what is asked about airports, and that a set which is not there is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from mome_store.evaluation.real_data import QuestionSet
from mome_store.tuning import Fact
from mome_tools import real_sets
from mome_tools.real_sets import airport_questions, measure_real_sets
from mome_tools.strangers_tables import real_data_table
from tests.tiny_models import HashEncoder


def test_airports_are_asked_for_in_other_words_and_unknown_ones_are_not_stored() -> None:
    made = airport_questions(30, seed=0, asked=40)
    stored = {wording for fact in made.facts for wording in fact.wordings}
    assert len(made.facts) == 30
    known = made.known["other wordings"]
    assert len(known) == 40 and not {text for text, _ in known} & stored
    assert all(text in made.facts[place].heldout for text, place in known)
    for kind, texts in made.unknown.items():
        assert texts and not set(texts) & stored, kind
    assert all("IATA" in text for text in made.unknown["other relations, IATA code"])
    assert airport_questions(30, seed=0, asked=40) == made != airport_questions(30, seed=1, asked=40)


def two_doors(size: int, seed: int, asked: int) -> QuestionSet:
    facts = [Fact("What colour has the barn's door?", "red"), Fact("How high is the lighthouse?", "41 m")]
    return QuestionSet(facts, {"known": [(fact.question, i) for i, fact in enumerate(facts)]}, {"none": ["0123456789"]})


def not_there(size: int, seed: int, asked: int) -> QuestionSet:
    raise FileNotFoundError("there is no such list")


def test_a_set_that_is_not_there_is_a_line_that_says_so_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_sets, "REAL_SETS", {"lists": not_there, "doors": two_doors})
    missing, doors = measure_real_sets(HashEncoder(), 2, 0, tmp_path)
    assert missing.missing == "there is no such list" and not missing.shares
    assert doors.missing is None and doors.shares["known: right"].value == 1
    assert doors.shares["known: another fact"].value == 0 == doors.shares["none: opened"].value
    assert not list(tmp_path.iterdir())
    lines = real_data_table([missing, doors]).cells
    assert lines[0] == ["2 lists", "not measured: there is no such list", "–", "–"]
    assert ["2 doors", "known: right", "100.0 % (34.2–100.0)", "2"] in lines

"""`mome ask`: which memories an answer names, and what it says was not found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from mome_store.modeling.answers import Answer, AnsweredPart
from mome_store.routing import Route
from mome_store.store import Memory

from .conftest import Mome

ADA = Memory("What is the code of Ada?", "A1")
BO = Memory("What is the code of Bo?", "B2")


def route_to(*groups: int, score: float = 0.75) -> Route:
    return Route(
        (np.array(groups, np.int64),),
        (np.ones(len(groups), np.float32),),
        (groups,),
        np.array([score], np.float32),
        np.array([bool(groups)]),
    )


ANSWERS = {
    "one": Answer("A1", route_to(1), ADA),
    "none": Answer("Paris", route_to(score=0.1), None),
    "several": Answer(
        "...",
        route_to(1, 2),
        ADA,
        (
            AnsweredPart(ADA.question, "A1", 0.98765, 1, ADA),
            AnsweredPart("code of cy", None, 0.1),
            AnsweredPart(BO.question, "B2", 0.75, 2, BO),
        ),
    ),
}
FIRST = {"group_id": 1, "score": 0.9877, "question": ADA.question}
SECOND = {"group_id": 2, "score": 0.75, "question": BO.question}
ALONE = {"group_id": 1, "score": 0.75, "question": ADA.question}


@dataclass
class FakeRouter:
    """Not of a pool."""

    pool: None = None


@dataclass
class FakeMemory:
    """Answers from a table, where a model would."""

    router: FakeRouter = field(default_factory=FakeRouter)

    def generate(self, questions: list[str], max_new_tokens: int) -> list[Answer]:
        return [ANSWERS[question] for question in questions]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mome_tools.commands.ask._open", lambda *_: FakeMemory())


@pytest.mark.parametrize(
    ("question", "fields"),
    [
        ("one", {"answer": "A1", "memory": ALONE, "memories": [ALONE], "not_found": []}),
        ("none", {"answer": "Paris", "memory": None, "memories": [], "not_found": []}),
        ("several", {"answer": "...", "memory": FIRST, "memories": [FIRST, SECOND], "not_found": ["code of cy"]}),
    ],
)
def test_json_names_every_memory_used_and_every_part_that_was_not_found(
    mome: Mome, small_store: Path, question: str, fields: dict[str, Any]
) -> None:
    ran = mome("ask", question, "--store", small_store, "--json")
    assert (ran.code, ran.json) == (0, {"question": question, **fields})


def test_a_reader_is_told_each_memory_beside_the_answer(mome: Mome, small_store: Path) -> None:
    ran = mome("ask", "several", "--store", small_store)
    assert ran.out == "...\n"
    assert all(text in ran.err for text in ("memory 1, score 0.99", ADA.question, "memory 2, score 0.75", BO.question))
    assert "base model" in mome("ask", "none", "--store", small_store).err

"""A question for several facts becomes a turn for each, and its answer a line for each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from mome_store.modeling.answers import NOT_FOUND, AnsweredPart, answer_of, turns_of
from mome_store.routing import Part, Route
from mome_store.store import Memory

ADA = Memory("What is the code of Ada?", "A1")
BO = Memory("Code of Bo", "B2")


@dataclass(frozen=True)
class FakeGroup:
    """What is used of a group."""

    memory: Memory | None
    expert_ids: np.ndarray


class FakeSnapshot:
    """Group g has the experts 10 g and 10 g + 1."""

    def __init__(self, memories: Mapping[int, Memory | None]) -> None:
        self._memories = memories

    def group(self, group: int) -> FakeGroup:
        return FakeGroup(self._memories[group], np.array([10 * group, 10 * group + 1]))


SNAPSHOT = FakeSnapshot({1: ADA, 2: BO, 3: None})
PARTS = (Part("code of ada", 1, 0.9), Part("code of cy", None, 0.2), Part("and of bo", 2, 0.7))


def route_of(*groups: tuple[int, ...], parts: tuple[tuple[Part, ...], ...] = ()) -> Route:
    ids = tuple(np.array([10 * g + i for g in each for i in (0, 1)], np.int64) for each in groups)
    ones = tuple(np.ones(len(each), np.float32) for each in ids)
    return Route(
        ids, ones, groups, np.full(len(groups), 0.7, np.float32), np.array([bool(each) for each in groups]), parts
    )


@pytest.mark.parametrize("parts", [(), ((), ())])
def test_without_parts_a_turn_is_the_question_itself(parts: tuple[tuple[Part, ...], ...]) -> None:
    route = route_of((1,), (), parts=parts)
    turns = turns_of(["a?", "b?"], route, SNAPSHOT)  # type: ignore[arg-type]
    assert turns.questions == ["a?", "b?"] and turns.route is route
    assert turns.of == [range(1), range(1, 2)]


def test_each_group_of_a_part_is_asked_its_stored_question_alone() -> None:
    route = route_of((3,), (1, 2), (), parts=((), PARTS, ()))
    turns = turns_of(["x?", "ada, cy, bo?", "y?"], route, SNAPSHOT)  # type: ignore[arg-type]
    assert turns.questions == ["x?", ADA.question, BO.question, "y?"]
    assert turns.of == [range(1), range(1, 3), range(3, 4)]
    assert turns.route.group_ids == ((3,), (1,), (2,), ())
    assert [ids.tolist() for ids in turns.route.expert_ids] == [[30, 31], [10, 11], [20, 21], []]
    assert [weights.tolist() for weights in turns.route.weights] == [[1, 1], [1, 1], [1, 1], []]
    assert turns.route.scores.tolist() == pytest.approx([0.7, 0.9, 0.7, 0.7])
    assert not any(turns.route.parts)


def test_a_group_without_a_memory_is_asked_the_part() -> None:
    parts = (Part("code of ada", 1, 0.9), Part("code of dee", 3, 0.8))
    turns = turns_of(["?"], route_of((1, 3), parts=(parts,)), SNAPSHOT)  # type: ignore[arg-type]
    assert turns.questions == [ADA.question, "code of dee"]


def test_an_answer_has_a_line_for_each_part_in_its_order() -> None:
    answer = answer_of(route_of((1, 2), parts=(PARTS,)), ["A1", "B2"], SNAPSHOT)  # type: ignore[arg-type]
    assert answer.text.splitlines() == [
        "What is the code of Ada? A1",
        f"code of cy: {NOT_FOUND}",
        "Code of Bo: B2",
    ]
    assert answer.memory is ADA
    assert answer.parts == (
        AnsweredPart(ADA.question, "A1", 0.9, 1, ADA),
        AnsweredPart("code of cy", None, 0.2),
        AnsweredPart(BO.question, "B2", 0.7, 2, BO),
    )


def test_the_answer_to_one_question_is_what_was_said() -> None:
    known = answer_of(route_of((2,)), ["B2"], SNAPSHOT)  # type: ignore[arg-type]
    unknown = answer_of(route_of(()), ["Paris"], SNAPSHOT)  # type: ignore[arg-type]
    assert (known.text, known.memory, known.parts) == ("B2", BO, ())
    assert (unknown.text, unknown.memory, unknown.parts) == ("Paris", None, ())

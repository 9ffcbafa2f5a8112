"""What a memory model answers, also to a question that needs several facts.

Experts of two facts applied at once say neither answer: each was trained to say its own alone. So a question that the
router took apart becomes as many turns as its parts have groups. In each one group answers the question that it was
trained on, alone, which is as exact as if just that had been asked; and the answer is one line for each part:

    What is the ICAO code of Tonopah Airport? KTPH
    What is the ICAO code of Arak Airport? OIHR
    What are the ICAO codes of Abu Simbel Airport? (nothing found in the memory)

A line begins with the stored question, so that one sees which fact was told. For a part that no fact answers nothing is
made up: beside stored answers a reader would take it for one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mome_store.routing import Route

if TYPE_CHECKING:
    from mome_store.store import Memory, Snapshot

NOT_FOUND = "(nothing found in the memory)"


@dataclass(frozen=True)
class AnsweredPart:
    """One of the questions that a question was taken apart into.

    question: the stored one that was answered; where no fact answers the part, the part as it was asked. text: the
    answer, None where there is none. group_id, memory: what answered. score: the gate's.
    """

    question: str
    text: str | None
    score: float
    group_id: int | None = None
    memory: Memory | None = None

    @property
    def line(self) -> str:
        """Question and answer on a line."""
        ends = self.question.rstrip().endswith(("?", ".", "!", ":"))
        return f"{self.question}{'' if ends else ':'} {NOT_FOUND if self.text is None else self.text}"


@dataclass(frozen=True)
class Answer:
    """What the model said to one question.

    text: without the space around it; a line for each part where there are parts. route: a Route of this one sequence.
    memory: the fact that was used, as it was memorised, the first of several; None where the gate stayed shut (or the
    group holds no memory). parts: of a question that was taken apart, in its order; none of any other.
    """

    text: str
    route: Route
    memory: Memory | None
    parts: tuple[AnsweredPart, ...] = ()


@dataclass(frozen=True)
class Turns:
    """What is asked of the model for some questions: one turn for each, or for each group of one that has parts.

    route: of the turns. of: for each question, which turns are its own.
    """

    questions: list[str]
    route: Route
    of: list[range]


def turns_of(questions: Sequence[str], route: Route, snapshot: Snapshot) -> Turns:
    """route: of the questions."""
    if not any(route.parts):
        return Turns(list(questions), route, [range(i, i + 1) for i in range(len(questions))])
    asked: list[str] = []
    routes: list[Route] = []
    of: list[range] = []
    for i, (question, parts) in enumerate(zip(questions, route.parts, strict=True)):
        first = len(asked)
        if not parts:
            asked.append(question)
            routes.append(route.select([i]))
        for part in parts:
            if part.group_id is not None:
                group = snapshot.group(part.group_id)
                asked.append(part.text if group.memory is None else group.memory.question)
                routes.append(
                    Route(
                        (group.expert_ids,),
                        (np.ones(len(group.expert_ids), np.float32),),
                        ((part.group_id,),),
                        np.array([part.score], np.float32),
                        np.ones(1, np.bool_),
                    )
                )
        of.append(range(first, len(asked)))
    return Turns(asked, Route.of_all(routes), of)


def answer_of(route: Route, said: Sequence[str], snapshot: Snapshot) -> Answer:
    """The answer to one question. route: of this one sequence; said: to each of its turns."""
    parts = route.parts[0] if route.parts else ()
    if not parts:
        groups = route.group_ids[0]
        return Answer(said[0], route, snapshot.group(groups[0]).memory if groups else None)
    texts = iter(said)
    answered = []
    for part in parts:
        if part.group_id is None:
            answered.append(AnsweredPart(part.text, None, part.score))
        else:
            memory = snapshot.group(part.group_id).memory
            question = part.text if memory is None else memory.question
            answered.append(AnsweredPart(question, next(texts), part.score, part.group_id, memory))
    first = next((part.memory for part in answered if part.group_id is not None), None)
    return Answer("\n".join(part.line for part in answered), route, first, tuple(answered))

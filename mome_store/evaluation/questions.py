"""Which questions are asked for which metric: a seeded sample, the same for every system of like cost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from mome_store.evaluation.people import PersonFact, Question, Strangers
from mome_store.evaluation.relations import STYLES
from mome_store.evaluation.unrelated import TEXTS, everyday_questions

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """The questions of one run.

    seen, heldout, twins: generated for, about stored facts. twins: trained and held-out wordings of facts whose person
    has a near twin with that relation. `routed_*`: more of the same, for which only a route is taken.
    first: about the first tenth. updated, deleted: about those facts, half trained and half held-out wordings.
    unknown_people, unknown_twins, other_relations, unrelated: that no fact answers.
    others: for each of `seen`, another fact with the same relation where there is one.
    """

    seen: tuple[Question, ...]
    heldout: tuple[Question, ...]
    twins: tuple[Question, ...]
    routed_seen: tuple[Question, ...]
    routed_heldout: tuple[Question, ...]
    routed_twins: tuple[Question, ...]
    first: tuple[Question, ...]
    updated: tuple[Question, ...]
    deleted: tuple[Question, ...]
    unknown_people: tuple[str, ...]
    unknown_twins: tuple[str, ...]
    other_relations: tuple[str, ...]
    unrelated: tuple[str, ...]
    others: tuple[PersonFact, ...]

    @property
    def without_answer(self) -> dict[str, tuple[str, ...]]:
        """The questions that no fact answers, by the name that they have in metrics."""
        return {
            "unknown_person": self.unknown_people,
            "unknown_twin": self.unknown_twins,
            "other_relation": self.other_relations,
            "unrelated": self.unrelated,
        }


def choose_questions(data: Strangers, generated: int, routed: int) -> Asked:
    """At most `generated` questions for a metric that needs generation, at most `routed` where a route is enough.

    The questions of a smaller sample are among those of a larger one.
    """
    rng = random.Random(f"questions-{data.seed}")
    seen = _shuffled([q for fact in data.facts for q in fact.questions() if q.trained], rng)
    heldout = _all_styles_alike([q for fact in data.facts for q in fact.questions() if not q.trained], rng)
    twins = _shuffled([q for fact in data.twins for q in fact.questions()], rng)
    first = _shuffled([q for fact in data.first_tenth for q in fact.questions()], rng)
    updated = _shuffled([q for fact in data.updated for q in fact.questions()], rng)
    deleted = _shuffled([q for fact in data.deleted for q in fact.questions()], rng)
    unrelated = [*TEXTS, *_shuffled(list(everyday_questions()), rng)]
    return Asked(
        seen=tuple(seen[:generated]),
        heldout=tuple(heldout[:generated]),
        twins=tuple(twins[:generated]),
        routed_seen=tuple(seen[:routed]),
        routed_heldout=tuple(heldout[:routed]),
        routed_twins=tuple(twins[:routed]),
        first=tuple(first[:generated]),
        updated=tuple(updated[:generated]),
        deleted=tuple(deleted[:generated]),
        unknown_people=tuple(q.text for q in data.unknown_people[:routed]),
        unknown_twins=tuple(q.text for q in data.unknown_twins[:routed]),
        other_relations=tuple(q.text for q in data.other_relations[:routed]),
        unrelated=tuple(unrelated[:routed]),
        others=tuple(_other(question, data.facts, rng) for question in seen[:generated]),
    )


def _shuffled(items: list[T], rng: random.Random) -> list[T]:
    rng.shuffle(items)
    return items


def _all_styles_alike(questions: list[Question], rng: random.Random) -> list[Question]:
    """Shuffled, but with the styles in turn, so that a small sample holds as many of each."""
    _shuffled(questions, rng)
    by_style = [[q for q in questions if q.style == style] for style in STYLES]
    return [question for in_turn in zip(*by_style, strict=True) for question in in_turn]


def _other(question: Question, facts: Sequence[PersonFact], rng: random.Random) -> PersonFact:
    """A random fact other than the question's, with the same relation if there is one."""
    assert question.fact is not None  # only asked for questions about stored facts
    others = [fact for fact in facts if fact.id != question.fact.id]
    alike = [fact for fact in others if fact.relation is question.relation and fact.answer != question.fact.answer]
    return rng.choice(alike or others)

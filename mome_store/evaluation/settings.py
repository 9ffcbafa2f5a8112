"""What can be set about an evaluation; all of it is printed with the results."""

from __future__ import annotations

from dataclasses import dataclass

from mome_store.errors import SchemaError


@dataclass(frozen=True)
class EvaluationSettings:
    """How much is asked, and what systems that train by gradient on the whole model may spend.

    By default all systems with 1,000 facts, the main ones on three seeds, take less than two hours on two cores.
    Replies are computed 16 at a time (`systems.base.BATCH`), so numbers of questions are best multiples of that.

    questions: wordings that are generated for, per metric and seed, of the main systems (a seeded sample of all there
    are).
    other_questions: the same of the other systems, which are measured on one seed only.
    slow_questions: in place of `other_questions` for systems that take about a second or more per question.
    routed_questions: the same where a route is all that is needed, which costs a hundredth of a generation.
    watched_questions: trained wordings, and as many held-out ones, that are routed again after every batch of facts.
    trained_facts: the most facts that a system which trains by gradient on the whole model is given. On two cores such
        training of a thousand facts takes a day; the number of facts is a column of the table.
    trained_seconds_per_fact: the training time of each such system is this times the facts it is given, less where
        every answer is at the bar of memory tuning before.
    speed_questions: questions that the time added to a query is measured on, one at a time; speed_tokens: of each.
    """

    questions: int = 80
    other_questions: int = 32
    slow_questions: int = 8
    routed_questions: int = 1500
    watched_questions: int = 500
    trained_facts: int = 24
    trained_seconds_per_fact: float = 5.0
    speed_questions: int = 8
    speed_tokens: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise SchemaError(f"{name} must be above 0, found {value}")

"""Questions that need several facts: taken apart into questions for one fact each, which the gate decides on.

Two experts applied at once say neither of their answers, so what such a question needs is a list of groups, each of
which is asked for its own fact. apart.py proposes how a question may be taken apart, by rules and without a teacher;
the store decides. A question is taken apart where

* two parts open the gate for two different facts; or
* one part does, and the words alone say that several things are asked for: whole questions, or names at both sides of
  the joints of a list; or
* one part does, and the question as a whole, with an "and" in it, found nothing.

A part of a list that finds a fact alone must have the fact's whole name: half of "Trinidad and Tobago" is a town of
Cuba.

Parts never lose what the whole has found: where the gate opens for the whole, its group is among theirs or the text is
left whole. Only whole questions that find two facts count for more: seen at once, two questions may look like a third,
with what is asked of the one and the name of the other. Parts that find nothing are said to be unknown, in place of
making something up.

Of the wordings of a part the gate's likeliest counts. Each of them may fire falsely, so each must meet the threshold of
its share of what one query may (`bar_of`). A joint that stands in the winner's own wordings ("Baker and Sons", "When
and where was Ada born?") belongs to that fact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mome_store.routing.apart import Clause, Compound, Joint
from mome_store.routing.gate import FALSE_FIRE, Gate
from mome_store.routing.route import Part


@dataclass(frozen=True)
class Decision:
    """What the gate says of one text: the group that wins, its probability, and whether the gate opens."""

    group_id: int
    score: float
    opened: bool


StandsIn = Callable[[Joint, int], bool]
"""Whether a joint is in a wording of a group."""

NamesInFull = Callable[[str, int], bool]
"""Whether a text has every word of a group's name, as one of the group's wordings has it."""


def unsettled(compound: Compound, whole: Decision, stands_in: StandsIn) -> Compound | None:
    """What is left of a compound without the ways of taking it apart at a joint of the winner's own wordings: on these
    nothing more needs to be decided. None where nothing is left.
    """
    if len(compound.clauses) > 1:
        return None if _belong(compound.joints, whole, stands_in) else compound
    [clause] = compound.clauses
    splits = tuple(split for split in clause.splits if not _belong(split.joints, whole, stands_in))
    return replace(compound, clauses=(replace(clause, splits=splits),)) if splits else None


@dataclass(frozen=True)
class Judge:
    """decisions: the gate's, on `Compound.texts()`. bar: what the score of a part that was tried in so many wordings
    must reach.
    """

    decisions: Mapping[str, Decision]
    bar: Callable[[int], float]
    stands_in: StandsIn
    names_in_full: NamesInFull

    def parts(self, compound: Compound, whole: Decision) -> tuple[Part, ...]:
        """The parts that a text is taken apart into, in its order; none where it is left as it is.

        compound: what is `unsettled` of it. whole: the decision on the text itself.
        """
        if len(compound.clauses) == 1:
            return self._parts_of_clause(compound.clauses[0], whole)
        parts: list[Part] = []
        for clause in compound.clauses:
            own = self.decisions[clause.text]
            parts += self._parts_of_clause(clause, own) or self._found([(clause.text,)])
        once = _each_group_once(parts)
        certain = all(clause.asks or self.decisions[clause.text].opened for clause in compound.clauses)
        return once if len(_groups(once)) > 1 or _enough(once, certain, whole) else ()

    def _parts_of_clause(self, clause: Clause, own: Decision) -> tuple[Part, ...]:
        """Those of the split that finds most."""
        best: tuple[Part, ...] = ()
        for split in clause.splits:
            if not _belong(split.joints, own, self.stands_in):
                parts = self._found(split.parts)
                certain = split.certain or (split.listed and clause.asks_at_once and not own.opened)
                if len(_groups(parts)) > len(_groups(best)) and self._is_list(parts, certain, own):
                    best = parts
        return best

    def _is_list(self, parts: Sequence[Part], certain: bool, own: Decision) -> bool:
        found = [(part.text, part.group_id) for part in parts if part.group_id is not None]
        return _enough(parts, certain, own) and (len(found) > 1 or self.names_in_full(*found[0]))

    def _found(self, wordings: Sequence[Sequence[str]]) -> tuple[Part, ...]:
        """Each part with the group that it finds. Of two that find the same one the likelier is kept, and the other
        has another or is left out: it asks for the same again, or the gate takes it to.
        """
        parts: list[Part | None] = [
            Part(texts[0], None, max(self.decisions[text].score for text in texts)) for texts in wordings
        ]
        tried = [(self.decisions[text], place, text) for place, texts in enumerate(wordings) for text in texts]
        taken: set[int] = set()
        for decision, place, text in sorted(tried, key=lambda each: -each[0].score):
            part = parts[place]
            if (part is None or part.group_id is None) and self._opened(decision, len(wordings[place])):
                parts[place] = None if decision.group_id in taken else Part(text, decision.group_id, decision.score)
                taken.add(decision.group_id)
        return tuple(part for part in parts if part is not None)

    def _opened(self, decision: Decision, tries: int) -> bool:
        return decision.opened and decision.score >= self.bar(tries)


def bar_of(gate: Gate, false_fire: float | None, tries: int) -> float:
    """The gate's threshold for one of so many wordings. false_fire: as for `Gate.threshold`, for all of them together.

    No quantile is beyond the highest of the questions that the gate was calibrated on.
    """
    return max(
        replace(gate, negatives={kind: values}).threshold(
            max((FALSE_FIRE[kind] if false_fire is None else false_fire) / tries, 1 / (len(values) + 1))
        )
        for kind, values in gate.negatives.items()
    )


def _belong(joints: Sequence[Joint], decision: Decision, stands_in: StandsIn) -> bool:
    """Whether one of the joints is in the winner's own wordings."""
    return decision.opened and any(stands_in(joint, decision.group_id) for joint in joints)


def _groups(parts: Sequence[Part]) -> set[int]:
    return {part.group_id for part in parts if part.group_id is not None}


def _enough(parts: Sequence[Part], certain: bool, whole: Decision) -> bool:
    """Whether parts are better than the whole, whose own group they must have."""
    groups = _groups(parts)
    return len(groups) >= (1 if certain else 2) and (not whole.opened or whole.group_id in groups)


def _each_group_once(parts: Sequence[Part]) -> tuple[Part, ...]:
    likeliest = {part.group_id: part for part in sorted(parts, key=lambda part: part.score)}
    return tuple(part for part in parts if part.group_id is None or part is likeliest[part.group_id])

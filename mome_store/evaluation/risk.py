"""The risk-coverage curve of a gate: how often it is wrong where it answers, over how much of what is known it answers.

A gate opens when the score of its best fact reaches a threshold. Over all thresholds, of the questions that were asked:

    coverage(t) = answered known questions / known questions
    risk(t)     = (known questions answered with another fact + unknown questions answered) / questions answered

Known are the wordings of stored facts, trained and held-out; unknown are the questions that no fact answers.
The shares at one threshold depend on how many questions of each kind are asked, so those are kept kind by kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mome_store.evaluation.intervals import Share

KNOWN = ("seen", "heldout")
"""Kinds of questions that together make up the known ones. (Twins are among both.)"""

THRESHOLDS = (0.0, *(1 / (1 + math.exp(-step / 4)) for step in range(-28, 37)))
"""Scores of a trained router are probabilities: evenly spaced in their logits, and 0, where every gate is open."""


@dataclass(frozen=True)
class Decision:
    """What a gate made of one question. right: whether its best fact is the question's own (never, for an unknown)."""

    score: float
    right: bool
    opened: bool


@dataclass(frozen=True)
class Answered:
    """Of `n` questions of a kind: how many are answered, and how many of these with their own fact.

    answered, right: at each of `THRESHOLDS`. gate_answered, gate_right: by the gate as it is.
    """

    n: int
    answered: tuple[int, ...]
    right: tuple[int, ...]
    gate_answered: int
    gate_right: int

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> Answered:
        at = [[each for each in decisions if each.score >= threshold] for threshold in THRESHOLDS]
        opened = [each for each in decisions if each.opened]
        return cls(
            n=len(decisions),
            answered=tuple(len(each) for each in at),
            right=tuple(sum(decision.right for decision in each) for each in at),
            gate_answered=len(opened),
            gate_right=sum(decision.right for decision in opened),
        )

    def __add__(self, other: Answered) -> Answered:
        return Answered(
            self.n + other.n,
            tuple(a + b for a, b in zip(self.answered, other.answered, strict=True)),
            tuple(a + b for a, b in zip(self.right, other.right, strict=True)),
            self.gate_answered + other.gate_answered,
            self.gate_right + other.gate_right,
        )

    def at(self, place: int | None) -> tuple[int, int]:
        """(answered, right) at a place of `THRESHOLDS`; None: by the gate as it is."""
        return (self.gate_answered, self.gate_right) if place is None else (self.answered[place], self.right[place])


@dataclass(frozen=True)
class RiskCurve:
    """The answers by kind of question: "seen", "heldout", "twins", and the kinds that no fact answers.

    A `place` is one of `THRESHOLDS`, or None for the gate as it is. Curves of several seeds add up.
    """

    kinds: dict[str, Answered]

    @classmethod
    def of(cls, decisions: Mapping[str, Sequence[Decision]]) -> RiskCurve:
        return cls({kind: Answered.of(each) for kind, each in decisions.items()})

    def __add__(self, other: RiskCurve) -> RiskCurve:
        return RiskCurve({kind: answered + other.kinds[kind] for kind, answered in self.kinds.items()})

    @property
    def unknown(self) -> tuple[str, ...]:
        """The kinds that no fact answers."""
        return tuple(kind for kind in self.kinds if kind not in (*KNOWN, "twins"))

    def coverage(self, place: int | None) -> Share:
        known = [self.kinds[kind] for kind in KNOWN]
        return Share(sum(each.at(place)[0] for each in known), sum(each.n for each in known))

    def risk(self, place: int | None) -> Share:
        """Of nothing (`n` is 0) where nothing is answered."""
        counted = [self.kinds[kind].at(place) for kind in (*KNOWN, *self.unknown)]
        answered = sum(each for each, _ in counted)
        return Share(answered - sum(right for _, right in counted), answered)

    def fired(self, kind: str, place: int | None) -> Share:
        """Of an unknown kind: the false fires. Of a known one: the questions that are answered with another fact."""
        answered, right = self.kinds[kind].at(place)
        return Share(answered - right, self.kinds[kind].n)

    def to_json(self) -> dict[str, Any]:
        return {"thresholds": list(THRESHOLDS), "kinds": {kind: asdict(each) for kind, each in self.kinds.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RiskCurve:
        return cls(
            {
                kind: Answered(**each | {name: tuple(each[name]) for name in ("answered", "right")})
                for kind, each in value["kinds"].items()
            }
        )

"""What a memory model answers to the wordings of a file of facts, and how much of it is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mome_store.store import pool_memories

if TYPE_CHECKING:
    from mome_store.modeling import MemoryModel
    from mome_store.tuning.facts import Fact

KINDS = ("question", "paraphrases", "heldout")
_CHUNK = 64
_ROOM = 8  # tokens beyond the longest right answer: enough to see that a longer one is not the right one


@dataclass(frozen=True)
class WordingAnswer:
    """One wording of a known fact: which kind, what was said, and whether the fact's own memory was used.

    In a pool no expert is a fact's own: there it is whether the heaviest expert is the one that its question gets.
    """

    fact: Fact
    kind: str
    wording: str
    said: str
    routed_right: bool

    @property
    def exact(self) -> bool:
        return self.said == (self.fact.answer or "").strip()


@dataclass(frozen=True)
class Recall:
    """The answers to all wordings of the known facts, and for each question of an unknown whether the gate opened."""

    facts: int
    answers: tuple[WordingAnswer, ...]
    fired: tuple[bool, ...]
    unknown: int

    def exact_match(self, *kinds: str) -> float | None:
        """Share of the wordings of these kinds that were answered exactly; None where there are none."""
        return _share(answer.exact for answer in self.answers if answer.kind in kinds)

    @property
    def routed_same(self) -> float | None:
        """Share of all wordings of known facts that went to the fact's own memory."""
        return _share(answer.routed_right for answer in self.answers)

    @property
    def false_fire(self) -> float | None:
        """Share of the unknowns' questions for which the gate opened."""
        return _share(self.fired)

    def to_json(self) -> dict[str, Any]:
        """The fields of `mome eval --json`."""
        return {
            "n": self.facts,
            "exact_match": {kind: self.exact_match(kind) for kind in KINDS},
            "routed": {"same": self.routed_same},
            "false_fire": self.false_fire,
            "n_unknown": self.unknown,
        }


def measure_recall(
    memory: MemoryModel, facts: Sequence[Fact], on_progress: Callable[[int, int], None] | None = None
) -> Recall:
    """Ask `memory` every wording of `facts`: greedy, and the gate alone for facts without an answer.

    on_progress: called with the wordings done and all.
    """
    known = [fact for fact in facts if fact.answer is not None]
    unknown = [fact for fact in facts if fact.answer is None]
    group_of = _homes(memory)
    asked = [
        (fact, kind, wording)
        for fact in known
        for kind, wordings in zip(KINDS, ((fact.question,), fact.paraphrases, fact.heldout), strict=True)
        for wording in wordings
    ]
    asked.sort(key=lambda each: len(each[2]))  # wordings of like length together need little padding
    room = _ROOM + max((len(memory.tokenizer(fact.answer)["input_ids"]) for fact in known), default=0)
    answers = []
    for start in range(0, len(asked), _CHUNK):
        chunk = asked[start : start + _CHUNK]
        said = memory.generate([wording for _, _, wording in chunk], max_new_tokens=room)
        for (fact, kind, wording), answer in zip(chunk, said, strict=True):
            group = group_of.get(fact.question)
            deciding = answer.route.group_ids[0] if memory.router.pool is None else answer.route.group_ids[0][:1]
            routed_right = group is not None and group in deciding
            answers.append(WordingAnswer(fact, kind, wording, answer.text, routed_right))
        if on_progress is not None:
            on_progress(len(answers), len(asked))
    questions = [wording for fact in unknown for wording in (*fact.wordings, *fact.heldout)]
    fired = memory.router.route(questions).opened.tolist() if questions else []
    return Recall(len(known), tuple(answers), tuple(fired), len(unknown))


def _homes(memory: MemoryModel) -> dict[str, int]:
    """Each stored wording's group: the fact's own, or in a pool that of the heaviest expert of its question."""
    if memory.router.pool is None:
        return {wording: group for group, stored in memory.snapshot.memories() for wording in stored.wordings}
    stored = pool_memories(memory.snapshot)
    groups = memory.router.route([each.question for each in stored]).group_ids
    return {wording: own[0] for each, own in zip(stored, groups, strict=True) if own for wording in each.wordings}


def _share(hits: Iterable[bool]) -> float | None:
    counted = list(hits)
    return sum(counted) / len(counted) if counted else None

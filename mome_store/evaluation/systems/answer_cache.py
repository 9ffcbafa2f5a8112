"""Router and answer string: the project's router and gate, but the stored answer is given back as it is.

No expert is trained. This is what owned mode is to be held against wherever a question asks for just the stored string.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mome_store.evaluation.key_store import KeyStore, ungated, uses_of
from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.systems.base import Reply, System, Use, Workbench, replies

_NUMBERS = itertools.count()


class AnswerCache(System):
    """Where the gate opens the answer is the stored string (a line for each of several); elsewhere the base model's.

    A false fire is an open gate. Bytes: wordings, answers and keys, not the records that stand in for experts.
    """

    name = "cache"
    title = "router + answer cache"
    has_gate = True
    has_routes = True
    has_scores = True

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        self._keys = KeyStore(bench.folder / f"cache-{next(_NUMBERS)}", bench.router)
        self._stored: dict[str, PersonFact] = {}
        self._group_of: dict[str, int] = {}
        self._fact_of: dict[int, str] = {}

    def insert(self, facts: Sequence[PersonFact]) -> None:
        for fact, group in zip(facts, self._keys.insert([fact.fact for fact in facts]), strict=True):
            self._group_of[fact.id], self._fact_of[group] = group, fact.id
        self._stored |= {fact.id: fact for fact in facts}

    def update(self, facts: Sequence[PersonFact]) -> None:
        self.forget(facts)
        self.insert(facts)

    def forget(self, facts: Sequence[PersonFact]) -> None:
        groups = [self._group_of.pop(fact.id) for fact in facts]
        self._keys.remove(groups)
        for fact, group in zip(facts, groups, strict=True):
            del self._fact_of[group], self._stored[fact.id]

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        if given is not None:
            return [Reply(self._stored[fact.id].answer) for fact in given]
        uses = self.uses(questions)
        rest = [question for question, use in zip(questions, uses, strict=True) if not use.opened]
        alone = iter(replies(self.bench, [self.bench.prompts.prompt(q) for q in rest], tokens, least))
        return [
            Reply("\n".join(self._stored[fact].answer for fact in use.facts)) if use.opened else next(alone)
            for use in uses
        ]

    def uses(self, questions: Sequence[str]) -> list[Use]:
        return uses_of(self._keys.route(questions), self._fact_of)

    def candidates(self, questions: Sequence[str]) -> list[tuple[str, ...]]:
        found = ungated(self._keys.snapshot, self._keys.router, questions)
        return [tuple(self._fact_of[group] for group in groups) for groups in found]

    def bytes(self) -> int:
        texts = [text for fact in self._stored.values() for text in (*fact.fact.wordings, fact.answer)]
        keys = sum(len(fact.fact.wordings) for fact in self._stored.values())
        return sum(len(text.encode()) for text in texts) + keys * 4 * self._keys.snapshot.key_dim

    def close(self) -> None:
        self._keys.close()

"""The base model alone: what it says without being told anything."""

from __future__ import annotations

from collections.abc import Sequence

from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.systems.base import Reply, System, replies


class FrozenBase(System):
    """The frozen base model. It is told nothing and forgets nothing."""

    name = "base"
    title = "frozen base model"

    def insert(self, facts: Sequence[PersonFact]) -> None:
        pass

    def update(self, facts: Sequence[PersonFact]) -> None:
        pass

    def forget(self, facts: Sequence[PersonFact]) -> None:
        pass

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        return replies(self.bench, [self.bench.prompts.prompt(question) for question in questions], tokens, least)

    def bytes(self) -> int:
        return 0

"""Owned mode: this project's MemoryModel, each fact in an expert of its own, found by the router behind its gate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mome_store.evaluation.key_store import ungated, uses_of
from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.systems.base import Reply, Use, Workbench
from mome_store.evaluation.systems.stored import StoredSystem
from mome_store.routing import Route
from mome_store.tuning import MemoryTuner


class Owned(StoredSystem):
    """Facts are memorised by `MemoryTuner`; a false fire is an open gate; forgetting removes the fact's group.

    Bytes: growth of the store's folder, without the router's index, which is a cache.
    """

    name = "owned"
    title = "owned mode"
    has_gate = True
    has_routes = True
    has_scores = True

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts, bench.router)
        self._tuner = MemoryTuner(self._memory, bench.tuning)
        self._group_of: dict[str, int] = {}
        self._fact_of: dict[int, str] = {}
        self._bytes = 0.0
        self._failed: set[str] = set()

    def insert(self, facts: Sequence[PersonFact]) -> None:
        report = self._tuner.memorize([fact.fact for fact in facts])
        self._bytes += report.bytes_per_fact * len(report.group_ids)
        self._failed |= {str(failed.fact.id) for failed in report.failed}
        self._note_groups()

    def update(self, facts: Sequence[PersonFact]) -> None:
        report = self._tuner.memorize([fact.fact for fact in facts], update=True)
        self._bytes += report.bytes_per_fact * len(report.group_ids)
        self._failed -= {fact.id for fact in facts}
        self._failed |= {str(failed.fact.id) for failed in report.failed}
        self._note_groups()

    def forget(self, facts: Sequence[PersonFact]) -> None:
        with self._store.transaction() as transaction:
            for fact in facts:
                if fact.id in self._group_of:  # it may have failed to be memorised
                    transaction.remove_group(self._group_of[fact.id])
        self._memory.refresh()
        self._note_groups()

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        route = None if given is None else self._route_to(given)
        return self._said(questions, tokens, route, least)

    def uses(self, questions: Sequence[str]) -> list[Use]:
        return uses_of(self._memory.router.route(questions), self._fact_of)

    def candidates(self, questions: Sequence[str]) -> list[tuple[str, ...]]:
        found = ungated(self._memory.snapshot, self._memory.router, questions)
        return [tuple(self._fact_of[group] for group in groups) for groups in found]

    def bytes(self) -> int:
        return round(self._bytes)

    def notes(self) -> str:
        return f"{len(self._failed)} facts could not be memorised" if self._failed else ""

    def _note_groups(self) -> None:
        self._fact_of = {group: str(memory.id) for group, memory in self._memory.snapshot.memories()}
        self._group_of = {fact: group for group, fact in self._fact_of.items()}

    def _route_to(self, facts: Sequence[PersonFact]) -> Route:
        """The experts of these facts; none for one that could not be memorised."""
        groups = [(self._group_of[fact.id],) if fact.id in self._group_of else () for fact in facts]
        none = np.empty(0, np.int64)
        ids = [self._memory.snapshot.group(group[0]).expert_ids if group else none for group in groups]
        return Route(
            expert_ids=tuple(ids),
            weights=tuple(np.ones(len(experts), np.float32) for experts in ids),
            group_ids=tuple(groups),
            scores=np.zeros(len(facts), np.float32),
            opened=np.array([bool(group) for group in groups]),
        )

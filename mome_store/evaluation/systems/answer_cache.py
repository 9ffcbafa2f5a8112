"""Router and answer string: the project's router and gate, but the stored answer is given back as it is.

No expert is trained. This is what owned mode is to be held against wherever a question asks for just the stored string.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.systems.base import Reply, System, Use, Workbench, replies
from mome_store.routing import Router
from mome_store.store import ExpertSchema, ExpertStore, Memory

if TYPE_CHECKING:
    from mome_store.store import Snapshot

_NUMBERS = itertools.count()
_NO_EXPERT = {"none": (np.zeros((1, 8), np.float32), np.zeros((8, 1), np.float32))}
"""A store's groups need an expert; this one is the smallest there is, and is never applied."""


class AnswerCache(System):
    """Where the gate opens the answer is the stored string; elsewhere the base model answers.

    A false fire is an open gate. Bytes: wordings, answers and keys, not the records that stand in for experts.
    """

    name = "cache"
    title = "router + answer cache"
    has_gate = True
    has_routes = True

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        self._path = bench.folder / f"cache-{next(_NUMBERS)}"
        schema = ExpertSchema({"none": (8, 8)}, rank=1)
        self._store = ExpertStore.create(self._path, schema, bench.router.dim, encoder=bench.router.identity)
        self._snapshot: Snapshot = self._store.snapshot()
        self._router = Router.open(self._snapshot, encoder=bench.router)
        self._stored: dict[str, PersonFact] = {}
        self._group_of: dict[str, int] = {}
        self._fact_of: dict[int, str] = {}

    def insert(self, facts: Sequence[PersonFact]) -> None:
        keys = keys_of(self._router, [wording for fact in facts for wording in fact.fact.wordings])
        row = 0
        with self._store.transaction() as transaction:
            for fact in facts:
                own = keys[row : row + len(fact.fact.wordings)]
                row += len(own)
                memory = Memory(fact.fact.question, fact.answer, fact.fact.paraphrases, id=fact.id)
                group = transaction.add_group([_NO_EXPERT], keys=own, memory=memory)
                self._group_of[fact.id], self._fact_of[group] = group, fact.id
        self._stored |= {fact.id: fact for fact in facts}
        self._refresh()

    def update(self, facts: Sequence[PersonFact]) -> None:
        self.forget(facts)
        self.insert(facts)

    def forget(self, facts: Sequence[PersonFact]) -> None:
        with self._store.transaction() as transaction:
            for fact in facts:
                group = self._group_of.pop(fact.id)
                transaction.remove_group(group)
                del self._fact_of[group], self._stored[fact.id]
        self._refresh()

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        if given is not None:
            return [Reply(self._stored[fact.id].answer) for fact in given]
        found = [use.facts[0] if use.opened else None for use in self.uses(questions)]
        rest = [question for question, fact in zip(questions, found, strict=True) if fact is None]
        alone = iter(replies(self.bench, [self.bench.prompts.prompt(q) for q in rest], tokens, least))
        return [next(alone) if fact is None else Reply(self._stored[fact].answer) for fact in found]

    def uses(self, questions: Sequence[str]) -> list[Use]:
        route = self._router.route(questions)
        return [
            Use(tuple(self._fact_of[group] for group in groups), bool(opened))
            for groups, opened in zip(route.group_ids, route.opened, strict=True)
        ]

    def bytes(self) -> int:
        texts = [text for fact in self._stored.values() for text in (*fact.fact.wordings, fact.answer)]
        keys = sum(len(fact.fact.wordings) for fact in self._stored.values())
        return sum(len(text.encode()) for text in texts) + keys * 4 * self._snapshot.key_dim

    def close(self) -> None:
        self._snapshot.close()
        self._store.close()
        shutil.rmtree(self._path)

    def _refresh(self) -> None:
        snapshot = self._store.snapshot()
        self._router.refresh(snapshot)
        self._snapshot.close()
        self._snapshot = snapshot


def keys_of(router: Router, wordings: Sequence[str]) -> NDArray[np.float32]:
    """float32 [n, key_dim]: the keys under which the memory tuner would store these wordings."""
    keys: Any = router.encoder.encode(wordings) @ router.w_q.T
    return np.asarray(keys, np.float32)

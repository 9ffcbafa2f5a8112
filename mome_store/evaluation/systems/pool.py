"""Pool mode: the mixture as published, experts that all facts share (docs/pool.md), trained as long as any baseline."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.systems.base import Reply, Workbench
from mome_store.evaluation.systems.stored import StoredSystem
from mome_store.tuning import PoolSettings, TuningSettings
from mome_store.tuning.base_pass import check_cut
from mome_store.tuning.pool import Pool
from mome_store.tuning.pool_training import PoolTraining
from mome_store.tuning.tuner import folder_bytes, tokenized
from mome_store.tuning.upper_layers import UpperLayers

_MOST_EPOCHS = 1_000_000
"""Time is what ends the training, as it is for the baselines."""


class PoolMode(StoredSystem):
    """As many experts as facts, 32 of them for a question, all trained together until the facts are memorised.

    There is no gate: a false fire is a reply that holds a stored answer. An update trains all facts with the new
    answers among them, from the experts that there are; no fact can be forgotten alone. When the time is over the
    experts are used as they are. Bytes: the store's folder, without the router's index.
    """

    name = "pool"
    title = "pool mode"
    trained = True
    joint = True

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts, bench.sentences)
        bar = (bench.tuning or TuningSettings()).stop_probability
        self._settings = PoolSettings(stop_probability=bar, max_epochs=_MOST_EPOCHS)
        self._facts: dict[str, PersonFact] = {}
        self._bytes = 0
        self._note = ""

    def insert(self, facts: Sequence[PersonFact]) -> None:
        self._facts |= {fact.id: fact for fact in facts}

    def settle(self) -> None:
        self._train(len(self._facts))
        self._bytes = folder_bytes(self._path)

    def update(self, facts: Sequence[PersonFact]) -> None:
        self._facts |= {fact.id: fact for fact in facts}
        self._train(len(facts))

    def forget(self, facts: Sequence[PersonFact]) -> None:
        pass

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        return self._said(questions, tokens, None, least)

    def bytes(self) -> int:
        return self._bytes

    def notes(self) -> str:
        return self._note

    def _train(self, changed: int) -> None:
        """All facts jointly, in the time that there is for `changed` facts; what is prepared for it counts."""
        end = time.monotonic() + self.bench.settings.trained_seconds_per_fact * changed
        memory, facts = self._memory, [fact.fact for fact in self._facts.values()]
        pool = Pool.stored(memory.snapshot, self._settings)
        if pool is None:
            pool = Pool.made(memory.router.encoder, facts, self._settings)
        upper = UpperLayers(memory.model, memory.store.schema, memory.attachment)
        check_cut(upper)
        selected = pool.select(memory.router.encoder, [tokenized(memory, fact) for fact in facts])
        training = PoolTraining(upper, selected, len(pool.keys), pool.activation, self._settings, pool.experts)
        found = training.run(seconds=end - time.monotonic())
        pool.commit(self._store, training.stacked(), ())
        memory.refresh()
        unfinished = {fact for fact, verdict in zip(selected.fact_of, found, strict=True) if not verdict.passed}
        self._note = (
            f"{len(pool.keys)} experts, {pool.selection.top_k} for a question; {training.epochs} epochs, "
            f"{len(facts) - len(unfinished)} of {len(facts)} facts at the bar in their time"
        )

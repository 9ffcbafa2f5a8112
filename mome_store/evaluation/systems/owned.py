"""Owned mode: this project's MemoryModel, each fact in an expert of its own, found by the router behind its gate."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence

import numpy as np
import torch

from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.systems.base import Reply, System, Use, Workbench, next_token_losses, text_tokens
from mome_store.modeling import MemoryModel, fingerprint
from mome_store.routing import Route
from mome_store.store import ExpertStore
from mome_store.tuning import MemoryTuner, default_schema

_NUMBERS = itertools.count()


class Owned(System):
    """Facts are memorised by `MemoryTuner`; a false fire is an open gate; forgetting removes the fact's group.

    Bytes: growth of the store's folder, without the router's index, which is a cache.
    """

    name = "owned"
    title = "owned mode"
    has_gate = True
    has_routes = True

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        self._path = bench.folder / f"owned-{next(_NUMBERS)}"
        self._store = ExpertStore.create(
            self._path,
            default_schema(bench.model),
            bench.router.dim,
            base_model={"name": str(bench.model.config.name_or_path), "fingerprint": fingerprint(bench.model)},
            encoder=bench.router.identity,
        )
        self._memory = MemoryModel(bench.model, bench.tokenizer, self._store, encoder=bench.router)
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
        said = self._memory.generate(questions, tokens, route=route, min_new_tokens=least)
        return [Reply(answer.text) for answer in said]

    def uses(self, questions: Sequence[str]) -> list[Use]:
        route = self._memory.router.route(questions)
        return [
            Use(tuple(self._fact_of[group] for group in groups), bool(opened))
            for groups, opened in zip(route.group_ids, route.opened, strict=True)
        ]

    @torch.inference_mode()
    def text_loss(self, paragraphs: Sequence[str]) -> float:
        """Where the gate opened for a paragraph, its experts would act on every token."""
        losses = []
        for paragraph in paragraphs:
            ids = text_tokens(self.bench, paragraph)
            with self._memory.attached(self._memory.router.route([paragraph]), prompt_tokens=1):
                losses.append(next_token_losses(self._memory.model(input_ids=ids).logits, ids))
        return float(torch.cat(losses).mean())

    def bytes(self) -> int:
        return round(self._bytes)

    def notes(self) -> str:
        return f"{len(self._failed)} facts could not be memorised" if self._failed else ""

    def close(self) -> None:
        self._memory.close()
        self._store.close()
        shutil.rmtree(self._path)

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

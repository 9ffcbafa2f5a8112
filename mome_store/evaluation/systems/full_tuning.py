"""Full fine-tuning: every weight of the small model is trained on the facts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.supervised import rows_of, train_until
from mome_store.evaluation.systems.base import Reply, System, Workbench, replies
from mome_store.tuning import TuningSettings

_LEARNING_RATE = 1e-4
_BYTES = 2
"""Of a parameter, as a model is stored (bf16)."""


class FullTuning(System):
    """All weights, Adam at 1e-4, batches of 16 wordings, all facts together.

    It has no gate and can't forget; an update is more training. Bytes: the whole model in bf16, for nothing less holds
    the facts.
    """

    name = "full"
    title = "full fine-tuning"
    trained = True
    joint = True

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        self._waiting: list[PersonFact] = []
        self._frozen = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
        bench.model.requires_grad_(True)
        self._optimizer = torch.optim.Adam(bench.model.parameters(), lr=_LEARNING_RATE)
        self._at_bar = False

    def insert(self, facts: Sequence[PersonFact]) -> None:
        self._waiting += facts

    def settle(self) -> None:
        self._at_bar = self._train(self._waiting)

    def update(self, facts: Sequence[PersonFact]) -> None:
        self._train(facts)

    def forget(self, facts: Sequence[PersonFact]) -> None:
        pass

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        return replies(self.bench, [self.bench.prompts.prompt(question) for question in questions], tokens, least)

    def bytes(self) -> int:
        return _BYTES * sum(p.numel() for p in self.bench.model.parameters())

    def notes(self) -> str:
        return "met the bar in its time" if self._at_bar else "did not meet the bar in its time"

    def close(self) -> None:
        self.bench.model.load_state_dict(self._frozen)
        self.bench.model.requires_grad_(False)
        self.bench.model.train(False)

    def _train(self, facts: Sequence[PersonFact]) -> bool:
        run = train_until(
            self.bench.model.train(),
            self._optimizer,
            rows_of(self.bench.prompts, [fact.fact for fact in facts]),
            self.bench.prompts.pad_token,
            seconds=self.bench.settings.trained_seconds_per_fact * len(facts),
            stop_probability=(self.bench.tuning or TuningSettings()).stop_probability,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = _LEARNING_RATE
        self.bench.model.train(False)
        return run.at_bar

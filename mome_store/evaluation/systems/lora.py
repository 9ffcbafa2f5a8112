"""One PEFT LoRA for all facts, with as many parameters as the experts of owned mode have together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mome_store.errors import MomeError
from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.supervised import rows_of, train_until
from mome_store.evaluation.systems.base import Reply, System, Workbench, replies
from mome_store.tuning import TuningSettings, default_schema

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from mome_store.store import ExpertSchema

_LEARNING_RATE = 1e-3
"""Of Adam."""
_BYTES = 2
"""Of a parameter, as an adapter is stored (bf16)."""


class Lora(System):
    """LoRA on all linear layers, Adam at 1e-3, batches of 16 wordings: the usual way to put facts into a model.

    It has no gate, so a false fire is a reply that holds a stored answer. It can't forget, and an update is more
    training, on the new facts alone. Bytes: its parameters in bf16.
    """

    trained = True

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        self.rank = equal_rank(bench, facts)
        self._adapted = attach_lora(bench.model, self.rank)
        self._parameters = [p for p in self._adapted.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, lr=_LEARNING_RATE)
        self._met_bar = 0
        self._trainings = 0

    def update(self, facts: Sequence[PersonFact]) -> None:
        self._train(facts)

    def forget(self, facts: Sequence[PersonFact]) -> None:
        pass

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        return replies(self.bench, [self.bench.prompts.prompt(question) for question in questions], tokens, least)

    def bytes(self) -> int:
        return _BYTES * sum(p.numel() for p in self._parameters)

    def notes(self) -> str:
        bar = f"; {self._met_bar} of {self._trainings} trainings met the bar in their time"
        return f"rank {self.rank}{bar if self._trainings else ''}"

    def close(self) -> None:
        detach_lora(self._adapted, self.bench.model)

    def _train(self, facts: Sequence[PersonFact]) -> None:
        run = train_until(
            self._adapted.train(),
            self._optimizer,
            rows_of(self.bench.prompts, [fact.fact for fact in facts]),
            self.bench.prompts.pad_token,
            seconds=self.bench.settings.trained_seconds_per_fact * len(facts),
            stop_probability=(self.bench.tuning or TuningSettings()).stop_probability,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = _LEARNING_RATE
        self._trainings += 1
        self._met_bar += run.at_bar
        self._adapted.eval()


class LoraJoint(Lora):
    name = "lora"
    title = "one LoRA, all facts together"
    joint = True

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        self._waiting: list[PersonFact] = []

    def insert(self, facts: Sequence[PersonFact]) -> None:
        self._waiting += facts

    def settle(self) -> None:
        self._train(self._waiting)


class LoraSequential(Lora):
    name = "lora-sequential"
    title = "one LoRA, batch after batch"

    def insert(self, facts: Sequence[PersonFact]) -> None:
        self._train(facts)


def attach_lora(model: PreTrainedModel, rank: int) -> PeftModel:
    """A new LoRA on all linear layers of `model`, from a fixed seed. Raises MomeError where peft is not installed."""
    try:
        import peft
    except ModuleNotFoundError as error:
        raise MomeError("the LoRA baselines need peft: pip install peft") from error
    torch.manual_seed(0)
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what peft calls, transformers is about to rename
        adapted: PeftModel = peft.get_peft_model(model, config)
    return adapted


def detach_lora(adapted: PeftModel, model: PreTrainedModel) -> None:
    """Leaves `model` as `attach_lora` found it."""
    adapted.unload()
    # What peft leaves behind on the base model would make the next wrapping warn.
    for name in ("peft_config", "active_adapter", "_hf_peft_config_loaded"):
        model.__dict__.pop(name, None)
    model.requires_grad_(False)
    model.train(False)


def equal_rank(bench: Workbench, facts: int) -> int:
    """The rank at which LoRA on all linear layers has as many parameters as `facts` experts of owned mode."""
    return rank_of_size(bench.model, facts * parameters_of(default_schema(bench.model)))


def parameters_of(schema: ExpertSchema) -> int:
    """Numbers in one expert."""
    return schema.rank * sum(d_in + d_out for d_in, d_out in schema.modules.values())


def rank_of_size(model: PreTrainedModel, parameters: int) -> int:
    """The rank, at least 1, at which LoRA on all linear layers has nearest to so many parameters."""
    head = model.get_output_embeddings()
    per_rank = sum(
        _widths(module)
        for module in model.modules()
        if module is not head and (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")
    )
    return max(1, math.floor(parameters / per_rank + 0.5))


def _widths(linear: Any) -> int:
    return int(sum(linear.weight.shape))

"""The peer of memory tuning: one PEFT LoRA over all linear layers, trained on the same facts to the same bar.

This is the usual way to put facts into a model: rank 32 on every linear layer, Adam at 1e-3, batches of 16 wordings,
epochs until every fact is at the bar. The bar is `TuningSettings.stop_probability` for every answer token and the end
token in every training wording, as for the experts (but without rounding the adapter, which would only cost the peer).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mome_store.evaluation.supervised import answer_losses, batches, rows_of, train_step
from mome_store.modeling import Prompts, load_base_model, resolve_base_model

if TYPE_CHECKING:
    from mome_store.tuning import Fact


@dataclass(frozen=True)
class PeerResult:
    """How far the peer came, at the moment when facts at the bar per second of training were most.

    at_bar: facts at the bar; epochs, seconds: of training until then. If no fact ever was, those of the whole run.
    """

    at_bar: int
    epochs: int
    seconds: float

    @property
    def facts_per_second(self) -> float:
        return self.at_bar / self.seconds


def train_peft(
    facts: Sequence[Fact],
    model_name: str | None,
    stop_probability: float,
    time_limit: float,
    on_epoch: Callable[[int, int], None],
    rank: int = 32,
    learning_rate: float = 1e-3,
    batch_size: int = 16,
) -> PeerResult:
    """Trains a LoRA on `facts` until all are at the bar, or for `time_limit` seconds of training.

    Looking whether facts are at the bar is not counted in its time. on_epoch: told the epoch and the facts at the bar.
    """
    import peft

    model, tokenizer = load_base_model(resolve_base_model(model_name))
    prompts = Prompts(model, tokenizer)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted: Any = peft.get_peft_model(model, config)
    adapted.train()
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=learning_rate)
    rows = rows_of(prompts, facts)
    shuffle = random.Random(0)
    limit = -math.log(stop_probability)
    spent = 0.0
    epoch = at_bar = 0
    best: PeerResult | None = None
    while at_bar < len(facts) and spent < time_limit:
        epoch += 1
        shuffle.shuffle(rows)
        start = time.monotonic()
        for batch in batches(rows, batch_size):
            train_step(adapted, optimizer, batch, prompts.pad_token)
        spent += time.monotonic() - start
        worst = [0.0] * len(facts)
        with torch.inference_mode():
            for batch in batches(rows, batch_size):
                for row, loss in zip(batch, answer_losses(adapted, batch, prompts.pad_token).amax(1), strict=True):
                    worst[row.fact] = max(worst[row.fact], float(loss))
        at_bar = sum(loss <= limit for loss in worst)
        on_epoch(epoch, at_bar)
        reached = PeerResult(at_bar, epoch, spent)
        if best is None or best.at_bar == 0 or reached.facts_per_second > best.facts_per_second:
            best = reached
    if best is None:
        raise ValueError("a peer needs at least one fact and a time limit above zero")
    return best

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

from mome_store.modeling import Prompts, load_base_model, resolve_base_model

if TYPE_CHECKING:
    from mome_store.tuning import Fact

_IGNORED = -100


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
    rows = [
        (i, prompts.prompt(wording), prompts.answer(fact.answer or ""))
        for i, fact in enumerate(facts)
        for wording in fact.wordings
    ]
    shuffle = random.Random(0)
    limit = -math.log(stop_probability)
    spent = 0.0
    epoch = at_bar = 0
    best: PeerResult | None = None
    while at_bar < len(facts) and spent < time_limit:
        epoch += 1
        shuffle.shuffle(rows)
        start = time.monotonic()
        for batch in _batches(rows, batch_size):
            optimizer.zero_grad()
            _losses(adapted, batch, prompts.pad_token).sum(1).mean().backward()
            optimizer.step()
        spent += time.monotonic() - start
        worst = [0.0] * len(facts)
        with torch.inference_mode():
            for batch in _batches(rows, batch_size):
                for (fact, _, _), loss in zip(batch, _losses(adapted, batch, prompts.pad_token).amax(1), strict=True):
                    worst[fact] = max(worst[fact], float(loss))
        at_bar = sum(loss <= limit for loss in worst)
        on_epoch(epoch, at_bar)
        reached = PeerResult(at_bar, epoch, spent)
        if best is None or best.at_bar == 0 or reached.facts_per_second > best.facts_per_second:
            best = reached
    if best is None:
        raise ValueError("a peer needs at least one fact and a time limit above zero")
    return best


_Row = tuple[int, list[int], list[int]]


def _batches(rows: list[_Row], size: int) -> list[list[_Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _losses(model: Any, batch: list[_Row], pad: int) -> torch.Tensor:
    """[n, T]: the loss at each answer position, 0 where an answer is shorter; only their logits are computed.

    Prompts are padded on the left and answers on the right, so that the answers align.
    """
    prompt, answer = max(len(asked) for _, asked, _ in batch), max(len(said) for _, _, said in batch)
    ids = torch.full((len(batch), prompt + answer - 1), pad)
    mask = torch.zeros_like(ids)
    targets = torch.full((len(batch), answer), _IGNORED)
    for i, (_, asked, said) in enumerate(batch):
        tokens = torch.tensor([*asked, *said[:-1]])
        start = prompt - len(asked)
        ids[i, start : start + len(tokens)] = tokens
        mask[i, start : start + len(tokens)] = 1
        targets[i, : len(said)] = torch.tensor(said)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=answer,
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=_IGNORED, reduction="none")

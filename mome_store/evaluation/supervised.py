"""Supervised training on questions and answers in the usual way: batches of wordings, loss on the answer's tokens.

What the trained systems of the evaluation and the peer of `mome bench tune` have in common.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mome_store.modeling import Prompts
    from mome_store.tuning import Fact

_IGNORED = -100


@dataclass(frozen=True)
class Row:
    """One wording of a fact as tokens: the place of its fact, the prompt, and the answer with the end token."""

    fact: int
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Trained:
    """How a training went: passes over all rows that were begun, its seconds, and whether every row met the bar."""

    epochs: int
    seconds: float
    at_bar: bool


def rows_of(prompts: Prompts, facts: Sequence[Fact]) -> list[Row]:
    """A row for each trained wording of each fact."""
    return [
        Row(i, prompts.prompt(wording), prompts.answer(fact.answer or ""))
        for i, fact in enumerate(facts)
        for wording in fact.wordings
    ]


def batches(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def answer_losses(model: Any, batch: Sequence[Row], pad: int) -> torch.Tensor:
    """[n, T]: the loss at each answer position, 0 where an answer is shorter; only their logits are computed.

    Prompts are padded on the left and answers on the right, so that the answers align.
    """
    prompt, answer = max(len(row.prompt) for row in batch), max(len(row.answer) for row in batch)
    ids = torch.full((len(batch), prompt + answer - 1), pad)
    mask = torch.zeros_like(ids)
    targets = torch.full((len(batch), answer), _IGNORED)
    for i, row in enumerate(batch):
        tokens = torch.tensor([*row.prompt, *row.answer[:-1]])
        start = prompt - len(row.prompt)
        ids[i, start : start + len(tokens)] = tokens
        mask[i, start : start + len(tokens)] = 1
        targets[i, : len(row.answer)] = torch.tensor(row.answer)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=answer,
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=_IGNORED, reduction="none")


def train_step(model: Any, optimizer: torch.optim.Optimizer, batch: Sequence[Row], pad: int) -> float:
    """One step on the summed loss of each answer, averaged over the batch. Returns its worst token's loss before."""
    optimizer.zero_grad()
    losses = answer_losses(model, batch, pad)
    losses.sum(1).mean().backward()
    optimizer.step()
    return float(losses.detach().max())


def train_until(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: list[Row],
    pad: int,
    seconds: float,
    stop_probability: float,
    batch_size: int = 16,
    seed: int = 0,
    on_step: Callable[[float], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Epochs over `rows` until in a whole one every answer token had `stop_probability`, or for `seconds`.

    At least one step is made. The learning rate falls to a tenth over the time there is. on_step: told the share of the
    time that is spent. clock: in seconds.
    """
    shuffle = random.Random(seed)
    limit = -math.log(stop_probability)
    begin = clock()
    rates = [group["lr"] for group in optimizer.param_groups]
    epoch, at_bar = 0, False
    while not at_bar:
        epoch += 1
        shuffle.shuffle(rows)
        worst = 0.0
        for batch in batches(rows, batch_size):
            worst = max(worst, train_step(model, optimizer, batch, pad))
            share = (clock() - begin) / seconds
            if on_step is not None:
                on_step(min(share, 1.0))
            if share >= 1:
                return Trained(epoch, clock() - begin, at_bar=False)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - 0.9 * share)
        at_bar = worst <= limit
    return Trained(epoch, clock() - begin, at_bar)

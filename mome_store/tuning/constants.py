"""What stays the same while a fact is trained, computed once: the tensors that a training step starts from.

Experts act from the last prompt token on, in the adapted layers and through them in the layers above. So the prompt's
attention keys and values are the base model's, and so is everything below the first adapted layer. What a step needs
is, for each wording of a fact (W of them, P prompt tokens before the last one, T positions to be trained):

    hidden       [W, T, d]           what enters the first adapted layer, at the last prompt token and in the answer
    keys, values [W, heads, P, d_h]  of the prompt, for each layer from the first adapted one on ("upper" layers)
    targets      [W, T]              the answer's tokens, the end token last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mome_store.tuning.facts import Fact

IGNORED = -100
"""The target where there is nothing to predict (padding)."""


@dataclass(frozen=True)
class Wordings:
    """A fact as token ids: its prompts, and its answer with the end token."""

    fact: Fact
    prompts: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]

    @property
    def positions(self) -> int:
        """Positions to be trained, over all wordings."""
        return len(self.prompts) * len(self.answer)


@dataclass(frozen=True)
class Prefix:
    """The tokens that all prompts begin with (a chat template's), and their keys and values [1, heads, P, d_h]."""

    tokens: tuple[int, ...]
    keys: tuple[torch.Tensor, ...]  # per layer of the model
    values: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class FactConstants:
    """The constants of one fact. Layers are numbered as in the model.

    prompt_mask: bool [W, P], False where a shorter wording is padded on the left.
    arguments: per upper layer, further arguments of its forward: tensors [W, T, ...], tuples of such, or other values.
    directions: per adapted module float32 [n, d_in]: where to start A, see `UpperLayers.constants`.
    shortlist: int64 [n]: the tokens that compete with the answer's.
    """

    wordings: Wordings
    hidden: torch.Tensor
    keys: Mapping[int, torch.Tensor]
    values: Mapping[int, torch.Tensor]
    prompt_mask: torch.Tensor
    arguments: Mapping[int, Mapping[str, Any]]
    targets: torch.Tensor
    directions: Mapping[str, torch.Tensor]
    shortlist: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """The constants of several facts side by side: N wordings in all, padded to P prompt and T answer positions.

    mask: [N, 1, T, prefix + P + T], added to the attention scores. fact_of: int64 [N], the place of each wording's
    fact in the batch. targets: int64 [N, T].
    """

    hidden: torch.Tensor
    keys: Mapping[int, torch.Tensor]
    values: Mapping[int, torch.Tensor]
    mask: torch.Tensor
    arguments: Mapping[int, Mapping[str, Any]]
    targets: torch.Tensor
    fact_of: torch.Tensor


def common_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The longest run of tokens that all prompts begin with and none ends in."""
    shortest = min(prompts, key=len)
    length = 0
    while length < len(shortest) - 1 and all(p[length] == shortest[length] for p in prompts):
        length += 1
    return tuple(shortest[:length])


def collate(facts: Sequence[FactConstants], prefix: Prefix) -> Batch:
    """Puts the constants of `facts` side by side: prompts padded on the left, answers on the right."""
    prompt = max(f.prompt_mask.shape[1] for f in facts)
    answer = max(f.targets.shape[1] for f in facts)
    first = facts[0]
    targets = torch.cat([_pad(f.targets, 1, 0, answer - f.targets.shape[1], IGNORED) for f in facts])
    wordings = len(targets)

    def prompts(tensors: Sequence[torch.Tensor], shared: torch.Tensor) -> torch.Tensor:
        own = torch.cat([_pad(t, 2, prompt - t.shape[2], 0) for t in tensors])
        return torch.cat([shared.expand(wordings, -1, -1, -1), own], dim=2)

    prompt_mask = torch.cat([_pad(f.prompt_mask, 1, prompt - f.prompt_mask.shape[1], 0) for f in facts])
    return Batch(
        hidden=torch.cat([_pad(f.hidden, 1, 0, answer - f.hidden.shape[1]) for f in facts]),
        keys={i: prompts([f.keys[i] for f in facts], prefix.keys[i]) for i in first.keys},
        values={i: prompts([f.values[i] for f in facts], prefix.values[i]) for i in first.values},
        mask=attention_mask(prompt_mask, len(prefix.tokens), answer, first.hidden.dtype),
        arguments={
            i: {name: _side_by_side([f.arguments[i][name] for f in facts], answer) for name in names}
            for i, names in first.arguments.items()
        },
        targets=targets,
        fact_of=torch.repeat_interleave(torch.arange(len(facts)), torch.tensor([len(f.targets) for f in facts])).to(
            targets.device
        ),
    )


def attention_mask(prompt_mask: torch.Tensor, prefix: int, answer: int, dtype: torch.dtype) -> torch.Tensor:
    """[N, 1, answer, prefix + P + answer]: 0 where a position may look, the dtype's lowest number elsewhere.

    Every answer position sees the prefix, its prompt, and the answer up to itself. prompt_mask: bool [N, P].
    """
    rows = prompt_mask.shape[0]
    device = prompt_mask.device
    seen = torch.cat([torch.ones(rows, prefix, dtype=torch.bool, device=device), prompt_mask], dim=1)
    causal = torch.ones(answer, answer, dtype=torch.bool, device=device).tril()
    allowed = torch.cat([seen[:, None].expand(-1, answer, -1), causal.expand(rows, -1, -1)], dim=2)
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def _side_by_side(values: Sequence[Any], answer: int) -> Any:
    """One layer argument of several facts as that of the batch."""
    if isinstance(values[0], tuple):
        return tuple(_side_by_side(parts, answer) for parts in zip(*values, strict=True))
    if isinstance(values[0], torch.Tensor):
        return torch.cat([_pad(v, 1, 0, answer - v.shape[1]) for v in values])
    return values[0]


def _pad(tensor: torch.Tensor, dim: int, before: int, after: int, value: float = 0) -> torch.Tensor:
    if not before and not after:
        return tensor
    widths = [0, 0] * (tensor.dim() - 1 - dim) + [before, after]
    return torch.nn.functional.pad(tensor, widths, value=value)

"""Greedy, free-running generation for a padded batch: the one way in which this project asks a model anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mome_store.modeling.prompts import Prompts


def pad_left(
    prompts: Sequence[Sequence[int]], pad_token: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, attention_mask), int64 [n, width], of prompts of different lengths, padded on the left."""
    width = max(map(len, prompts))
    rows = [[pad_token] * (width - len(ids)) + list(ids) for ids in prompts]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def generate_greedily(
    model: PreTrainedModel,
    prompts: Prompts,
    batch: Sequence[Sequence[int]],
    max_new_tokens: int,
    min_new_tokens: int = 0,
) -> list[str]:
    """What `model` says after each prompt of `batch` (token ids), up to a stop token, the context or the limit."""
    ids, mask = pad_left(batch, prompts.pad_token, model.device)
    width = ids.shape[1]
    room = max_new_tokens if prompts.context is None else min(max_new_tokens, prompts.context - width)
    output = model.generate(  # type: ignore[operator]  # nn.Module's attributes are typed as tensors or modules
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=room,
        min_new_tokens=min_new_tokens or None,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        use_cache=True,
        eos_token_id=prompts.stop_tokens,
        pad_token_id=prompts.pad_token,
    )
    return [prompts.text(row) for row in output[:, width:].tolist()]

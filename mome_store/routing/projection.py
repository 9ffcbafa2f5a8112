"""The trained projection: from the encoder's token states to a key that says what is asked, and of whom.

A sentence embedding is mostly about the entity: "What is the elevation of X?" lies nearer to "What is the ICAO code of
X?" than a true paraphrase does. So a key has three blocks, each of unit length and together too, and each with its own
pooling over the tokens:

* relation: what is asked. Tokens that name the entity are left out.
* entity: of whom. The other tokens are left out.
* sentence: the mean of all tokens, projected.

A small tagger says of each token how likely it names the entity; the gate uses this too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

BLOCKS = ("relation", "entity", "sentence")
_MASKED = -1e9


class Projected(NamedTuple):
    """Of n texts of at most t tokens: `tags` logits [n, t]; `blocks` [n, 3, width], each of unit length."""

    tags: torch.Tensor
    blocks: torch.Tensor


class Projection(nn.Module):
    """Takes the last hidden states of a sentence encoder, float32 [n, t, dim], and a mask bool [n, t] of their
    tokens.
    """

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        self.dim = dim
        self.width = width
        self.tagger = nn.Sequential(nn.Linear(dim, 64), nn.GELU(), nn.Linear(64, 1))
        self.attention = nn.Linear(dim, 2)  # of the relation's and the entity's pooling
        self.relation = nn.Linear(dim, width)
        self.entity = nn.Linear(dim, width)
        self.sentence = nn.Linear(dim, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> Projected:
        tags = self.tagger(states).squeeze(-1)
        # The tagger learns from the spans alone: what helps a pooling must not change what it calls a name.
        known = tags.detach()
        names = torch.stack((functional.logsigmoid(-known), functional.logsigmoid(known)), dim=-1)
        weights = (self.attention(states) + names).masked_fill(~mask.unsqueeze(-1), _MASKED).softmax(dim=1)
        pooled = torch.einsum("ntp,ntd->npd", weights, states)
        share = mask.float() / mask.sum(dim=1, keepdim=True).clamp(min=1)
        mean = functional.normalize(torch.einsum("nt,ntd->nd", share, states), dim=-1)
        blocks = (self.relation(self.dropout(pooled[:, 0])), self.entity(pooled[:, 1]), self.sentence(mean))
        return Projected(tags, functional.normalize(torch.stack(blocks, dim=1), dim=-1))

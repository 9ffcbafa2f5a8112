"""The trained projection: from what the encoder says of a text to a key that says what is asked, and of whom.

A sentence embedding is mostly about the entity: "What is the elevation of X?" lies nearer to "What is the ICAO code of
X?" than a true paraphrase does. So a key has three blocks, each of unit length:

* relation: what is asked. The text is encoded a second time without the names in it ("What is the elevation of this?").
* entity: of whom. Tokens that do not name the entity are left out.
* sentence: the mean of all tokens.

A small tagger (tagger.py) says of each token how likely it names the entity. It decides which words are left out for
the relation, and the gate uses it, too.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from mome_store.routing.tagger import Tagger

BLOCKS = ("relation", "entity", "sentence")
MASKED = -1e9  # the logit of a token that is not looked at


class Projection(nn.Module):
    """Takes the last hidden states of a sentence encoder, float32 [n, t, dim], and a mask bool [n, t] of their tokens;
    of the texts without names, its embeddings float32 [n, dim].
    """

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        self.dim = dim
        self.width = width
        self.tagger = Tagger(dim)
        self.attention = nn.Linear(dim, 1)  # of the entity's pooling
        self.relation = nn.Linear(dim, width)
        self.entity = nn.Linear(dim, width)
        self.sentence = nn.Linear(dim, width)
        self.dropout = nn.Dropout(0.1)

    def start_relations(self, unnamed: torch.Tensor) -> None:
        """Lets the relation block begin as the main directions of embeddings [n, dim]: as what the encoder knows.

        Where there are fewer directions than it is wide, the others begin at 0.
        """
        middle = unnamed.mean(dim=0)
        count = min(self.width, *unnamed.shape)
        directions = torch.pca_lowrank(unnamed - middle, q=count, center=False, niter=4)[2].T
        with torch.no_grad():
            self.relation.weight.zero_()[:count] = directions
            self.relation.bias.zero_()[:count] = -directions @ middle

    def relations(self, unnamed: torch.Tensor) -> torch.Tensor:
        """The relation block [n, width] of texts without names, by their embeddings [n, dim]."""
        return functional.normalize(self.relation(self.dropout(unnamed)), dim=-1)

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor, tags: torch.Tensor, unnamed: torch.Tensor
    ) -> torch.Tensor:
        """The blocks [n, 3, width]. tags: the tagger's, of `states`."""
        named = functional.logsigmoid(tags)
        weights = (self.attention(states).squeeze(-1) + named).masked_fill(~mask, MASKED).softmax(dim=1)
        pooled = torch.einsum("nt,ntd->nd", weights, states)
        share = mask.float() / mask.sum(dim=1, keepdim=True).clamp(min=1)
        mean = functional.normalize(torch.einsum("nt,ntd->nd", share, states), dim=-1)
        others = functional.normalize(torch.stack((self.entity(pooled), self.sentence(mean)), dim=1), dim=-1)
        return torch.cat((self.relations(unnamed).unsqueeze(1), others), dim=1)

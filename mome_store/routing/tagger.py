"""The tagger: which tokens of a text name the entity, by the encoder's states and by how the text is written."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from mome_store.routing.words import begins_sentence, in_one_case

_MARKS = 3
_REACH = 5  # tokens that a layer sees at once


class Tagger(nn.Module):
    """Two layers of convolution. Takes hidden states float32 [n, t, dim] and their `case_marks` [n, t, 3], where mask
    bool [n, t] is set.
    """

    def __init__(self, dim: int, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv1d(dim + _MARKS, width, _REACH, padding=_REACH // 2)
        self.second = nn.Conv1d(width, width, _REACH, padding=_REACH // 2)
        self.output = nn.Conv1d(width, 1, 1)
        self.dropout = nn.Dropout(0.3)

    def forward(self, states: torch.Tensor, marks: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [n, t]; those of a text do not depend on what it is padded to."""
        hidden, shown = torch.cat((states, marks), dim=2).transpose(1, 2), mask.unsqueeze(1)
        for layer in (self.first, self.second):
            hidden = functional.gelu(layer(self.dropout(hidden) * shown))
        return torch.as_tensor(self.output(self.dropout(hidden))).squeeze(1)


def case_marks(text: str, spans: NDArray[np.int64]) -> torch.Tensor:
    """float32 [t, 3] of tokens with these spans [t, 2]: whether the word has a capital inside a sentence; one at its
    beginning; whether the text has none at all, or nothing else. An encoder that folds case sees none of it.
    """
    marks = np.zeros((len(spans), _MARKS), np.float32)
    one_case = in_one_case(text)
    for place, (start, end) in enumerate(spans.tolist()):
        if end == start:
            continue
        while start > 0 and text[start - 1].isalnum():
            start -= 1
        begins = begins_sentence(text, start)
        capital = text[start].isupper() and not one_case
        marks[place] = (capital and not begins, capital and begins, one_case)
    return torch.from_numpy(marks)


def lower_marks(marks: torch.Tensor) -> torch.Tensor:
    """As if the text had no capitals."""
    return torch.zeros_like(marks).index_fill_(-1, torch.tensor(_MARKS - 1), 1.0)

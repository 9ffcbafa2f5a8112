"""A trained projection as it is used for questions: text by text, and on the calling thread alone.

What one question needs takes less time than other threads need to wake up, and where cores are scarce these come a time
slice late. It is what `Projection` and its tagger compute, rounding aside; of a text without characters, which has no
entity, nothing is pooled.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mome_store._core import convolution, inner_products
from mome_store.routing.projection import MASKED, Projection

Floats = NDArray[np.float32]


class Projector:
    """Keeps weights of its own: what happens to `projection` later does not show."""

    def __init__(self, projection: Projection) -> None:
        tagger = projection.tagger
        self._first, self._second, self._output = (
            _Convolution(layer) for layer in (tagger.first, tagger.second, tagger.output)
        )
        self._attention, self._relation, self._entity, self._sentence = (
            _Linear(layer.weight, layer.bias)
            for layer in (projection.attention, projection.relation, projection.entity, projection.sentence)
        )

    def tags(self, states: Floats, marks: Floats, shown: NDArray[np.bool_]) -> Floats:
        """float32 [t]: the tagger's logits for a text's states [t, dim] and `case_marks` [t, 3]. shown: bool [t], which
        tokens stand for characters.
        """
        seen = shown[:, None]
        hidden = self._first(np.concatenate((states, marks), axis=1) * seen, gelu=True)
        hidden = self._second(hidden * seen, gelu=True)
        return self._output(hidden, gelu=False)[:, 0]

    def blocks(self, states: Floats, shown: NDArray[np.bool_], tags: Floats, unnamed: Floats) -> Floats:
        """float32 [3, width]: the blocks of a text. tags: [t], of its states [t, dim]. unnamed: float32 [dim], what the
        encoder makes of the text without its names.
        """
        likely = self._attention(states)[:, 0] - np.logaddexp(0, -tags)
        weights = np.exp(likely - likely.max(initial=MASKED, where=shown), where=shown, out=np.zeros_like(likely))
        entity, mean = ((each[:, None] * states).sum(axis=0) / max(float(each.sum()), 1.0) for each in (weights, shown))
        return np.stack(
            [
                _unit(layer(each[None])[0])
                for layer, each in ((self._relation, unnamed), (self._entity, entity), (self._sentence, _unit(mean)))
            ]
        )


class _Linear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = np.array(weight.detach().numpy(), np.float32)
        self._bias = 0.0 if bias is None else np.array(bias.detach().numpy(), np.float32)

    def __call__(self, inputs: Floats) -> Floats:
        """float32 [n, out] of [n, in]."""
        return np.asarray(inner_products(self._weight, np.ascontiguousarray(inputs)) + self._bias, np.float32)


class _Convolution:
    def __init__(self, layer: nn.Conv1d) -> None:
        assert layer.bias is not None
        self._weights = np.array(layer.weight.detach().transpose(1, 2).numpy(), np.float32, order="C")
        self._bias = np.array(layer.bias.detach().numpy(), np.float32)

    def __call__(self, inputs: Floats, gelu: bool) -> Floats:
        """float32 [t, out] of [t, in], with the GELU after it or without."""
        return convolution(inputs, self._weights, self._bias, gelu)


def _unit(vector: Floats) -> Floats:
    return vector / np.float32(max(float(np.sqrt((vector * vector).sum())), 1e-12))

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

from mome_store._core import erf, inner_products
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
        hidden = np.concatenate((states, marks), axis=1)
        for layer in (self._first, self._second):
            hidden = _gelu(layer(hidden * shown[:, None]))
        return np.asarray(self._output(hidden)[:, 0])

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
        self._reach = layer.kernel_size[0]
        self._linear = _Linear(layer.weight.transpose(1, 2).flatten(1), layer.bias)

    def __call__(self, inputs: Floats) -> Floats:
        """float32 [t, out] of [t, in]."""
        count, width = inputs.shape
        margin = self._reach // 2
        padded = np.zeros((count + 2 * margin, width), np.float32)
        padded[margin : margin + count] = inputs
        windows = np.lib.stride_tricks.sliding_window_view(padded.ravel(), self._reach * width)
        return self._linear(windows[::width])


def _gelu(values: Floats) -> Floats:
    return values * np.float32(0.5) * (1 + erf(values * np.float32(0.5**0.5)))


def _unit(vector: Floats) -> Floats:
    return vector / np.float32(max(float(np.sqrt((vector * vector).sum())), 1e-12))

"""Text to a key by a trained router: the sentence encoder's token states, projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mome_store.errors import SchemaError
from mome_store.routing.encoder import SentenceEncoder, TokenStates
from mome_store.routing.gate import Reading
from mome_store.routing.projection import BLOCKS, Projection
from mome_store.routing.trained import DEFAULT_ROUTER, TrainedRouter, load_router
from mome_store.routing.words import words_of

_TOGETHER = 256  # texts whose token states are padded to one length at once


class KeyEncoder:
    """A QueryEncoder whose vectors have the three blocks of projection.py.

    sentences: the encoder below; by default all-MiniLM-L6-v2. router: a TrainedRouter, or the name or path of one; by
    default the one that is shipped. Raises SchemaError for a router that was trained for another encoder.

    Attributes: `sentences`, `router`.
    """

    def __init__(
        self,
        sentences: SentenceEncoder | None = None,
        router: TrainedRouter | str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.sentences = SentenceEncoder(device=device) if sentences is None else sentences
        self._name = "given" if isinstance(router, TrainedRouter) else str(router or DEFAULT_ROUTER)
        self.router = router if isinstance(router, TrainedRouter) else load_router(router)
        if self.router.encoder != self.sentences.identity["fingerprint"]:
            raise SchemaError(
                f"the router {self._name} was trained for another encoder than {self.sentences.identity['name']} "
                "(fingerprints differ): train one for it with `mome train-router`"
            )

    @property
    def dim(self) -> int:
        return len(BLOCKS) * self.router.projection.width

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            **self.sentences.identity,
            "dim": self.dim,
            "router": self._name,
            "fingerprint": self.router.fingerprint,
        }

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [len(texts), dim], unit length."""
        return keys_of_readings(self.read(texts), self.dim)

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """What the gate sees in each text."""
        return read_states(texts, self.sentences.encode_tokens(texts), self.router.projection)


def keys_of_readings(readings: Sequence[Reading], dim: int) -> NDArray[np.float32]:
    """float32 [len(readings), dim]: an inner product of two keys is the mean of their blocks' cosines."""
    blocks = np.array([reading.blocks for reading in readings], np.float32).reshape(len(readings), dim)
    return blocks / np.float32(len(BLOCKS) ** 0.5)


def read_states(texts: Sequence[str], states: Sequence[TokenStates], projection: Projection) -> list[Reading]:
    """The readings of texts whose token states are known."""
    readings: list[Reading] = []
    for start in range(0, len(texts), _TOGETHER):
        part = states[start : start + _TOGETHER]
        padded, mask = pad_states(part)
        with torch.inference_mode():
            tags, blocks = projection(padded, mask)
        likely = tags.sigmoid().numpy()
        for i, text in enumerate(texts[start : start + _TOGETHER]):
            readings.append(Reading(blocks[i].numpy(), _names(text, part[i].spans, likely[i])))
    return readings


def pad_states(states: Sequence[TokenStates]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token states float32 [n, t, dim], padded at the end, and bool [n, t]: which of them stand for characters."""
    padded = torch.nn.utils.rnn.pad_sequence([each.states for each in states], batch_first=True)
    mask = torch.zeros(padded.shape[:2], dtype=torch.bool)
    for i, each in enumerate(states):
        mask[i, : len(each.spans)] = torch.from_numpy(each.spans[:, 1] > each.spans[:, 0])
    return padded, mask


def _names(text: str, spans: NDArray[np.int64], likely: NDArray[np.float32]) -> dict[str, float]:
    """Each word, and the mean over its tokens of how likely they name the entity (of the occasion where it is most)."""
    found: dict[str, float] = {}
    starts, ends = spans[:, 0], spans[:, 1]
    for word in words_of(text):
        inside = (starts >= word.start) & (ends <= word.end) & (ends > starts)
        value = float(likely[: len(spans)][inside].mean()) if inside.any() else 0.0
        found[word.text] = max(found.get(word.text, 0.0), value)
    return found

"""Text to a key by a trained router: what the sentence encoder says of it, with and without its names, projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mome_store.errors import SchemaError
from mome_store.routing.encoder import SentenceEncoder, TokenEncoder, TokenStates
from mome_store.routing.gate import Reading
from mome_store.routing.projection import BLOCKS
from mome_store.routing.projector import Projector
from mome_store.routing.tagger import case_marks
from mome_store.routing.trained import DEFAULT_ROUTER, TrainedRouter, load_router
from mome_store.routing.words import Word, capital_inside, in_one_case, plain_words, without_names, words_of

_ACRONYM = 6  # letters at most
_NO_NAME = -20.0  # the logit of a token that names nothing
_MAY_NAME = -1.7  # and of one that may be a name: 0.15
_NAMED = 0.5  # a word as likely a name as this is left out for the relation


class KeyEncoder:
    """A QueryEncoder whose vectors have the three blocks of projection.py.

    sentences: the encoder below; by default all-MiniLM-L6-v2. router: a TrainedRouter, or the name or path of one; by
    default the one that is shipped. Raises SchemaError for a router that was trained for another encoder.

    Attributes: `sentences`, `router`.
    """

    def __init__(
        self,
        sentences: TokenEncoder | None = None,
        router: TrainedRouter | str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.sentences = SentenceEncoder(device=device) if sentences is None else sentences
        self._name = "given" if isinstance(router, TrainedRouter) else str(router or DEFAULT_ROUTER)
        self.router = router if isinstance(router, TrainedRouter) else load_router(router)
        self._projector = Projector(self.router.projection)
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

    def words_with_rarity(self, text: str) -> dict[str, float]:
        """The words of a text (words.py), and how rare each is."""
        return _rarity(text, words_of(text), self.sentences)

    def read(self, texts: Sequence[str], names: Sequence[Set[str]] | None = None) -> list[Reading]:
        """What the gate sees in each text. names: of each the words (folded) that name the entity; by default the
        tagger tells.
        """
        return read_states(texts, self.sentences.encode_tokens(texts), self._projector, self.sentences, names)


def keys_of_readings(readings: Sequence[Reading], dim: int) -> NDArray[np.float32]:
    """float32 [len(readings), dim]: an inner product of two keys is the mean of their blocks' cosines."""
    blocks = np.array([reading.blocks for reading in readings], np.float32).reshape(len(readings), dim)
    return blocks / np.float32(len(BLOCKS) ** 0.5)


def read_states(
    texts: Sequence[str],
    states: Sequence[TokenStates],
    projector: Projector,
    sentences: TokenEncoder,
    names: Sequence[Set[str]] | None = None,
) -> list[Reading]:
    """The readings of texts whose token states are known; each is encoded once more, without its names. names: as
    `KeyEncoder.read` has it.
    """
    seen = [(each.states.numpy(), each.spans[:, 1] > each.spans[:, 0]) for each in states]
    spans = [each.spans.tolist() for each in states]
    tags = [
        projector.tags(own, case_marks(text, each.spans).numpy(), shown)
        for text, each, (own, shown) in zip(texts, states, seen, strict=True)
    ]
    for i, (text, places, logits) in enumerate(zip(texts, spans, tags, strict=True)):
        if names is None:
            _join_names(text, places, logits)
        else:
            _keep_names(text, places, logits, names[i])
    named = [_NamedTokens.of_tags(places, own) for places, own in zip(spans, tags, strict=True)]
    unnamed = encode_once(sentences, [_unnamed(text, tokens) for text, tokens in zip(texts, named, strict=True)])
    readings: list[Reading] = []
    for text, (own, shown), logits, tokens, rest in zip(texts, seen, tags, named, unnamed, strict=True):
        words = words_of(text)
        blocks = projector.blocks(own, shown, logits, rest)
        readings.append(Reading(blocks, _names(words, tokens), _rarity(text, words, sentences)))
    return readings


def _join_names(text: str, spans: Sequence[Sequence[int]], logits: NDArray[np.float32]) -> None:
    """A word that may be a name becomes one where it has a capital and stands beside such a name: "Ada Brandt-May"."""
    if in_one_case(text):
        return
    words = [word for word in plain_words(text) if text[word.start].isupper()]
    tokens = [_tokens_of(word, spans) for word in words]
    values = logits.tolist()
    tagged = [fmean(values[i] for i in own) if own else _NO_NAME for own in tokens]
    for one, other in [*pairwise(range(len(words))), *pairwise(reversed(range(len(words))))]:
        first, second = sorted((words[one], words[other]), key=lambda word: word.start)
        possible = tagged[one] > 0 and _MAY_NAME <= tagged[other] < tagged[one]
        if possible and text[first.end : second.start] in (" ", "-") and capital_inside(text, words[other].start):
            tagged[other] = tagged[one]
            logits[tokens[other]] = tagged[one]


def _keep_names(text: str, spans: Sequence[Sequence[int]], logits: NDArray[np.float32], names: Set[str]) -> None:
    """No token names anything but those of these words."""
    kept = np.zeros(len(spans), np.bool_)
    for word in plain_words(text):
        if word.text in names:
            kept[_tokens_of(word, spans)] = True
    logits[~kept] = _NO_NAME


def _tokens_of(word: Word, spans: Sequence[Sequence[int]]) -> list[int]:
    """Which of the tokens that stand on `spans` [t, 2] are of the word."""
    return [i for i, (start, end) in enumerate(spans) if word.start <= start < end <= word.end]


@dataclass(frozen=True)
class _NamedTokens:
    """The tokens of a text that stand for characters: from where to where, and how likely each names the entity."""

    tokens: tuple[tuple[int, int, float], ...]

    @classmethod
    def of_tags(cls, spans: Sequence[Sequence[int]], tags: NDArray[np.float32]) -> _NamedTokens:
        """spans: [t, 2]; tags: logits float32 [t]."""
        likely = np.exp(-np.logaddexp(0, -tags))  # the logistic function, which can't overflow so
        tokens = zip(spans, likely.tolist(), strict=True)
        return cls(tuple((start, end, p) for (start, end), p in tokens if end > start))

    def likely_name(self, word: Word) -> float:
        """The mean over the word's tokens."""
        inside = [p for start, end, p in self.tokens if start >= word.start and end <= word.end]
        return sum(inside) / len(inside) if inside else 0.0


def encode_once(sentences: TokenEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """float32 [len(texts), dim]: without their names many texts are the same, and each is encoded once."""
    different = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(different)}
    return sentences.encode(different)[[place[text] for text in texts]]


def pad_states(states: Sequence[TokenStates]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token states float32 [n, t, dim], padded at the end, and bool [n, t]: which of them stand for characters."""
    padded = torch.nn.utils.rnn.pad_sequence([each.states for each in states], batch_first=True)
    mask = torch.zeros(padded.shape[:2], dtype=torch.bool)
    for i, each in enumerate(states):
        mask[i, : len(each.spans)] = torch.from_numpy(each.spans[:, 1] > each.spans[:, 0])
    return padded, mask


def _unnamed(text: str, tokens: _NamedTokens) -> str:
    words = plain_words(text)
    return without_names(text, words, [tokens.likely_name(word) > _NAMED for word in words])


def _rarity(text: str, words: Sequence[Word], sentences: TokenEncoder) -> dict[str, float]:
    """How rare each word is, 0 to 1; an acronym in a text that is not all in capitals is always rare. Two words that
    were put together are not: each of them counts alone.
    """
    mixed = not text.isupper()
    found: dict[str, float] = {}
    for word in words:
        written = text[word.start : word.end]
        acronym = mixed and written.isalpha() and written.isupper() and 1 < len(written) <= _ACRONYM
        rare = 0.0 if " " in word.text else sentences.rarity(word.text)
        found[word.text] = max(found.get(word.text, 0.0), 1.0 if acronym else rare)
    return found


def _names(words: Sequence[Word], tokens: _NamedTokens) -> dict[str, float]:
    """Of each word how likely it names the entity, on the occasion where it is most."""
    found: dict[str, float] = {}
    for word in words:
        found[word.text] = max(found.get(word.text, 0.0), tokens.likely_name(word))
    return found

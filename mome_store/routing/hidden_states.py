"""The base model's own hidden states as an encoder: its layers up to a chosen one, then its final norm.

A text is read as it is, without a chat template. Its vector is the mean over its tokens. The norm is what makes a mean
of them useful: the first token's state, on which attention rests, is many times as long as the others.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from mome_store.base_model import load_base_model, resolve_base_model
from mome_store.errors import BaseModelMismatchError, SchemaError
from mome_store.fingerprint import fingerprint
from mome_store.routing.encoder import TokenEncoder, mean_state

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

_DEFAULT_LAYER = 5 / 30  # as a share of the layers: the best of the default base model's, docs/routing.md
_MOST_TOKENS = 512
_WORD_STARTS = ("Ġ", "▁")  # how byte-level BPE and SentencePiece mark a token that begins a word


class HiddenStateEncoder(TokenEncoder):
    """A causal language model, cut above a layer. Made by `from_pretrained`, or from a model in hand, whose modules it
    shares; the model must not be wrapped yet.

    name: what a store remembers, and `from_pretrained` finds again. layer: how many of the model's layers are run, from
    1 to all; None: a sixth of them, rounded. Texts are cut at 512 tokens, or at the model's context.
    Raises SchemaError for a layer that the model does not have, for a model that can't be cut, and for a tokenizer that
    can't pad or tell where its tokens stand.

    Attributes: `layer`, `layers` (the modules that are run).
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, layer: int | None = None
    ) -> None:
        self._name = name
        self._cut, self.layers = _cut(model, name, layer)
        self.layer = len(self.layers)
        self._base_model = fingerprint(model)
        own = _own_tokenizer(tokenizer, name)
        self._digest = _digest(self._base_model, own, self.layer)
        context = getattr(model.config, "max_position_embeddings", None) or _MOST_TOKENS
        super().__init__(own, min(int(context), _MOST_TOKENS), model.device)

    @classmethod
    def from_pretrained(
        cls, base: str | Path | None = None, layer: int | None = None, device: str | torch.device = "cpu"
    ) -> Self:
        """base: a folder or hub id of a causal LM; None: the default base model. Raises SchemaError."""
        try:
            source = resolve_base_model(base)
            model, tokenizer = load_base_model(source)
        except BaseModelMismatchError as error:
            raise SchemaError(f"no encoder without a causal language model: {error}") from error
        model.to(device)  # type: ignore[arg-type]  # a wrapper in transformers hides self
        return cls(model, tokenizer, source.name, layer)

    @property
    def dim(self) -> int:
        return int(self._cut.config.hidden_size)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "name": self._name,
            "dim": self.dim,
            "layer": self.layer,
            "max_tokens": self._max_tokens,
            "base_model": self._base_model,
            "fingerprint": self._digest,
        }

    def vocabulary(self, count: int, start: int) -> list[str]:
        """In lower case, each once. Raises SchemaError for a tokenizer without whole words."""
        ids = sorted((number, word) for word, number in self._words.items())
        if not ids:
            raise SchemaError(f"the tokenizer of {self._name} has no tokens that are whole words")
        return [
            word for number, word in ids if number >= start and len(word) >= 4 and word.isascii() and word.isalpha()
        ][:count]

    def rarity(self, word: str) -> float:
        size = len(self._tokenizer)
        return self._words.get(word, size) / size

    @cached_property
    def _words(self) -> dict[str, int]:
        """The whole words of the tokenizer, in lower case, and the lowest id of each."""
        found: dict[str, int] = {}
        for token, number in self._tokenizer.get_vocab().items():
            if token.startswith(_WORD_STARTS) and len(token) > 1:
                word = token[1:].lower()
                found[word] = min(number, found.get(word, number))
        return found

    def _hidden(self, tokens: BatchEncoding) -> torch.Tensor:
        output = self._cut(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], use_cache=False)
        return cast("torch.Tensor", output.last_hidden_state.float())

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mean_state(hidden, mask)


def _cut(model: PreTrainedModel, name: str, layer: int | None) -> tuple[PreTrainedModel, torch.nn.ModuleList]:
    """The model without its head and without the layers after `layer`, and those that are left: the same modules."""
    from torch import nn

    decoder = model.get_decoder()
    depth = int(getattr(model.config, "num_hidden_layers", 0))
    lists = [
        child
        for child, module in decoder.named_children()
        if isinstance(module, nn.ModuleList) and len(module) == depth > 0
    ]
    if len(lists) != 1:
        raise SchemaError(f"{name}: a {type(model).__name__} is no causal language model that can be cut at a layer")
    chosen = max(1, round(_DEFAULT_LAYER * depth)) if layer is None else layer
    if not 1 <= chosen <= depth:
        raise SchemaError(f"{name} has the layers 1 to {depth}, found layer {chosen}")
    kept = nn.ModuleList(list(decoder.get_submodule(lists[0]).children())[:chosen])
    cut = copy.copy(decoder)
    cut._modules = {**decoder._modules, lists[0]: kept}
    return cast("PreTrainedModel", cut), kept


def _own_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """A copy, since padding and truncation are set on it, which the tokenizer's other users must not see."""
    if not tokenizer.is_fast:
        raise SchemaError(f"{name} has a tokenizer that can't tell where its tokens stand: no tokenizer.json")
    own = copy.deepcopy(tokenizer)
    own.padding_side = own.truncation_side = "right"
    if own.pad_token is None:
        if own.eos_token is None:
            raise SchemaError(f"{name} has a tokenizer with neither a padding nor an end token")
        own.pad_token = own.eos_token
    return own


def _digest(base_model: str, tokenizer: PreTrainedTokenizerBase, layer: int) -> str:
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    return hashlib.sha256(f"{base_model} mean of layer {layer} {backend.to_str()}".encode()).hexdigest()

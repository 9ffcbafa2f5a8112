"""Tiny randomly initialised models of several architectures, a byte tokenizer and an encoder without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

ARCHITECTURES = ("llama", "qwen2", "gemma", "gemma2", "gpt2")
LAYERS = 4
_SMALL: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "initializer_range": 0.3,  # with less, a model this narrow can't be sure of any token
}
_CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_SMALL),
    "qwen2": lambda: Qwen2Config(**_SMALL),
    "gemma": lambda: GemmaConfig(**_SMALL),
    "gemma2": lambda: Gemma2Config(**_SMALL, sliding_window=128, query_pre_attn_scalar=16),
    "gpt2": lambda: GPT2Config(
        vocab_size=264,
        n_embd=64,
        n_inner=96,
        n_layer=LAYERS,
        n_head=4,
        n_positions=256,
        bos_token_id=256,
        eos_token_id=257,
        initializer_range=0.3,
    ),
}


class HashEncoder:
    """A QueryEncoder without a model: character trigrams hashed into 64 dimensions."""

    dim = 64
    identity: ClassVar = {"name": "hash", "fingerprint": "hash-64"}

    def encode(self, texts: Any) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for i in range(len(text) - 2):
                code = int.from_bytes(text[i : i + 3].lower().encode()[:4], "little") * 2654435761 % 2**32
                vectors[row, code % self.dim] += 1 if code & 2**20 else -1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def make_model(architecture: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(_CONFIGS[architecture]()).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def target_of(architecture: str) -> str:
    return "mlp.c_proj" if architecture == "gpt2" else "mlp.down_proj"

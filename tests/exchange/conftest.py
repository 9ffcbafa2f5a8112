"""Adapters that PEFT itself makes and saves, over the tiny models, and stores for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from mome_store import ExpertSchema, ExpertStore
from tests.tiny_models import HashEncoder, make_model, target_of

peft = pytest.importorskip("peft")

SaveAdapter = Callable[..., Path]
NewStore = Callable[..., ExpertStore]


@pytest.fixture
def save_adapter(tmp_path: Path) -> SaveAdapter:
    """A function that saves an adapter with random factors: `save_adapter(architecture, dtype=..., **LoraConfig)`."""
    saved = 0

    def save(
        architecture: str = "llama", dtype: torch.dtype = torch.float32, model: PreTrainedModel | None = None, **to: Any
    ) -> Path:
        nonlocal saved
        settings = {
            "r": 4,
            "lora_alpha": 4,
            "target_modules": [f"{layer}.{target_of(architecture)}" for layer in (2, 3)],
            "init_lora_weights": False,
            "task_type": "CAUSAL_LM",
            **to,
        }
        base = make_model(architecture) if model is None else model
        torch.manual_seed(7)
        adapted = peft.get_peft_model(base, peft.LoraConfig(**settings))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = (torch.randn(parameter.shape) / 8).to(dtype)
        path = tmp_path / f"adapter-{saved}"
        saved += 1
        adapted.save_pretrained(path)
        return path

    return save


@pytest.fixture
def new_store(tmp_path: Path) -> NewStore:
    """A function that makes a store for a tiny model: `new_store(architecture, rank=..., dtype=..., alpha=...)`."""
    made = 0

    def make(
        architecture: str = "llama", rank: int = 4, dtype: str = "float32", alpha: float | None = None, **settings: Any
    ) -> ExpertStore:
        nonlocal made
        schema = ExpertSchema.for_model(
            make_model(architecture),
            [target_of(architecture)],
            layers=range(2, 4),
            rank=rank,
            dtype=dtype,
            alpha=alpha,
        )
        path = tmp_path / f"exchange-store-{made}"
        made += 1
        return ExpertStore.create(path, schema, HashEncoder.dim, rows_per_shard=64, **settings)

    return make

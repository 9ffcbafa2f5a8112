"""A workbench around a tiny model, so that the whole protocol runs within seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mome_store.evaluation import EvaluationSettings, Workbench
from mome_store.modeling import Prompts
from mome_store.tuning import TuningSettings
from tests.tiny_models import HashEncoder, make_tokenizer

CONTEXT = 1024  # bytes are tokens here: prompts with facts in them are long


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=CONTEXT,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
        initializer_range=0.3,
    )
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    tokenizer = make_tokenizer()
    settings = EvaluationSettings(
        questions=10,
        other_questions=10,
        routed_questions=24,
        slow_questions=4,
        trained_facts=12,
        trained_seconds_per_fact=0.1,
        speed_questions=2,
        speed_tokens=2,
    )
    return Workbench(
        model=model,
        tokenizer=tokenizer,
        prompts=Prompts(model, tokenizer),
        sentences=HashEncoder(),
        router=HashEncoder(),
        folder=tmp_path,
        settings=settings,
        tuning=TuningSettings(max_steps=150),
    )

"""An adapter that PEFT applies and the group that it became, or came from, are the same function of the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mome_store import ExpertStore, MemoryModel, Route
from mome_store.exchange import export_group, import_group
from tests.exchange.conftest import NewStore, SaveAdapter, peft
from tests.tiny_models import HashEncoder, make_model, make_tokenizer

BATCH = torch.tensor([[5, 17, 200, 3, 99, 41, 8], [11, 12, 13, 14, 15, 16, 17]])


def peft_logits(path: Path, architecture: str) -> torch.Tensor:
    model: Any = peft.PeftModel.from_pretrained(make_model(architecture), path).eval()
    with torch.inference_mode():
        return model(BATCH).logits


def store_logits(store: ExpertStore, group_id: int, architecture: str) -> torch.Tensor:
    with MemoryModel(make_model(architecture), make_tokenizer(), store, encoder=HashEncoder()) as memory:
        experts = memory.snapshot.group(group_id).expert_ids
        weights = np.ones(len(experts), np.float32)
        shut = Route.shut(2)
        route = Route((experts,) * 2, (weights,) * 2, ((group_id,),) * 2, shut.scores, np.ones(2, np.bool_))
        with torch.inference_mode(), memory.attached(route, BATCH.shape[1]):
            return memory.model(BATCH).logits


def assert_same(found: torch.Tensor, expected: torch.Tensor, architecture: str) -> None:
    with torch.inference_mode():
        base = make_model(architecture)(BATCH).logits
    assert (expected - base).abs().max() > 0.1, "the adapter does nothing: nothing is compared"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_imported_adapter_gives_the_logits_of_peft(
    architecture: str, save_adapter: SaveAdapter, new_store: NewStore
) -> None:
    adapter = save_adapter(architecture)
    with new_store(architecture) as store:
        imported = import_group(store, adapter)
        assert (imported.activation, imported.experts, imported.rounded) == ("all", 1, 0)
        assert_same(
            store_logits(store, imported.group_id, architecture), peft_logits(adapter, architecture), architecture
        )


def test_an_exported_group_gives_its_logits_in_peft(
    architecture: str, save_adapter: SaveAdapter, new_store: NewStore, tmp_path: Path
) -> None:
    adapter = save_adapter(architecture, r=2, lora_alpha=6)
    with new_store(architecture, alpha=12.0) as store:
        group = import_group(store, adapter).group_id
        with store.snapshot() as snapshot:
            export_group(snapshot, group, tmp_path / "out")
        assert_same(peft_logits(tmp_path / "out", architecture), store_logits(store, group, architecture), architecture)


@pytest.mark.parametrize(
    ("settings", "schema", "rank", "experts"),
    [
        ({"r": 2, "lora_alpha": 2}, {"rank": 4, "alpha": 2.0}, 2, 1),  # a lower rank
        ({"r": 3, "lora_alpha": 6}, {"rank": 8, "alpha": 12.0}, 6, 1),  # padded to where the scale is the same
        ({"r": 4, "lora_alpha": 16}, {"rank": 4, "alpha": 4.0}, 4, 1),  # B times four
        ({"r": 4, "lora_alpha": 6, "use_rslora": True}, {"rank": 6, "alpha": 12.0}, 4, 1),  # 6/√4 = 12/4
        ({"r": 4, "lora_alpha": 4, "rank_pattern": {"2.mlp.down_proj": 2}}, {"rank": 4}, 4, 1),  # scales 2 and 1
        ({"r": 4, "lora_alpha": 4, "alpha_pattern": {"3.mlp.down_proj": 32}}, {"rank": 4}, 4, 1),
        ({"target_modules": ["3.mlp.down_proj"]}, {"rank": 4}, 4, 1),  # the other module is left alone
        ({"r": 10, "lora_alpha": 10}, {"rank": 4}, 4, 3),  # split
    ],
)
def test_other_ranks_scales_and_modules_give_the_logits_of_peft(
    save_adapter: SaveAdapter,
    new_store: NewStore,
    settings: dict[str, Any],
    schema: dict[str, Any],
    rank: int,
    experts: int,
) -> None:
    adapter = save_adapter(**settings)
    with new_store(**schema) as store:
        imported = import_group(store, adapter, split=experts > 1)
        assert (imported.rank, imported.experts, imported.rounded) == (rank, experts, 0)
        assert_same(store_logits(store, imported.group_id, "llama"), peft_logits(adapter, "llama"), "llama")


def test_rounding_that_was_asked_for_stays_within_what_the_dtype_holds(
    save_adapter: SaveAdapter, new_store: NewStore
) -> None:
    """Neither the values nor the scale fit: 5/4 is no power of two away from 4/4."""
    adapter = save_adapter(lora_alpha=5)
    with new_store(dtype="bfloat16") as store:
        imported = import_group(store, adapter, nearest=True)
        assert imported.rounded > 1000
        found = store_logits(store, imported.group_id, "llama")
    torch.testing.assert_close(found, peft_logits(adapter, "llama"), rtol=0, atol=0.2)


@pytest.mark.parametrize("ranks", [(4, 4, 4), (1, 4, 2)], ids=["same scale", "scales a power of two apart"])
def test_a_group_of_several_experts_is_one_adapter_in_peft(
    save_adapter: SaveAdapter, new_store: NewStore, tmp_path: Path, ranks: tuple[int, ...]
) -> None:
    with new_store() as store:
        parts = [import_group(store, save_adapter(r=rank, lora_alpha=4)).group_id for rank in ranks]
        with store.snapshot() as snapshot, store.transaction() as txn:
            experts = [snapshot.read_expert(int(snapshot.group(part).expert_ids[0])) for part in parts]
            group = txn.add_group(experts, None, activation="all")
        with store.snapshot() as snapshot:
            exported = export_group(snapshot, group, tmp_path / "out")
        assert exported.rank == sum(ranks)
        assert_same(peft_logits(tmp_path / "out", "llama"), store_logits(store, group, "llama"), "llama")

"""The kernels against PEFT: k weighted adapters, put together by its exact combination, on the same input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mome_store import _core

peft = pytest.importorskip("peft")

D_IN, D_OUT, ALPHA = 48, 72, 6.0
RANKS = (4, 1, 16, 3, 8)


def adapted_model() -> Any:
    """A linear layer with an adapter for each of RANKS, their factors random."""
    torch.manual_seed(0)
    model: Any = None
    for i, rank in enumerate(RANKS):
        config = peft.LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=["0"], init_lora_weights=False)
        if model is None:
            model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(D_IN, D_OUT)), config, str(i))
        else:
            model.add_adapter(str(i), config)
    return model.eval()


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("chosen", [(0,), (2, 0), (4, 3, 2, 1, 0)])
def test_weighted_adapters_are_those_of_peft(isa: str, chosen: tuple[int, ...]) -> None:
    model = adapted_model()
    weights = [0.25 + i / 3 for i in range(len(chosen))]
    model.add_weighted_adapter([str(i) for i in chosen], weights, "combined", combination_type="cat")
    model.set_adapter("combined")
    layer = model.base_model.model[0]
    x = torch.randn(7, D_IN)
    with torch.no_grad():
        expected, y = model(x), layer.base_layer(x)

    layout = _core.RecordLayout([(D_IN, D_OUT)], max(RANKS), 2)
    [(a_offset, b_offset)] = layout.sections
    records = torch.zeros(len(chosen), layout.record_bytes // 4)
    for record, i in zip(records, chosen, strict=True):
        a, b = layer.lora_A[str(i)].weight.detach(), layer.lora_B[str(i)].weight.detach().T
        record[a_offset // 4 : a_offset // 4 + a.numel()] = a.flatten()
        record[b_offset // 4 : b_offset // 4 + b.numel()] = b.flatten()
    rows = torch.arange(len(x), dtype=torch.int32)
    _core.apply_experts(
        y,
        x,
        rows,
        torch.zeros_like(rows),
        torch.tensor([0, len(chosen)], dtype=torch.int32),
        torch.tensor([record.data_ptr() for record in records]),
        torch.tensor([RANKS[i] for i in chosen], dtype=torch.int32),
        torch.tensor(weights),
        a_offset,
        b_offset,
        ALPHA,
        2,
        isa=isa,
    )
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)

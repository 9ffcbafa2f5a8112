"""The operators for a CUDA device, without one: by fake tensors and by export; and what is refused on every machine."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mome_store.errors import SchemaError
from mome_store.runtime.apply import ExpertTables, RoutedRows, apply_experts
from tests.kernels.problem import Problem, make_problem

CAPACITY = (4, 32, 8, 0)


class Layer(torch.nn.Module):
    """An adapted linear layer as a captured graph has it: the tables are a tensor on the device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(40, 64, device=device, dtype=torch.bfloat16))
        self.register_buffer("tables", torch.zeros(4096, dtype=torch.uint8, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.linear(x, self.weight)
        torch.ops.mome.apply_tables(y, x, self.tables, list(CAPACITY), 3, 8, 0, 1024, 4.0, 0)
        return y + 1


def fake_problem(x: tuple[int, ...] = (5, 64), x_device: str = "cuda", y_device: str = "cuda") -> tuple[object, ...]:
    """The arguments of `apply_experts`, in fake tensors; to be called in a FakeTensorMode."""
    table = torch.zeros(4, dtype=torch.int32)
    experts = (table, table.long(), table, table.float())
    return torch.zeros(5, 40, device=y_device), torch.zeros(x, device=x_device), table, table, *experts, 0, 1024, 4.0, 0


def test_the_operator_is_traced_on_a_fake_cuda_device() -> None:
    with FakeTensorMode():
        arguments = fake_problem()
        apply_experts(*arguments)  # type: ignore[arg-type]
        assert arguments[0].device == torch.device("cuda:0")  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [{"x": (4, 64)}, {"x_device": "cpu"}, {"x": (64,)}])
def test_what_shapes_and_places_say_is_checked_while_tracing(wrong: dict[str, object]) -> None:
    with FakeTensorMode(), pytest.raises((SchemaError, RuntimeError), match=r"x and y must|x is on cpu"):
        apply_experts(*fake_problem(**wrong))  # type: ignore[arg-type]


def test_an_adapted_layer_is_exported_for_a_cuda_device() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        layer = Layer("cuda")
        x = torch.zeros(4, 64, dtype=torch.bfloat16, device="cuda")
        exported = torch.export.export(layer, (x,))
    calls = [node for node in exported.graph.nodes if "apply_tables" in str(node.target)]
    assert len(calls) == 1
    assert list(CAPACITY) in calls[0].args or list(CAPACITY) in calls[0].kwargs.values()


def experts_on(device: str, problem: Problem) -> ExpertTables:
    return ExpertTables(*problem.arguments()[4:8], device=device)  # type: ignore[arg-type]


def test_experts_on_another_device_than_the_rows_are_refused() -> None:
    problem = make_problem(1)
    with pytest.raises(SchemaError, match="the experts are on cuda:1, the rows that they act on are on cpu"):
        RoutedRows(problem.row_index, problem.row_sequence, experts_on("cuda:1", problem))
    with pytest.raises(SchemaError, match="on cpu, the rows that they act on are on cuda"):
        RoutedRows(problem.row_index, problem.row_sequence, experts_on("cpu", problem), device="cuda")
    rows = RoutedRows(problem.row_index, problem.row_sequence, experts_on("cpu", problem))
    with pytest.raises(SchemaError, match="on cuda"):
        rows.refill(problem.row_index, problem.row_sequence, experts_on("cuda", problem))


def test_rows_are_refilled_on_the_cpu_too() -> None:
    first, second = make_problem(2), make_problem(3)
    rows = RoutedRows(first.row_index, first.row_sequence, experts_on("cpu", first))
    rows.refill(second.row_index, second.row_sequence, experts_on("cpu", second))
    core = rows._core
    assert core.last_row == int(second.row_index.max())
    assert core.highest_rank == int(second.expert_rank.max())

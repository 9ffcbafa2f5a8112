"""The torch operator: argument checks, and that torch may trace, fake and compile it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mome_store import SchemaError
from mome_store.runtime.apply import ExpertTables, RoutedRows, apply_experts
from mome_store.store import ExpertSchema
from tests.devices import DEVICES
from tests.kernels.problem import Problem, make_problem


@pytest.mark.parametrize("device", DEVICES)
def test_the_function_and_the_dispatched_operator_agree(device: str) -> None:
    problem = make_problem(0).on(device)
    expected = problem.apply()
    direct, dispatched = problem.y.clone(), problem.y.clone()
    apply_experts(direct, *problem.arguments()[1:])
    torch.ops.mome.apply_experts(dispatched, *problem.arguments()[1:])
    assert torch.equal(direct, expected)
    assert torch.equal(dispatched, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_torch_finds_the_operator_well_formed(device: str) -> None:
    problem = make_problem(1).on(device)  # which owns the records
    torch.library.opcheck(torch.ops.mome.apply_experts.default, problem.arguments())


@pytest.mark.parametrize("device", DEVICES)
def test_it_compiles_into_one_graph_with_the_same_bits(device: str) -> None:
    problem = make_problem(2).on(device)

    def layer(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = y * 2
        apply_experts(y, x, *problem.arguments()[2:])
        return y + 1

    with torch.no_grad():
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(problem.y, problem.x), layer(problem.y, problem.x))


def test_fake_tensors_go_through_without_data() -> None:
    problem = make_problem(3)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = mode.from_tensor(problem.y)
        apply_experts(y, mode.from_tensor(problem.x), *problem.arguments()[2:])
        assert y.shape == problem.y.shape


@pytest.mark.parametrize("device", DEVICES)
def test_it_runs_under_inference_mode(device: str) -> None:
    problem = make_problem(4).on(device)
    with torch.inference_mode():
        y = problem.y.clone()
        apply_experts(y, problem.x, *problem.arguments()[2:])
    assert torch.equal(y, problem.apply())


@pytest.mark.parametrize("device", DEVICES)
def test_no_gradient_is_lost_in_silence(device: str) -> None:
    problem = make_problem(5).on(device)
    problem.x.requires_grad_()
    with pytest.raises(SchemaError, match="no gradient"):
        apply_experts(*problem.arguments())
    with pytest.raises(SchemaError, match="no gradient"):
        torch.ops.mome.apply_experts(*problem.arguments())
    with torch.no_grad():
        apply_experts(*problem.arguments())


WRONG: dict[str, Callable[[Problem], Any]] = {
    "x of another dtype": lambda p: setattr(p, "x", p.x.double()),
    "y of integers": lambda p: setattr(p, "y", p.y.int()),
    "x with one dimension": lambda p: setattr(p, "x", p.x[0]),
    "x with rows at two distances": lambda p: setattr(p, "x", torch.zeros(3, 3, 64, device=p.x.device)[:2, :2]),
    "x with fewer rows": lambda p: setattr(p, "x", p.x[1:]),
    "x with strided columns": lambda p: setattr(p, "x", torch.zeros(64, 5, device=p.x.device).T),
    "x not of a multiple of 8": lambda p: setattr(p, "x", p.x[:, :12]),
    "y with overlapping rows": lambda p: setattr(p, "y", p.y[:1].expand(5, 40)),
    "row_index of int64": lambda p: setattr(p, "row_index", p.row_index.long()),
    "row_index past the end": lambda p: setattr(p, "row_index", p.row_index + 5),
    "row_index twice": lambda p: setattr(p, "row_index", 0 * p.row_index),
    "row_sequence past the end": lambda p: setattr(p, "row_sequence", p.row_sequence + 3),
    "row_sequence strided": lambda p: setattr(p, "row_sequence", torch.zeros(8, dtype=torch.int32)[::2]),
    "expert_base of int32": lambda p: setattr(p, "expert_base", p.expert_base.int()),
    "expert_base too short": lambda p: setattr(p, "expert_base", p.expert_base[:-1]),
    "expert_rank above the layout": lambda p: setattr(p, "expert_rank", p.expert_rank + 100),
    "expert_rank of zero": lambda p: setattr(p, "expert_rank", 0 * p.expert_rank),
    "expert_weight of bf16": lambda p: setattr(p, "expert_weight", p.expert_weight.bfloat16()),
    "a negative offset": lambda p: setattr(p, "a_offset", -256),
    "an unaligned offset": lambda p: setattr(p, "b_offset", p.b_offset + 2),
    "an unknown weight dtype": lambda p: setattr(p, "weight_dtype", 3),
    "another device": lambda p: setattr(p, "x", p.x.to("meta")),
}


@pytest.mark.parametrize("device", DEVICES)
def test_accumulating_needs_fp32(device: str) -> None:
    problem = make_problem(8, dtypes=(torch.float32, torch.bfloat16, torch.float32)).on(device)
    with pytest.raises(SchemaError, match="float32 to accumulate"):
        apply_experts(*problem.arguments(), accumulate=True)


@pytest.mark.parametrize("device", DEVICES)
def test_accumulating_is_the_same_dispatched(device: str) -> None:
    problem = make_problem(9).on(device)
    direct, dispatched = problem.y.clone(), problem.y.clone()
    apply_experts(direct, *problem.arguments()[1:], accumulate=True)
    torch.ops.mome.apply_experts(dispatched, *problem.arguments()[1:], accumulate=True)
    assert torch.equal(direct, dispatched)


@pytest.mark.parametrize("threads", [0, -1])
def test_at_least_one_thread_is_needed(threads: int) -> None:
    with pytest.raises(SchemaError, match="threads"):
        make_problem(10).apply(threads=threads)


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("device", DEVICES)
def test_arguments_that_do_not_fit_are_refused_and_y_is_untouched(what: str, device: str) -> None:
    problem = make_problem(6).on(device)
    WRONG[what](problem)
    before = problem.y.clone()
    with pytest.raises(SchemaError):
        apply_experts(*problem.arguments())
    assert torch.equal(problem.y, before)


@pytest.mark.parametrize("shape", [(2, 3), (6, 1), (1, 6), (1, 2, 3), (6,)])
@pytest.mark.parametrize("device", DEVICES)
def test_rows_are_counted_over_all_leading_dimensions(shape: tuple[int, ...], device: str) -> None:
    problem = make_problem(11, rows=6).on(device)
    y = problem.y.clone()
    apply_experts(y.view(*shape, 40), problem.x.view(*shape, 64), *problem.arguments()[2:])
    assert torch.equal(y, problem.apply())


@pytest.mark.parametrize("device", DEVICES)
def test_a_slice_of_each_sequence_has_its_rows_at_one_distance(device: str) -> None:
    problem = make_problem(12).on(device)
    wide = torch.zeros(5, 3, 64, device=device)
    wide[:, 1] = problem.x
    y = problem.y.clone()
    apply_experts(y, wide[:, 1:2], *problem.arguments()[2:])
    assert torch.equal(y, problem.apply())


def routed_rows(problem: Problem) -> tuple[RoutedRows, ExpertSchema]:
    schema = ExpertSchema({"layer": (64, 40)}, rank=6, dtype="bfloat16", alpha=problem.alpha)
    assert schema.sections["layer"].b_offset == problem.b_offset
    device = str(problem.y.device)
    experts = ExpertTables(*problem.arguments()[4:8], device=device)  # type: ignore[arg-type]
    return RoutedRows(problem.row_index, problem.row_sequence, experts, device), schema


@pytest.mark.parametrize("device", DEVICES)
def test_routed_rows_give_the_bits_of_the_operator_again_and_again(device: str) -> None:
    problem = make_problem(13).on(device)
    rows, schema = routed_rows(problem)
    for _ in range(2):
        y = problem.y.clone()
        rows.apply(schema, "layer", y, problem.x)
        assert torch.equal(y, problem.apply())
    y = problem.y.clone()
    rows.apply(schema, "layer", y, problem.x.T.contiguous().T)  # as reshape copies it
    assert torch.equal(y, problem.apply())


@pytest.mark.parametrize("device", DEVICES)
def test_routed_rows_are_their_own_whatever_becomes_of_the_tensors(device: str) -> None:
    problem = make_problem(14).on(device)
    expected = problem.apply()
    rows, schema = routed_rows(problem)
    for table in (problem.row_index, problem.row_sequence, problem.expert_indptr, problem.expert_base):
        table.fill_(1 << 30)
    rows.apply(schema, "layer", problem.y, problem.x)
    assert torch.equal(problem.y, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_routed_rows_compile_into_one_graph_with_the_same_bits(device: str) -> None:
    problem = make_problem(15).on(device)
    rows, schema = routed_rows(problem)

    def layer(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = y * 2
        rows.apply(schema, "layer", y, x)
        return y + 1

    with torch.no_grad():
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(problem.y, problem.x), layer(problem.y, problem.x))


@pytest.mark.parametrize("what", [what for what in WRONG if what.startswith(("row_", "expert_"))])
@pytest.mark.parametrize("device", DEVICES)
def test_routed_rows_that_do_not_fit_are_refused(what: str, device: str) -> None:
    problem = make_problem(16).on(device)
    WRONG[what](problem)
    before = problem.y.clone()
    with pytest.raises(SchemaError):
        rows, schema = routed_rows(problem)
        rows.apply(schema, "layer", problem.y, problem.x)
    assert torch.equal(problem.y, before)


@pytest.mark.parametrize("device", DEVICES)
def test_routed_rows_refuse_what_needs_a_gradient(device: str) -> None:
    problem = make_problem(17).on(device)
    rows, schema = routed_rows(problem)
    with pytest.raises(SchemaError, match="no gradient"):
        rows.apply(schema, "layer", problem.y, problem.x.requires_grad_())


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(SchemaError, match="sse9"):
        make_problem(7).apply("sse9")

"""On a GPU alone: kernels in a CUDA graph, whose route is another one at each replay; and what is refused there."""

from __future__ import annotations

import pytest
import torch

from mome_store.errors import DeviceError, SchemaError
from mome_store.runtime.apply import ExpertTables, RoutedRows
from mome_store.runtime.cuda_rows import TableCapacity
from tests.kernels.problem import Problem, make_problem
from tests.kernels.test_operator import routed_rows

pytestmark = pytest.mark.gpu

DEVICE = "cuda:0"


def experts_of(problem: Problem, device: str = DEVICE) -> ExpertTables:
    return ExpertTables(*problem.arguments()[4:8], device=device)  # type: ignore[arg-type]


def problem_on_gpu(seed: int, experts: tuple[int, ...] = (1, 0, 3), rows: int = 5, alpha: float = 4.0) -> Problem:
    problem = make_problem(seed, rows=rows, experts_per_sequence=experts).on(DEVICE)
    problem.alpha = alpha  # a graph holds it
    return problem


def capacity_for(*problems: Problem) -> TableCapacity:
    """Room for any of them."""
    needed = [routed_rows(problem)[0]._on_device.capacity.counts for problem in problems]  # type: ignore[union-attr]
    return TableCapacity(*map(max, zip(*needed, strict=True)))


@pytest.mark.parametrize(
    "routes",
    [((1, 0, 3), (2, 5, 0)), ((40, 1, 0), (0, 0, 1)), ((1,), (3,))],
    ids=["few experts", "many and few", "prefilled"],
)
def test_a_captured_call_is_replayed_with_other_routes(routes: tuple[tuple[int, ...], ...]) -> None:
    """Bit for bit what the same route gets outside a graph, in tables that are no larger than it needs."""
    count = 60 if len(routes[0]) == 1 else 5  # of one sequence 40 rows are listed, which are prefilled
    problems = [problem_on_gpu(seed, route, count) for seed, route in enumerate(routes)]
    schema = routed_rows(problems[0])[1]
    expected = []
    for problem in problems:
        y = problem.y.clone()
        routed_rows(problem)[0].apply(schema, "layer", y, problem.x)
        assert not torch.equal(y, problem.y)
        expected.append(y)

    first = problems[0]
    rows = RoutedRows(first.row_index, first.row_sequence, experts_of(first), DEVICE, capacity_for(*problems))
    x, before, y = first.x.clone(), first.y.clone(), first.y.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # torch asks for a run before the capture
        rows.apply(schema, "layer", y, x)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y.copy_(before)
        rows.apply(schema, "layer", y, x)
    for problem, right in [*zip(problems, expected, strict=True)] * 2:
        x.copy_(problem.x)
        before.copy_(problem.y)
        rows.refill(problem.row_index, problem.row_sequence, experts_of(problem))
        graph.replay()
        assert torch.equal(y, right)


def test_rows_beyond_the_capacity_are_refused_and_the_old_ones_stay() -> None:
    small, large = problem_on_gpu(1, (1, 0, 1)), problem_on_gpu(2, (9, 9, 9))
    rows, schema = routed_rows(small)
    expected = small.y.clone()
    rows.apply(schema, "layer", expected, small.x)
    with pytest.raises(SchemaError, match="the tables have room for"):
        rows.refill(large.row_index, large.row_sequence, experts_of(large))
    y = small.y.clone()
    rows.apply(schema, "layer", y, small.x)
    assert torch.equal(y, expected)


def test_rows_are_neither_made_nor_filled_while_a_graph_is_captured() -> None:
    problem = problem_on_gpu(3)
    rows, schema = routed_rows(problem)
    rows.apply(schema, "layer", problem.y.clone(), problem.x)
    y = problem.y.clone()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rows.apply(schema, "layer", y, problem.x)
        with pytest.raises(DeviceError, match="while a CUDA graph is captured"):
            RoutedRows(problem.row_index, problem.row_sequence, experts_of(problem), DEVICE)
        with pytest.raises(DeviceError, match="while a CUDA graph is captured"):
            rows.refill(problem.row_index, problem.row_sequence, experts_of(problem))
    assert torch.equal(y, problem.y), "captured, not run"
    graph.replay()
    assert torch.equal(y, problem.apply())


def test_a_compiled_layer_gives_the_bits_of_a_plain_one_in_a_graph_too() -> None:
    problem = problem_on_gpu(4)
    rows, schema = routed_rows(problem)

    def layer(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = y * 2
        rows.apply(schema, "layer", y, x)
        return y + 1

    with torch.no_grad():
        expected = layer(problem.y, problem.x)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(problem.y, problem.x), expected)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = compiled(problem.y, problem.x)
        graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("place", ["x", "y"])
def test_a_tensor_on_another_device_than_the_other_is_refused(place: str) -> None:
    problem = problem_on_gpu(5)
    rows, schema = routed_rows(problem)
    x, y = problem.x, problem.y.clone()
    x, y = (x.cpu(), y) if place == "x" else (x, y.cpu())
    before = y.clone()
    with pytest.raises(SchemaError, match=f"{place} must be on"):
        torch.ops.mome.apply_experts(y, x, *problem.arguments()[2:])
    with pytest.raises(SchemaError, match=f"{place} must be on"):
        rows.apply(schema, "layer", y, x)
    assert torch.equal(y, before)


def test_rows_that_begin_beside_a_boundary_are_refused() -> None:
    problem = problem_on_gpu(6)
    wide = torch.zeros(5, 65, device=DEVICE)
    for x in (wide[:, 1:], wide[:, :64]):  # the first begins at 4 bytes, of the second only the first row is at 16
        with pytest.raises(SchemaError, match="multiples of 16 bytes"):
            torch.ops.mome.apply_experts(problem.y, x, *problem.arguments()[2:])

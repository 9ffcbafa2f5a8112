"""The CPU kernel against its formula in fp64, at random; and that a row's result depends on nothing but that row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from mome_store import _core
from tests.kernels.problem import DTYPES, POPULARITIES, Problem, make_problem, problems

ISAS = _core.available_isas()
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-10, torch.float32: 2**-23}  # relative, of one rounding (at most)


def assert_close(problem: Problem, found: torch.Tensor) -> None:
    """fp32 sums, then one rounding to y's dtype."""
    expected, size = problem.reference()
    tolerance = size * 4e-6 + expected.abs() * ROUNDING[problem.y.dtype] + 2**-24
    worst = ((found.double() - expected).abs() / tolerance).max()
    assert worst <= 1, f"{worst} times the tolerance"


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_every_problem_gets_the_formulas_answer(isa: str, problem: Problem) -> None:
    assert_close(problem, problem.apply(isa))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("popularity", POPULARITIES)
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_sizes_of_a_real_model(isa: str, popularity: str, rows: int) -> None:
    problem = make_problem(
        rows, rows=rows, d_in=1536, d_out=576, ranks=(1, 32), experts_per_sequence=(32, 0, 1), popularity=popularity
    )
    assert_close(problem, problem.apply(isa))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(problem=problems())
def test_a_row_gets_the_same_bits_alone_reordered_and_again(isa: str, problem: Problem) -> None:
    together = problem.apply(isa)
    assert torch.equal(together, problem.apply(isa))

    shuffled = torch.randperm(len(problem.row_index), generator=torch.Generator().manual_seed(1))
    problem.row_index, problem.row_sequence = problem.row_index[shuffled], problem.row_sequence[shuffled]
    assert torch.equal(together, problem.apply(isa))

    alone = problem.y.clone()
    for row, sequence in zip(problem.row_index.tolist(), problem.row_sequence.tolist(), strict=True):
        first, last = problem.expert_indptr[sequence], problem.expert_indptr[sequence + 1]
        y = problem.y[row : row + 1].clone()
        _core.apply_experts(
            y,
            problem.x[row : row + 1].clone(),
            torch.tensor([0], dtype=torch.int32),
            torch.tensor([0], dtype=torch.int32),
            torch.tensor([0, last - first], dtype=torch.int32),
            problem.expert_base[first:last],
            problem.expert_rank[first:last],
            problem.expert_weight[first:last],
            *problem.arguments()[8:],
            isa=isa,
        )
        alone[row] = y[0]
    assert torch.equal(together, alone)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_asked_for_keeps_every_bit(isa: str, dtype: torch.dtype) -> None:
    problem = make_problem(3, rows=9, dtypes=(dtype, dtype, dtype), strided=True)
    bits = torch.int16 if dtype.itemsize == 2 else torch.int32
    wide = torch.tensor([float("nan"), -0.0], dtype=dtype).repeat(9, 32)  # the two values that adding 0 could change
    problem.y = wide[:, 16:56]
    before = wide.view(bits).clone()
    _core.apply_experts(*problem.arguments(), isa=isa)
    asked = torch.zeros(9, 64, dtype=torch.bool)
    for row, sequence in zip(problem.row_index.tolist(), problem.row_sequence.tolist(), strict=True):
        asked[row, 16:56] = bool(problem.expert_indptr[sequence] < problem.expert_indptr[sequence + 1])
    assert 0 < asked.sum() < asked.numel()
    assert torch.equal(wide.view(bits)[~asked], before[~asked])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_to_nearest_even_like_torch(isa: str, dtype: torch.dtype) -> None:
    """y = 0 + 1 * (1 * x): every result is x rounded, over the whole range, with infinities, NaN and subnormals."""
    bits = torch.randint(-(2**31), 2**31 - 1, (4096, 8), generator=torch.Generator().manual_seed(0), dtype=torch.int64)
    x = bits.to(torch.int32).view(torch.float32)
    x[:64] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65520.0, 65519.99, 2**-25])
    x[64:1024] = torch.randn(960, 8, generator=torch.Generator().manual_seed(1)) * 2.0**-14
    x[1024:2048] = (x[1024:2048].view(torch.int32) & ~0xFFFF | 0x8000).view(torch.float32)  # ties of bf16
    ties = torch.randn(1024, 8, generator=torch.Generator().manual_seed(2)).view(torch.int32) & ~0x1FFF | 0x1000
    x[2048:3072] = ties.view(torch.float32)  # of fp16
    n = len(x)
    layout = _core.RecordLayout([(8, 8)], 8, 2)
    [(a_offset, b_offset)] = layout.sections
    record = torch.zeros(layout.record_bytes, dtype=torch.uint8)
    for offset in (a_offset, b_offset):  # A = B = identity: rank 8
        record[offset : offset + 256].view(torch.float32).view(8, 8).copy_(torch.eye(8))
    rows = torch.arange(n, dtype=torch.int32)
    finite = torch.where(x.isfinite(), x, 0)  # 0 * inf in the dot products would be NaN in every column
    y = torch.zeros(n, 8, dtype=dtype)
    one = torch.tensor([1], dtype=torch.int32)
    base = torch.tensor([record.data_ptr()])
    experts = (torch.tensor([0, 1], dtype=torch.int32), base, 8 * one, torch.ones(1), a_offset, b_offset, 8.0, 2)
    _core.apply_experts(y, finite, rows, 0 * rows, *experts, isa=isa)
    assert torch.equal(y, finite.to(dtype))

    y = x.to(dtype)
    zero = torch.zeros(n, 8)
    _core.apply_experts(y, zero, rows, 0 * rows, *experts, isa=isa)
    assert torch.equal(
        y.nan_to_num(nan=7.0), x.to(dtype).nan_to_num(nan=7.0)
    )  # fp16 and bf16 survive the way there and back

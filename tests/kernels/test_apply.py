"""The kernels against their formula in fp64, at random; and that a row's result depends on nothing but that row.

On a CUDA device rows of a sequence that has 16 or more may be prefilled: their bits depend on how many there are, and
only the formula's tolerance holds for them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from mome_store import _core
from tests.kernels.problem import DTYPES, KERNELS, POPULARITIES, Problem, make_problem, problems

ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-10, torch.float32: 2**-23}  # relative, of one rounding (at most)


def assert_close(problem: Problem, found: torch.Tensor) -> None:
    """fp32 sums, then one rounding to y's dtype."""
    expected, size = problem.reference()
    tolerance = size * 4e-6 + expected.abs() * ROUNDING[problem.y.dtype] + 2**-24
    worst = ((found.double() - expected).abs() / tolerance).max()
    assert worst <= 1, f"{worst} times the tolerance"


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_every_problem_gets_the_formulas_answer(kernel: str, problem: Problem) -> None:
    assert_close(problem, problem.apply(kernel))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("popularity", POPULARITIES)
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_sizes_of_a_real_model(kernel: str, popularity: str, rows: int) -> None:
    problem = make_problem(
        rows, rows=rows, d_in=1536, d_out=576, ranks=(1, 32), experts_per_sequence=(32, 0, 1), popularity=popularity
    )
    assert_close(problem, problem.apply(kernel))


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=40, deadline=None)
@given(problem=problems())
def test_a_row_gets_the_same_bits_alone_reordered_and_again(kernel: str, problem: Problem) -> None:
    together = problem.apply(kernel)
    assert torch.equal(together, problem.apply(kernel))

    shuffled = torch.randperm(len(problem.row_index), generator=torch.Generator().manual_seed(1))
    problem.row_index, problem.row_sequence = problem.row_index[shuffled], problem.row_sequence[shuffled]
    reordered = problem.apply(kernel)
    assert_close(problem, reordered)

    there = problem.on("cuda") if kernel == "cuda" else problem
    alone = problem.y.clone()
    for row, sequence in zip(problem.row_index.tolist(), problem.row_sequence.tolist(), strict=True):
        first, last = problem.expert_indptr[sequence], problem.expert_indptr[sequence + 1]
        one = replace(
            there,
            y=there.y[row : row + 1].clone(),
            x=there.x[row : row + 1].clone(),
            row_index=torch.tensor([0], dtype=torch.int32),
            row_sequence=torch.tensor([0], dtype=torch.int32),
            expert_indptr=torch.tensor([0, last - first], dtype=torch.int32),
            expert_base=there.expert_base[first:last],
            expert_rank=there.expert_rank[first:last],
            expert_weight=there.expert_weight[first:last],
        )
        one.add_to(one.y, kernel)
        alone[row] = one.y[0].to(alone.device)
    same = problem.always_decoded() if kernel == "cuda" else slice(None)
    assert torch.equal(together[same], reordered[same])
    assert torch.equal(together[same], alone[same])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_asked_for_keeps_every_bit(kernel: str, dtype: torch.dtype) -> None:
    device = "cuda" if kernel == "cuda" else "cpu"
    problem = make_problem(3, rows=9, dtypes=(dtype, dtype, dtype), strided=True).on(device)
    bits = torch.int16 if dtype.itemsize == 2 else torch.int32
    wide = torch.tensor([float("nan"), -0.0], dtype=dtype).repeat(9, 32)  # the two values that adding 0 could change
    wide = wide.to(device)
    before = wide.view(bits).cpu().clone()
    problem.add_to(wide[:, 16:56], kernel)
    asked = torch.zeros(9, 64, dtype=torch.bool)
    for row, sequence in zip(problem.row_index.tolist(), problem.row_sequence.tolist(), strict=True):
        asked[row, 16:56] = bool(problem.expert_indptr[sequence] < problem.expert_indptr[sequence + 1])
    assert 0 < asked.sum() < asked.numel()
    assert torch.equal(wide.view(bits).cpu()[~asked], before[~asked])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_to_nearest_even_like_torch(kernel: str, dtype: torch.dtype) -> None:
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
    problem = Problem(
        y=torch.zeros(n, 8, dtype=dtype),
        x=finite,
        row_index=rows,
        row_sequence=rows,  # each of its own: none is prefilled
        expert_indptr=torch.arange(n + 1, dtype=torch.int32),
        expert_base=torch.full((n,), record.data_ptr()),
        expert_rank=torch.full((n,), 8, dtype=torch.int32),
        expert_weight=torch.ones(n),
        a_offset=a_offset,
        b_offset=b_offset,
        alpha=8.0,
        weight_dtype=2,
        factors=[],
        records=record,
    )
    assert torch.equal(problem.apply(kernel), finite.to(dtype))

    problem = replace(problem, y=x.to(dtype), x=torch.zeros(n, 8))
    assert torch.equal(
        problem.apply(kernel).nan_to_num(nan=7.0), x.to(dtype).nan_to_num(nan=7.0)
    )  # fp16 and bf16 survive the way there and back

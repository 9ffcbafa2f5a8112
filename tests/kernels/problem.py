"""Random problems for the kernel, and what the answer should be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import strategies as st

from mome_store import _core
from mome_store.runtime.apply import apply_experts
from tests.devices import CUDA

KERNELS = [*_core.available_isas(), CUDA]
PREFILL_ROWS = 16  # from so many rows of a sequence on, CUDA's kernels may prefill them (csrc/kernels/cuda/tables.h)
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
POPULARITIES = ["distinct", "uniform", "zipf", "identical"]


@dataclass
class Problem:
    """y[row] += sum_e weight_e * alpha / rank_e * B_e (A_e x[row]), and all that goes into it."""

    y: torch.Tensor
    x: torch.Tensor
    row_index: torch.Tensor
    row_sequence: torch.Tensor
    expert_indptr: torch.Tensor
    expert_base: torch.Tensor
    expert_rank: torch.Tensor
    expert_weight: torch.Tensor
    a_offset: int
    b_offset: int
    alpha: float
    weight_dtype: int
    factors: list[tuple[torch.Tensor, torch.Tensor]]  # A [r, d_in] and B transposed [r, d_out] of each entry
    records: torch.Tensor  # what expert_base points into

    def arguments(self) -> tuple[object, ...]:
        return (
            self.y,
            self.x,
            self.row_index,
            self.row_sequence,
            self.expert_indptr,
            self.expert_base,
            self.expert_rank,
            self.expert_weight,
            self.a_offset,
            self.b_offset,
            self.alpha,
            self.weight_dtype,
        )

    def on(self, device: str) -> Problem:
        """The same with x, y and the records on a device, laid out as they are; the tables stay on the cpu."""
        if device == "cpu":
            return self
        records = self.records.to(device)
        return replace(
            self,
            x=_laid_out_alike(self.x, device),
            y=_laid_out_alike(self.y, device),
            expert_base=self.expert_base + (records.data_ptr() - self.records.data_ptr()),
            records=records,
        )

    def apply(self, kernel: str | None = None, threads: int = 1) -> torch.Tensor:
        """A copy of y, where y is and laid out as it is, after the experts. kernel: one of KERNELS; None: y's own."""
        there = self.on("cuda") if kernel == "cuda" else self
        y = _laid_out_alike(there.y, there.y.device)
        there.add_to(y, kernel, threads)
        return y.to(self.y.device)

    def add_to(
        self,
        y: torch.Tensor,
        kernel: str | None = None,
        threads: int = 1,
        experts: tuple[torch.Tensor, ...] | None = None,
        accumulate: bool = False,
    ) -> None:
        """In place, with y where this problem is. experts: some of `entries`; None: all."""
        tables = (self.row_index, self.row_sequence, *(self.arguments()[4:8] if experts is None else experts))
        if y.is_cuda:
            apply_experts(y, self.x, *tables, *self.arguments()[8:], accumulate)  # type: ignore[arg-type]
        else:
            module = self.arguments()[8:]
            _core.apply_experts(y, self.x, *tables, *module, isa=kernel, threads=threads, accumulate=accumulate)

    def always_decoded(self) -> torch.Tensor:
        """bool [n]: rows whose bits depend on nothing but them and their experts, whichever the kernel: their sequence
        is too short to be prefilled, however the rows are listed.
        """
        rows_of = torch.bincount(self.row_sequence, minlength=len(self.expert_indptr) - 1)
        decoded = torch.ones(len(self.y), dtype=torch.bool)
        decoded[self.row_index.long()] = rows_of[self.row_sequence.long()] < PREFILL_ROWS
        return decoded

    def entries(self, first: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """expert_indptr, expert_base, expert_rank, expert_weight of entries first[s] to last[s] of each sequence s."""
        taken = torch.cat([torch.arange(int(f), int(t)) for f, t in zip(first, last, strict=True)])
        indptr = torch.cat([torch.zeros(1, dtype=torch.int64), (last - first).cumsum(0)]).to(torch.int32)
        return indptr, *(table[taken] for table in (self.expert_base, self.expert_rank, self.expert_weight))

    def reference(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The exact answer in fp64, and for each value the sum of the magnitudes that went into it."""
        y, size = self.y.double(), self.y.double().abs()
        for row, s in zip(self.row_index.tolist(), self.row_sequence.tolist(), strict=True):
            for e in range(self.expert_indptr[s], self.expert_indptr[s + 1]):
                (a, b), scale = self.factors[e], float(self.expert_weight[e]) * self.alpha / int(self.expert_rank[e])
                y[row] += scale * (b.double().T @ (a.double() @ self.x[row].double()))
                size[row] += abs(scale) * (b.double().abs().T @ (a.double().abs() @ self.x[row].double().abs()))
        return y, size


def _laid_out_alike(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A copy with the same strides."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device).copy_(tensor)


def make_problem(
    seed: int,
    *,
    rows: int = 5,
    d_in: int = 64,
    d_out: int = 40,
    ranks: tuple[int, int] = (1, 6),
    experts_per_sequence: tuple[int, ...] = (1, 0, 3),
    popularity: str = "uniform",
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype] = (torch.float32, torch.float32, torch.bfloat16),
    strided: bool = False,
) -> Problem:
    """dtypes: of x, of y, of the weights. ranks: lowest and highest. Two in three of the rows are listed."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x_dtype, y_dtype, weight_dtype = dtypes
    layout = _core.RecordLayout([(d_in, d_out)], ranks[1], DTYPES.index(weight_dtype))
    [(a_offset, b_offset)] = layout.sections
    entries = sum(experts_per_sequence)
    stored = entries if popularity == "distinct" else max(1, entries // 2)
    records = torch.zeros(max(1, stored), layout.record_bytes, dtype=torch.uint8)
    rank_of = rng.integers(ranks[0], ranks[1] + 1, len(records))
    views = []
    for record, rank in zip(records, rank_of, strict=True):
        a, b = (
            record[at : at + rank * d * weight_dtype.itemsize].view(weight_dtype).view(rank, d)
            for at, d in ((a_offset, d_in), (b_offset, d_out))
        )
        a.copy_(normal(rank, d_in) / d_in**0.5)
        b.copy_(normal(rank, d_out))
        views.append((a, b))
    match popularity:
        case "distinct":
            chosen = np.arange(entries)
        case "uniform":
            chosen = rng.integers(0, len(records), entries)
        case "zipf":
            chosen = np.minimum(rng.zipf(1.5, entries), len(records)) - 1
        case _:
            chosen = np.zeros(entries, dtype=np.int64)

    listed = rng.permutation(rows)[: (2 * rows + 2) // 3]
    wide_x, wide_y = normal(rows, d_in + 24).to(x_dtype), normal(rows, d_out + 8).to(y_dtype)
    return Problem(
        y=wide_y[:, 8:] if strided else wide_y[:, 8:].contiguous(),
        x=wide_x[:, 16 : 16 + d_in] if strided else wide_x[:, :d_in].contiguous(),
        row_index=torch.from_numpy(listed.astype(np.int32)),
        row_sequence=torch.from_numpy(rng.integers(0, len(experts_per_sequence), len(listed)).astype(np.int32)),
        expert_indptr=torch.tensor([0, *np.cumsum(experts_per_sequence)], dtype=torch.int32),
        expert_base=torch.tensor([records[c].data_ptr() for c in chosen], dtype=torch.int64),
        expert_rank=torch.from_numpy(rank_of[chosen].astype(np.int32)),
        expert_weight=normal(entries),
        a_offset=a_offset,
        b_offset=b_offset,
        alpha=float(rng.uniform(0.5, 16)),
        weight_dtype=DTYPES.index(weight_dtype),
        factors=[views[c] for c in chosen],
        records=records,
    )


MOST_VALUES = 1 << 20  # of the experts of a drawn problem, so that none takes long


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Problems of every kind: sizes, ranks, routes, popularity, dtypes, strides."""
    dimension = st.one_of(st.integers(1, 40), st.integers(1, 1024)).map(lambda n: 8 * n)
    rank = st.one_of(st.integers(1, 9), st.integers(1, 128))
    d_in, d_out, low, high = draw(dimension), draw(dimension), draw(rank), draw(rank)
    low, high = min(low, high), max(low, high)
    counts = draw(st.lists(st.sampled_from([0, 1, 2, 5, 33, 64]), min_size=1, max_size=4))
    most = max(1, MOST_VALUES // (high * (d_in + d_out) * len(counts)))
    return make_problem(
        draw(st.integers(0, 2**32 - 1)),
        rows=draw(st.one_of(st.integers(1, 21), st.sampled_from([37, 61]))),
        d_in=d_in,
        d_out=d_out,
        ranks=(low, high),
        experts_per_sequence=tuple(min(count, most) for count in counts),
        popularity=draw(st.sampled_from(POPULARITIES)),
        dtypes=draw(st.tuples(*[st.sampled_from(DTYPES)] * 3)),
        strided=draw(st.booleans()),
    )

"""The torch operator `mome::apply_experts`: routed experts added to the output of a linear layer.

Semantics, for every i in [0, m), with row = row_index[i] and s = row_sequence[i]:

    y[row] += sum over e in [expert_indptr[s], expert_indptr[s + 1]) of
              expert_weight[e] * (alpha / expert_rank[e]) * B_e (A_e x[row])

The sum is formed in fp32 in a fixed order and y is rounded once: a row's result depends on nothing but that row and its
experts. Rows whose sequence has no expert, and rows not listed, keep every bit. `torch.set_num_threads` governs how
many threads take part; small calls are the caller's alone.

The operator runs where y is. On a CUDA device it enqueues kernels on torch's current stream; x must be there
too, and so must the records, while the tables of the route are tensors on the cpu. What a row gets there depends on one
thing more: whether its sequence has 16 or more rows in a call (csrc/kernels/cuda/apply.h). `mome::apply_tables` is the
same with the tables in the device's memory already (mome_store.runtime.cuda_rows).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from mome_store import _core
from mome_store.devices import parse_device
from mome_store.errors import SchemaError
from mome_store.runtime.cuda_rows import CudaRows, TableCapacity, apply_tables
from mome_store.runtime.expert_cache import DTYPE_CODES
from mome_store.runtime.lease import Lease
from mome_store.store import ExpertSchema

_TABLES_SCHEMA = (
    "(Tensor(a!) y, Tensor x, Tensor tables, int[] capacity, int last_row, int highest_rank, int a_offset, "
    "int b_offset, float alpha, int weight_dtype, bool accumulate=False) -> ()"
)
_SCHEMA = (
    "(Tensor(a!) y, Tensor x, Tensor row_index, Tensor row_sequence, Tensor expert_indptr, Tensor expert_base, "
    "Tensor expert_rank, Tensor expert_weight, int a_offset, int b_offset, float alpha, int weight_dtype, "
    "bool accumulate=False) -> ()"
)


def apply_experts(
    y: torch.Tensor,
    x: torch.Tensor,
    row_index: torch.Tensor,
    row_sequence: torch.Tensor,
    expert_indptr: torch.Tensor,
    expert_base: torch.Tensor,
    expert_rank: torch.Tensor,
    expert_weight: torch.Tensor,
    a_offset: int,
    b_offset: int,
    alpha: float,
    weight_dtype: int,
    accumulate: bool = False,
) -> None:
    """Adds the routed experts of `x` to `y`, in place; the formula heads this file. Not differentiable.

    y             [..., d_out]     bf16, fp16 or fp32; n rows over all leading dimensions, each contiguous, all at one
                                   distance from each other
    x             [..., d_in]      likewise, as many rows, in any of the dtypes. d_in and d_out are multiples of 8
    row_index     int32 [m]        rows of x and y, none twice
    row_sequence  int32 [m]        the sequence each of those rows belongs to
    expert_indptr int32 [s + 1], expert_base int64 [e], expert_rank int32 [e], expert_weight float32 [e]: a lease's
                                   arrays; the lease must be held during the call
    a_offset, b_offset             the module's section of the record (`ExpertSchema.sections`), in bytes
    weight_dtype                   0 bf16, 1 fp16, 2 fp32
    accumulate                     y is fp32 and the sum starts from what it holds, so that a route which is longer than
                                   the cache can be applied in waves of consecutive entries: into one y of zeros, wave
                                   after wave, they give bit for bit the sum of a single call

    Raises `SchemaError` when a shape, dtype, device, index or offset does not fit; y is then untouched.
    """
    arguments = (y, x, row_index, row_sequence, expert_indptr, expert_base, expert_rank, expert_weight)
    if y.is_cuda or _needs_operator(y):
        torch.ops.mome.apply_experts(*arguments, a_offset, b_offset, alpha, weight_dtype, accumulate)
    else:
        _apply(*arguments, a_offset, b_offset, alpha, weight_dtype, accumulate)


class ExpertTables(NamedTuple):
    """A lease as the kernels take it: the arguments of `apply_experts` with these names, on the cpu.

    device: where the records are that `expert_base` points at.
    """

    expert_indptr: torch.Tensor
    expert_base: torch.Tensor
    expert_rank: torch.Tensor
    expert_weight: torch.Tensor
    device: str = "cpu"


def tables_of(lease: Lease) -> ExpertTables:
    """The lease as the kernels take it; waits for records that are still on their way.

    As long as one of these tensors lives, the lease's records stay where they are, even when it was released; on a CUDA
    device only until it is.
    """
    indptr, base, rank, weight = (
        torch.from_numpy(array)
        for array in (lease.expert_indptr, lease.expert_base, lease.expert_rank, lease.expert_weight)
    )
    return ExpertTables(indptr, base, rank, weight, lease.device)


class RoutedRows:
    """Which rows of a batch get which experts: checked once, then applied by every adapted layer and every step.

    Takes the tensors of `apply_experts` with the same names and copies them; but it keeps `expert_base` alive, and with
    it the lease that `tables_of` took it from. Raises `SchemaError` when they don't fit each other.

    device: where x and y are. On a CUDA device the tables are copied there, onto torch's current stream, and the lease
    must not be released before the last `apply`.
    capacity: how large the tables on the device are, for a graph that is captured with these rows and replayed with
    others (`refill`); None: as these rows need.
    """

    def __init__(
        self,
        row_index: torch.Tensor,
        row_sequence: torch.Tensor,
        experts: ExpertTables,
        device: torch.device | str = "cpu",
        capacity: TableCapacity | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._tensors = self._checked(row_index, row_sequence, experts)
        self._core = _core.RoutedRows(*self._tensors)
        self._on_device = CudaRows(self._core, self._device, capacity) if self._device.type == "cuda" else None

    def refill(self, row_index: torch.Tensor, row_sequence: torch.Tensor, experts: ExpertTables) -> None:
        """Other rows in the place of these, where a CUDA graph finds them; raises `SchemaError` beyond the capacity."""
        tensors = self._checked(row_index, row_sequence, experts)
        core = _core.RoutedRows(*tensors)
        if self._on_device is not None:
            self._on_device.refill(core)
        self._tensors, self._core = tensors, core

    def _checked(
        self, row_index: torch.Tensor, row_sequence: torch.Tensor, experts: ExpertTables
    ) -> tuple[torch.Tensor, ...]:
        if parse_device(experts.device) != parse_device(str(self._device)):
            raise SchemaError(f"the experts are on {experts.device}, the rows that they act on are on {self._device}")
        return row_index, row_sequence, *experts[:4]

    def apply(
        self, schema: ExpertSchema, module: str, y: torch.Tensor, x: torch.Tensor, *, accumulate: bool = False
    ) -> None:
        """`apply_experts` for one module of a schema."""
        section = schema.sections[module]
        if not x.is_contiguous():
            x = x.contiguous()
        module_arguments = (section.a_offset, section.b_offset, schema.alpha, DTYPE_CODES[schema.dtype], accumulate)
        if self._on_device is not None:
            rows = self._on_device
            call = torch.ops.mome.apply_tables if _needs_operator(y) else _apply_tables
            call(y, x, rows.tables, list(rows.capacity.counts), rows.last_row, rows.highest_rank, *module_arguments)
        elif _needs_operator(y):
            torch.ops.mome.apply_experts(y, x, *self._tensors, *module_arguments)
        else:
            _refuse_gradients(y, x)
            self._core.apply(y, x, *module_arguments, torch.get_num_threads())


def _needs_operator(y: torch.Tensor) -> bool:
    """Traced and fake tensors do. For others the dispatcher would double the cost of a call."""
    return torch.compiler.is_compiling() or type(y) is not torch.Tensor


def _refuse_gradients(y: torch.Tensor, x: torch.Tensor) -> None:
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        raise SchemaError("apply_experts has no gradient; call it under torch.no_grad() or on detached tensors")


def _apply(
    y: torch.Tensor,
    x: torch.Tensor,
    row_index: torch.Tensor,
    row_sequence: torch.Tensor,
    expert_indptr: torch.Tensor,
    expert_base: torch.Tensor,
    expert_rank: torch.Tensor,
    expert_weight: torch.Tensor,
    a_offset: int,
    b_offset: int,
    alpha: float,
    weight_dtype: int,
    accumulate: bool = False,
) -> None:
    _refuse_gradients(y, x)
    _core.apply_experts(
        y,
        x,
        row_index,
        row_sequence,
        expert_indptr,
        expert_base,
        expert_rank,
        expert_weight,
        a_offset,
        b_offset,
        alpha,
        weight_dtype,
        accumulate,
        torch.get_num_threads(),
    )


def _apply_cuda(
    y: torch.Tensor,
    x: torch.Tensor,
    row_index: torch.Tensor,
    row_sequence: torch.Tensor,
    expert_indptr: torch.Tensor,
    expert_base: torch.Tensor,
    expert_rank: torch.Tensor,
    expert_weight: torch.Tensor,
    a_offset: int,
    b_offset: int,
    alpha: float,
    weight_dtype: int,
    accumulate: bool = False,
) -> None:
    if not y.is_cuda:  # then x is, or torch had not come here
        raise SchemaError(f"y must be on {x.device}, where x is, not on {y.device}")
    experts = (expert_indptr, expert_base, expert_rank, expert_weight)
    rows = CudaRows(_core.RoutedRows(row_index, row_sequence, *experts), y.device)
    module_arguments = (a_offset, b_offset, alpha, weight_dtype, accumulate)
    _apply_tables(y, x, rows.tables, list(rows.capacity.counts), rows.last_row, rows.highest_rank, *module_arguments)


def _apply_tables(
    y: torch.Tensor,
    x: torch.Tensor,
    tables: torch.Tensor,
    capacity: list[int],
    last_row: int,
    highest_rank: int,
    a_offset: int,
    b_offset: int,
    alpha: float,
    weight_dtype: int,
    accumulate: bool = False,
) -> None:
    _refuse_gradients(y, x)
    apply_tables(y, x, tables, capacity, last_row, highest_rank, a_offset, b_offset, alpha, weight_dtype, accumulate)


def _fake(
    y: torch.Tensor,
    x: torch.Tensor,
    row_index: torch.Tensor,
    row_sequence: torch.Tensor,
    expert_indptr: torch.Tensor,
    expert_base: torch.Tensor,
    expert_rank: torch.Tensor,
    expert_weight: torch.Tensor,
    a_offset: int,
    b_offset: int,
    alpha: float,
    weight_dtype: int,
    accumulate: bool = False,
) -> None:
    _check_shapes(y, x)


def _fake_tables(
    y: torch.Tensor,
    x: torch.Tensor,
    tables: torch.Tensor,
    capacity: list[int],
    last_row: int,
    highest_rank: int,
    a_offset: int,
    b_offset: int,
    alpha: float,
    weight_dtype: int,
    accumulate: bool = False,
) -> None:
    _check_shapes(y, x)


def _check_shapes(y: torch.Tensor, x: torch.Tensor) -> None:
    """The operators without data: what can be said from shapes and places alone."""
    if y.dim() < 2 or x.dim() < 2:
        raise SchemaError("x and y must have two dimensions or more")
    if x.device != y.device:
        raise SchemaError(f"x is on {x.device}, y on {y.device}")
    rows = [tensor.shape[:-1].numel() for tensor in (x, y)]
    torch._check(rows[0] == rows[1], lambda: "x and y must have the same number of rows")


_library = torch.library.Library("mome", "DEF")
_library.define("apply_experts" + _SCHEMA)
_library.impl("apply_experts", _apply, "CPU")
_library.impl("apply_experts", _apply_cuda, "CUDA")
torch.library.register_fake("mome::apply_experts", _fake, lib=_library)
_library.define("apply_tables" + _TABLES_SCHEMA)
_library.impl("apply_tables", _apply_tables, "CUDA")
torch.library.register_fake("mome::apply_tables", _fake_tables, lib=_library)

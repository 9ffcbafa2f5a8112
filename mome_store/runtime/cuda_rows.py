"""Routed rows in a CUDA device's memory: tables at addresses that stay, so that a captured graph can get new routes.

Capturing a CUDA graph: make the rows with the largest `TableCapacity` that a batch will have, capture the model's
forward pass, and before each replay `refill` them on the stream that replays. What the graph holds are the addresses of
the tables, of x and of y, and grids that follow from the capacity. While capturing, a call neither allocates outside
torch's allocator nor waits; making or refilling rows does both, and is refused then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mome_store.errors import DeviceError, SchemaError
from mome_store.runtime.cuda import extension

if TYPE_CHECKING:
    from mome_store import _core


@dataclass(frozen=True)
class TableCapacity:
    """Room for routed rows.

    rows: listed rows of sequences with few of them, which are decoded
    ranks: of all sequences' experts together
    sequence_ranks: of one sequence's experts
    tiles: of up to 64 rows of sequences with 16 rows or more, which are prefilled
    """

    rows: int
    ranks: int
    sequence_ranks: int
    tiles: int = 0

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return self.rows, self.ranks, self.sequence_ranks, self.tiles


class CudaRows:
    """The tables of routed rows on one device; csrc/kernels/cuda/tables.h says what is in them."""

    def __init__(self, rows: _core.RoutedRows, device: torch.device, capacity: TableCapacity | None = None) -> None:
        """capacity: None: just what these rows need. Raises SchemaError when they need more than it has."""
        self._cuda = extension()
        self.capacity = capacity if capacity is not None else TableCapacity(*self._cuda.capacity_of(rows))
        _refuse_capture(device)
        self.tables = torch.empty(self._cuda.table_bytes(self.capacity.counts), dtype=torch.uint8, device=device)
        self.last_row = self.highest_rank = -1
        self.refill(rows)

    def refill(self, rows: _core.RoutedRows) -> None:
        """Other rows, for what is put into torch's current stream from now on. Raises SchemaError as above."""
        _refuse_capture(self.tables.device)
        on_host = torch.empty(self.tables.shape, dtype=torch.uint8, pin_memory=True)
        self._cuda.write_tables(rows, self.capacity.counts, on_host)
        self.tables.copy_(on_host, non_blocking=True)
        self.last_row, self.highest_rank = rows.last_row, rows.highest_rank


def apply_tables(
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
    """`apply_experts` with the tables of a CudaRows, on torch's current stream of y's device."""
    if not y.is_cuda:
        raise SchemaError(f"y must be on {tables.device}, where the tables of its rows are, not on {y.device}")
    cuda = extension()
    ordinal = y.get_device()
    counts = tuple(capacity)
    # torch's allocator keeps the memory until what the stream holds is done, and gives a captured graph its own.
    workspace = torch.empty(cuda.workspace_bytes(counts, x.shape[-1]), dtype=torch.uint8, device=y.device)
    cuda.apply(
        y,
        x,
        tables,
        counts,
        last_row,
        highest_rank,
        workspace,
        a_offset,
        b_offset,
        alpha,
        weight_dtype,
        accumulate,
        ordinal,
        torch.cuda.current_stream(ordinal).cuda_stream,
    )


def _refuse_capture(device: torch.device) -> None:
    if torch.cuda.is_current_stream_capturing():
        raise DeviceError(
            str(device), "routed rows can't be made or filled while a CUDA graph is captured; do that before"
        )

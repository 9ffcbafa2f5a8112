from typing import Any

import torch

from mome_store._core import Device, RoutedRows

PREFILL_ROWS: int

Capacity = tuple[int, int, int, int]

def devices() -> list[dict[str, Any]]: ...
def driver_version() -> int: ...
def runtime_version() -> int: ...
def architectures() -> list[str]: ...
def make_device(ordinal: int) -> Device: ...
def capacity_of(rows: RoutedRows, prefill_rows: int = ...) -> Capacity: ...
def table_bytes(capacity: Capacity) -> int: ...
def workspace_bytes(capacity: Capacity, d_in: int) -> int: ...
def write_tables(rows: RoutedRows, capacity: Capacity, into: torch.Tensor, prefill_rows: int = ...) -> None: ...
def apply(
    y: torch.Tensor,
    x: torch.Tensor,
    tables: torch.Tensor,
    capacity: Capacity,
    last_row: int,
    highest_rank: int,
    workspace: torch.Tensor,
    a_offset: int,
    b_offset: int,
    alpha: float,
    weight_dtype: int,
    accumulate: bool,
    device: int,
    stream: int,
) -> None: ...

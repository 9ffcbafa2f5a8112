"""The interface of the C++ extension (csrc/python)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Buffer

def crc32c(data: Buffer, prefix: int = 0) -> int: ...

class RecordLayout:
    def __init__(self, modules: Sequence[tuple[int, int]], rank: int, dtype: int) -> None: ...
    @property
    def record_bytes(self) -> int: ...
    @property
    def payload_bytes(self) -> int: ...
    @property
    def sections(self) -> list[tuple[int, int]]: ...

def check_records(
    buffer: Buffer,
    record_bytes: int,
    payload_bytes: int,
    rank: int,
    schema_crc: int,
    at: NDArray[np.int64],
    expert_ids: NDArray[np.int64],
    group_ids: NDArray[np.int64],
) -> list[tuple[int, str]]: ...
def keys_not_finite(buffer: Buffer, key_dim: int, at: NDArray[np.int64]) -> list[int]: ...

class ShardSet:
    def __init__(
        self,
        layout: RecordLayout,
        schema_crc: int,
        rows_per_shard: int,
        check_records: bool,
        shards: Sequence[tuple[int, int, str, int, int]],
        experts: NDArray[np.int64],
        previous: ShardSet | None = None,
        reader: ReaderChoice | None = None,
    ) -> None: ...

class ReaderChoice:
    def __init__(self, wanted: str, shards: Sequence[tuple[int, int, str, int, int]]) -> None: ...
    @property
    def reader(self) -> str: ...
    @property
    def tiered(self) -> bool: ...
    @property
    def direct(self) -> bool: ...
    @property
    def fallback(self) -> str: ...

class Lease:
    @property
    def ready(self) -> bool: ...
    def wait(self) -> None: ...
    def release(self, stream: int) -> None: ...
    @property
    def expert_indptr(self) -> NDArray[np.int32]: ...
    @property
    def expert_base(self) -> NDArray[np.int64]: ...
    @property
    def expert_rank(self) -> NDArray[np.int32]: ...
    @property
    def expert_weight(self) -> NDArray[np.float32]: ...

class Device:
    @property
    def name(self) -> str: ...
    def read(self, address: int, bytes: int) -> bytes: ...

def make_device(name: str) -> Device: ...

class ExpertCache:
    def __init__(
        self,
        shards: ShardSet,
        slots: int | None,
        device: Device,
        policy: str,
        reader: ReaderChoice | None,
        staging: int,
        timeout: float,
        delays: tuple[int, int] | None = None,
    ) -> None: ...
    def prefetch(self, ids: NDArray[np.int64]) -> None: ...
    def reserve(self, counts: NDArray[np.int64], ids: NDArray[np.int64], weights: NDArray[np.float32]) -> Lease: ...
    def pin(self, ids: NDArray[np.int64]) -> None: ...
    def refresh(self, shards: ShardSet) -> None: ...
    @property
    def shards(self) -> ShardSet: ...
    @property
    def slots(self) -> int | None: ...
    def statistics(self) -> dict[str, int | float | None]: ...

def replay(policy: str, slots: int, indptr: NDArray[np.int64], ids: NDArray[np.int64]) -> dict[str, int]: ...
def policy_names() -> list[str]: ...

class RoutedRows:
    def __init__(
        self,
        row_index: torch.Tensor,
        row_sequence: torch.Tensor,
        expert_indptr: torch.Tensor,
        expert_base: torch.Tensor,
        expert_rank: torch.Tensor,
        expert_weight: torch.Tensor,
    ) -> None: ...
    @property
    def last_row(self) -> int: ...
    @property
    def highest_rank(self) -> int: ...
    def apply(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        a_offset: int,
        b_offset: int,
        alpha: float,
        weight_dtype: int,
        accumulate: bool = False,
        threads: int = 1,
        isa: str | None = None,
    ) -> None: ...

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
    threads: int = 1,
    isa: str | None = None,
) -> None: ...
def inner_products(
    rows: NDArray[np.float32], vectors: NDArray[np.float32], isa: str | None = None
) -> NDArray[np.float32]: ...
def convolution(
    inputs: NDArray[np.float32],
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    gelu: bool,
    isa: str | None = None,
) -> NDArray[np.float32]: ...
def available_isas() -> list[str]: ...
def read_bandwidth(memory: torch.Tensor, threads: int) -> float: ...

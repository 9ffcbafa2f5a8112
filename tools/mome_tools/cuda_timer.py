"""Time on a CUDA device as a benchmark takes it, by events in torch's stream; and how fast its memory is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mome_store.devices import check_torch_device, parse_device
from mome_store.errors import SchemaError
from mome_store.runtime.cuda import extension

Work = Callable[[], Any]

_COPIED_BYTES = 1 << 30  # far more than any L2 holds
_ROUNDS = 10


class CudaTimer:
    """Takes time on one device. Attribute: `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @classmethod
    def of(cls, device: str) -> CudaTimer:
        """For "cuda" or "cuda:1". Raises DeviceError, with the reason, where mome_store or torch can't use it, and
        SchemaError for what is no such name.
        """
        kind, ordinal = parse_device(device)
        if kind != "cuda":
            raise SchemaError(f"{device} is no CUDA device")
        extension().make_device(ordinal)
        check_torch_device(device)
        return cls(torch.device("cuda", ordinal))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Torch works on this device while the block runs."""
        with torch.cuda.device(self.device):
            yield

    def seconds(self, work: Work, calls: int = 1) -> float:
        """Of each of the `calls` calls that `work` makes: from an idle device until it has done the last."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls

    def captured(self, work: Work) -> Work:
        """Replays a CUDA graph of `work`, which is run once before."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def name(self) -> str:
        """What the driver calls it."""
        return torch.cuda.get_device_name(self.device)

    def cache_bytes(self) -> int:
        """Of its L2."""
        return torch.cuda.get_device_properties(self.device).L2_cache_size

    def memory_rate(self, size: int = _COPIED_BYTES) -> float:
        """Bytes per second of a large copy from its memory to its memory: those read and those written."""
        source = torch.ones(size, dtype=torch.uint8, device=self.device)
        target = torch.zeros_like(source)
        return 2 * size / self._median(lambda: target.copy_(source))

    def upload_rate(self, size: int = _COPIED_BYTES) -> float:
        """Bytes per second of a large copy from pinned memory of the host."""
        source = torch.ones(size, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        target = torch.empty(size, dtype=torch.uint8, device=self.device)
        return size / self._median(lambda: target.copy_(source, non_blocking=True))

    def _median(self, work: Work) -> float:
        work()
        return statistics.median(self.seconds(work) for _ in range(_ROUNDS))

"""On a GPU alone: an ExpertCache beside kernels that are still running, and memory that a device does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mome_store import DeviceError, DeviceMemoryError, ExpertCache, ExpertStore
from mome_store.runtime.apply import RoutedRows, tables_of
from mome_store.runtime.cuda import extension
from tests.runtime.conftest import SCHEMA, record_at, route

pytestmark = pytest.mark.gpu

DEVICE = "cuda:0"
LONG = 200_000_000  # clocks of the device: about a tenth of a second


def expected_of(snapshot_bytes: bytes, x: torch.Tensor) -> torch.Tensor:
    """alpha/r · B (A x) in fp64, of an expert of rank 4 in a record."""
    section = SCHEMA.sections["down"]
    record = torch.frombuffer(bytearray(snapshot_bytes), dtype=torch.uint8)
    a = record[section.a_offset : section.a_offset + 4 * 40 * 2].view(torch.bfloat16).view(4, 40).double()
    b = record[section.b_offset : section.b_offset + 4 * 64 * 2].view(torch.bfloat16).view(4, 64).double()
    return SCHEMA.alpha / 4 * (b.T @ (a @ x.cpu()[0].double()))


@pytest.mark.parametrize("own_stream", [False, True])
def test_a_slot_is_not_overwritten_before_the_kernels_that_read_it_are_done(store_path: Path, own_stream: bool) -> None:
    """The lease is released while its kernel still waits in the stream; then other experts want the slot."""
    one = torch.zeros(1, dtype=torch.int32)
    stream = torch.cuda.Stream() if own_stream else torch.cuda.current_stream()
    with ExpertStore.open(store_path).snapshot() as snapshot, torch.cuda.stream(stream):
        ids = snapshot.expert_ids.tolist()
        full = [ids[0], ids[4], ids[5]]  # of rank 4
        x = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        with ExpertCache(snapshot, device=DEVICE, capacity=SCHEMA.record_bytes) as cache:
            found = []
            for expert in full:
                y = torch.zeros(1, 64, device=DEVICE)
                with cache.acquire(route([expert])) as lease:
                    rows = RoutedRows(one, one, tables_of(lease), DEVICE)
                    torch.cuda._sleep(LONG)
                    rows.apply(SCHEMA, "down", y, x)
                found.append(y)
            torch.cuda.synchronize()
            assert cache.stats()["evictions"] == len(full) - 1
            for y, expert in zip(found, full, strict=True):
                expected = expected_of(snapshot.read_record(expert), x)
                torch.testing.assert_close(y.cpu()[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_more_memory_than_the_device_has_is_a_typed_error_and_little_still_works(store_path: Path) -> None:
    there = extension().devices()[0]["memory_bytes"]
    with ExpertStore.open(store_path).snapshot() as snapshot:
        with pytest.raises(DeviceMemoryError) as raised:
            ExpertCache(snapshot, device=DEVICE, capacity=there + (1 << 30))
        assert raised.value.device == DEVICE and raised.value.bytes > there
        assert isinstance(raised.value, MemoryError)
        expert = int(snapshot.expert_ids[0])
        with (
            ExpertCache(snapshot, device=DEVICE, capacity="1MiB") as cache,
            cache.acquire(route([expert])) as lease,
        ):
            assert record_at(lease.expert_base[0], DEVICE) == snapshot.read_record(expert)


def test_a_device_that_is_not_there_is_refused(store_path: Path) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, pytest.raises(DeviceError, match="cuda:999"):
        ExpertCache(snapshot, device="cuda:999")


def test_a_lease_is_kept_while_a_graph_is_captured_and_can_be_released_afterwards(store_path: Path) -> None:
    one = torch.zeros(1, dtype=torch.int32)
    with ExpertStore.open(store_path).snapshot() as snapshot:
        expert = int(snapshot.expert_ids[0])
        with ExpertCache(snapshot, device=DEVICE, capacity="1MiB") as cache:
            lease = cache.acquire(route([expert]))
            rows = RoutedRows(one, one, tables_of(lease), DEVICE)
            x, y = torch.ones(1, 40, device=DEVICE), torch.zeros(1, 64, device=DEVICE)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                rows.apply(SCHEMA, "down", y, x)
                with pytest.raises(DeviceError, match="captured into a graph"):
                    lease.release()
            assert not lease.released
            graph.replay()
            lease.release()
            assert cache.stats()["slots_held"] == cache.stats()["leases_live"] == 0
            torch.cuda.synchronize()
            expected = expected_of(snapshot.read_record(expert), x)
            torch.testing.assert_close(y.cpu()[0].double(), expected, rtol=1e-5, atol=1e-5)

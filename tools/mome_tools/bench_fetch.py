"""`mome bench fetch`: records from disk and from the page cache into slots, beside fio, memcpy and other readers.

A store of random records of 64 KiB, batches of 32 of them. Cold: past the page cache (O_DIRECT), random records of one
shard, beside fio reading the same file in blocks of that size; rounds of both take turns. Warm: everything is in the
page cache, and no batch has a record that is in a slot; beside one memcpy of as many bytes to and from random places of
large arrays, and beside what others take to read the same experts.

On a CUDA device the slots are in its memory, and what stands beside is a copy of as many bytes from pinned memory, and
a large one, which is the most that the bus gives. The other readers fill memory of the host, there too.
"""

from __future__ import annotations

import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mome_store import ExpertCache, ExpertStore
from mome_tools.disk_rate import fio_path, random_read_rate
from mome_tools.figures import Figure
from mome_tools.random_store import make_random_store, schema_of_records

if TYPE_CHECKING:
    from mome_store.store import Snapshot

Progress = Callable[[str, int, int], None]
RECORD_BYTES = 64 << 10
RECORDS = 8192
BATCH = 32
ROUNDS = 5
SECONDS = 2.0  # a round of cold reads, ours or fio's
WARM_BATCHES = 400
PEER_BATCHES = 15
HITS = 3000
COLD_BAR, WARM_BAR, HIT_BAR_US = 0.9, 1.5, 20.0
PEER_BARS = {"zarr-python": 50.0, "tensorstore": 10.0}


@dataclass(frozen=True)
class Ids:
    """A route of one sequence."""

    expert_ids: tuple[NDArray[np.int64], ...]
    weights: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(cls, ids: NDArray[np.int64]) -> Ids:
        return cls((ids,), (np.full(len(ids), 1 / len(ids), np.float32),))


def measure_fetch(folder: Path | None, on_progress: Progress, device: str = "cpu") -> list[Figure]:
    """Every figure of fetching to a device. folder: where the store is made, on the disk to be measured; None: where
    temporary files go."""
    with tempfile.TemporaryDirectory(prefix="mome-bench-", dir=folder) as parent:
        path = Path(parent, "store")
        on_progress("making a store", 0, 3)
        make_random_store(path, schema_of_records(RECORD_BYTES), RECORDS)
        with ExpertStore.open(path) as store, store.snapshot() as snapshot:
            on_progress("cold reads", 1, 3)
            figures = _cold_figures(snapshot, device)
            on_progress("warm reads", 2, 3)
            figures += _warm_figures(snapshot, device)
            return [*figures, *_peer_figures(snapshot, Path(parent), device), _hit_figure(snapshot, device)]


def _cold_figures(snapshot: Snapshot, device: str) -> list[Figure]:
    shard = next(shard for shard in snapshot.shards if shard.array == "experts")
    ids = snapshot.expert_ids[: snapshot.rows_per_shard]
    pipelined, batches, fio = [], [], []
    for seed in range(ROUNDS):
        pipelined.append(_cold_rate(snapshot, _batches(ids, BATCH // 2, seed), device, ahead=True))
        batches.append(_cold_rate(snapshot, _batches(ids, BATCH, seed), device, ahead=False))
        if fio_path():
            fio.append(random_read_rate(shard.path, RECORD_BYTES, BATCH, SECONDS))
    ours = statistics.median(pipelined)
    name = "cold fetch of random 64 KiB records (O_DIRECT), 32 at a time"
    if not fio:
        return [Figure(name, ours / 1e9, "GB/s", peer="fio is not installed")]
    theirs = statistics.median(fio)
    return [
        Figure.at_least(
            name,
            ours / 1e9,
            COLD_BAR * theirs / 1e9,
            "GB/s",
            peer="fio, io_uring at depth 32",
            peer_value=theirs / 1e9,
            ratio=ours / theirs,
        ),
        Figure(
            "the same, each batch of 32 waited for before the next is asked for",
            statistics.median(batches) / 1e9,
            "GB/s",
            peer="fio, io_uring at depth 32",
            peer_value=theirs / 1e9,
            ratio=statistics.median(batches) / theirs,
        ),
    ]


def _cold_rate(snapshot: Snapshot, batches: Iterator[Ids], device: str, ahead: bool) -> float:
    """Bytes per second that came from the disk; with `ahead`, the next batch is prefetched while one is waited for."""
    with ExpertCache(snapshot, device, 4 * BATCH * RECORD_BYTES, policy="lru", reader="io_uring") as cache:
        start = time.perf_counter()
        following = next(batches)
        while time.perf_counter() - start < SECONDS:
            batch, following = following, next(batches)
            lease = cache.acquire(batch, wait=False)
            if ahead:
                cache.prefetch(following)
            lease.wait()
            lease.release()
        spent = time.perf_counter() - start
        return float(cache.stats()["bytes_from_disk"] or 0) / spent


def _warm_figures(snapshot: Snapshot, device: str) -> list[Figure]:
    _read_into_page_cache(snapshot)
    size = len(snapshot.expert_ids) * RECORD_BYTES
    copies = _Copies(size) if device == "cpu" else _Uploads(size, device)
    ours, copied = [], []
    with ExpertCache(snapshot, device, RECORDS // 8 * RECORD_BYTES, policy="lru") as cache:
        for batch in _rounds(snapshot.expert_ids, WARM_BATCHES, 0):
            start = time.perf_counter()
            lease = cache.acquire(batch)
            ours.append(time.perf_counter() - start)
            lease.release()
            copied.append(copies.seconds(BATCH * RECORD_BYTES))
    warm = len(ours) // 4  # until every slot has been written once and every page mapped
    mine, theirs = statistics.median(ours[warm:]), statistics.median(copied[warm:])
    return [
        *_bus_figures(BATCH * RECORD_BYTES / mine, device),
        Figure.at_most(
            "warm fetch of 32 records into slots, p50",
            mine * 1e6,
            WARM_BAR * theirs * 1e6,
            "us",
            peer=copies.name,
            peer_value=theirs * 1e6,
            ratio=theirs / mine,
        ),
    ]


def _bus_figures(rate: float, device: str) -> list[Figure]:
    """Bytes per second of warm fetches beside the most that the bus gives; none on the cpu, where there is no bus."""
    if device == "cpu":
        return []
    from mome_tools.cuda_timer import CudaTimer

    timer = CudaTimer.of(device)
    with timer.current():
        most = timer.upload_rate()
    name = "warm fetch of 32 records at a time into slots"
    peer = "a large copy from pinned memory"
    return [Figure(name, rate / 1e9, "GB/s", peer=peer, peer_value=most / 1e9, ratio=rate / most)]


class _Copies:
    """memcpy between random places of two arrays that no cache holds."""

    name = "one memcpy of the bytes"

    def __init__(self, size: int) -> None:
        self._from, self._to = np.ones(size, np.uint8), np.ones(size // 8, np.uint8)
        self._random = np.random.default_rng(0)

    def seconds(self, count: int) -> float:
        source, target = (
            array.ctypes.data + int(self._random.integers((len(array) - count) // 4096)) * 4096
            for array in (self._from, self._to)
        )
        start = time.perf_counter()
        ctypes.memmove(target, source, count)
        return time.perf_counter() - start


class _Uploads:
    """Copies from random places of pinned memory to a device, waited for."""

    name = "one copy of the bytes from pinned memory"

    def __init__(self, size: int, device: str) -> None:
        import torch

        self._from = torch.ones(size, dtype=torch.uint8, pin_memory=True)
        self._to = torch.empty(size // 8, dtype=torch.uint8, device=device)
        self._wait = torch.cuda.current_stream(self._to.device).synchronize
        self._random = np.random.default_rng(0)

    def seconds(self, count: int) -> float:
        first, to = (int(self._random.integers((len(each) - count) // 4096)) * 4096 for each in (self._from, self._to))
        start = time.perf_counter()
        self._to[to : to + count].copy_(self._from[first : first + count], non_blocking=True)
        self._wait()
        return time.perf_counter() - start


def _peer_figures(snapshot: Snapshot, folder: Path, device: str) -> list[Figure]:
    """What others take for 32 experts, from files that are in the page cache, beside ours in turn with them."""
    rows = {int(i): int(row) for i, row in zip(snapshot.expert_ids, snapshot.expert_rows, strict=True)}
    readers = _peers(snapshot, folder)
    figures = []
    with ExpertCache(snapshot, device, 2 * BATCH * RECORD_BYTES, policy="lru") as cache:
        for seed, (name, read) in enumerate(readers.items()):
            ours, theirs = [], []
            for batch in _rounds(snapshot.expert_ids, 2 * PEER_BATCHES, seed):
                wanted = [rows[i] for i in batch.expert_ids[0].tolist()]
                start = time.perf_counter()
                read(wanted)
                between = time.perf_counter()
                cache.acquire(batch).release()
                theirs.append(between - start)
                ours.append(time.perf_counter() - between)
            mine, other = (statistics.median(times[PEER_BATCHES:]) for times in (ours, theirs))
            what = f"warm fetch of 32 records, p50, beside {name}"
            peer: dict[str, Any] = {"peer": name, "peer_value": other * 1e6, "ratio": other / mine}
            if name in PEER_BARS:
                figures.append(Figure.at_most(what, mine * 1e6, other * 1e6 / PEER_BARS[name], "us", **peer))
            else:
                figures.append(Figure(what, mine * 1e6, "us", **peer))
    return figures


def _peers(snapshot: Snapshot, folder: Path) -> dict[str, Callable[[list[int]], Any]]:
    """By name, what reads the rows of the experts' array."""
    plain: Any
    rust: Any
    opened: Any
    import tensorstore
    import zarr
    import zarrs  # noqa: F401  (its import registers the codec pipeline)
    from safetensors import safe_open
    from safetensors.numpy import save_file

    experts = snapshot.path / "experts"
    plain = zarr.open_array(experts, mode="r")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        rust = zarr.open_array(experts, mode="r")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(experts)}}
    store = tensorstore.open(spec, open=True, read=True).result()
    tensors = folder / "experts.safetensors"
    save_file({str(row): plain[row] for row in snapshot.expert_rows[:RECORDS].tolist()}, tensors)
    opened = safe_open(tensors, framework="numpy")
    return {
        "zarr-python": lambda rows: plain.oindex[rows],
        "tensorstore": lambda rows: store[rows].read().result(),
        "zarrs": lambda rows: rust.oindex[rows],
        "safetensors": lambda rows: [opened.get_tensor(str(row)) for row in rows],
    }


def _hit_figure(snapshot: Snapshot, device: str) -> Figure:
    with ExpertCache(snapshot, device, 4 * BATCH * RECORD_BYTES) as cache:
        batch = next(_batches(snapshot.expert_ids, BATCH, 0))
        times = []
        for _ in range(HITS):
            start = time.perf_counter()
            cache.acquire(batch).release()
            times.append(time.perf_counter() - start)
    return Figure.at_most(
        "32 resident experts acquired and released, p50", statistics.median(times) * 1e6, HIT_BAR_US, "us"
    )


def _batches(ids: NDArray[np.int64], size: int, seed: int) -> Iterator[Ids]:
    """Random batches without end, each of different experts."""
    random = np.random.default_rng(seed)
    while True:
        yield Ids.of(random.choice(ids, size, replace=False))


def _rounds(ids: NDArray[np.int64], count: int, seed: int) -> Iterator[Ids]:
    """`count` batches; an expert comes again only when all others have been."""
    random = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    for _ in range(count):
        if len(order) < BATCH:
            order = random.permutation(ids)
        yield Ids.of(order[:BATCH])
        order = order[BATCH:]


def _read_into_page_cache(snapshot: Snapshot) -> None:
    for shard in snapshot.shards:
        shard.path.read_bytes()

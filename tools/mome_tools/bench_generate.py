"""`mome bench generate`: a store that is larger than the cache, served as if all of it were resident.

* Generation: the default base model over a store of random experts, 32 of them for each query. The same queries in turn
  with a cache of a tenth of the store and with everything resident, after a Zipf workload (exponent 1.0) has warmed
  both up.
* Stall: queries of 32 experts none of which was asked for before, read past the page cache: how long a query waits for
  its records, in generation (where the prompt is computed meanwhile) and with nothing to do meanwhile, beside the time
  that the bytes take at the rate that fio finds.
* Size: a process of its own serves a hot set of 512 experts with a fixed budget out of stores of growing size: its peak
  memory with 256 MiB of slots, and its speed with as many slots as the smallest store has experts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store import ExpertCache, ExpertStore, MemoryModel, Route
from mome_store.runtime import workloads
from mome_store.runtime.trace import Trace
from mome_store.tuning import create_store
from mome_tools.disk_rate import fio_path, random_read_rate
from mome_tools.figures import Figure
from mome_tools.random_store import add_random_groups, make_random_store, schema_of_records

Progress = Callable[[str, int, int], None]
EXPERTS = 8192
SHARE = 10  # the store is so many times the cache
K = 32
TOKENS = 16
QUERIES = 15
WARM_UP = 2000  # batches of the workload before that
QUESTION = "Tell me something about the airport in the middle of the island, and about the road that leads there."
PROBE_RECORD_BYTES = 4096
PROBE_RUNS = 3
PROBE_BUDGET = 256 << 20
SPEED_BAR, STALL_BAR, FLAT_BAR = 0.9, 1.2, 1.05


def measure_generate(sizes: list[int], folder: Path | None, on_progress: Progress, device: str = "cpu") -> list[Figure]:
    """Every figure of serving past the cache. sizes: experts in the stores of the last part, ascending. folder: where
    the stores are made; None: where temporary files go. device: of the model and of the slots."""
    with tempfile.TemporaryDirectory(prefix="mome-bench-", dir=folder) as parent:
        path = Path(parent, "store")
        on_progress("making a store", 0, 4)
        create_store(path)
        with ExpertStore.open(path, mode="r+") as store:
            add_random_groups(store, EXPERTS)
        with MemoryModel.from_pretrained(store=path, device=device) as memory:
            on_progress("generating", 1, 4)
            figures = [_speed_figure(memory, device)]
            on_progress("stalls", 2, 4)
            figures += _stall_figures(memory, device)
        on_progress("growing stores", 3, 4)
        return [*figures, *_size_figures(sizes, Path(parent), on_progress, device)]


def _speed_figure(memory: MemoryModel, device: str) -> Figure:
    batches = _batches(memory, workloads.zipf(EXPERTS, WARM_UP + QUERIES, K, exponent=1.0))
    record_bytes = memory.snapshot.schema.record_bytes
    resident = ExpertCache(memory.snapshot, device, None if device == "cpu" else EXPERTS * record_bytes)
    small = ExpertCache(memory.snapshot, device, EXPERTS // SHARE * record_bytes)
    resident.pin(memory.snapshot.expert_ids)
    for _ in range(WARM_UP):
        small.acquire(next(batches)).release()
    times: dict[str, list[float]] = {"resident": [], "small": []}
    before = small.stats()
    for route in batches:
        for name, cache in (("resident", resident), ("small", small)):
            times[name].append(_generate(memory, cache, route))
    after = small.stats()
    wanted, missed = (float(after[name] or 0) - float(before[name] or 0) for name in ("experts_leased", "misses"))
    prefetched = float(after["records_prefetched"] or 0) - float(before["records_prefetched"] or 0)
    rates = {name: TOKENS / statistics.median(spent) for name, spent in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["resident"], times["small"], strict=True))
    hit_rate = 1 - (missed + prefetched) / wanted
    memory.cache = resident
    return Figure(
        f"tokens per second, store {SHARE}x the cache, Zipf 1.0, {K} experts a query ({100 * hit_rate:.0f} % resident)",
        rates["small"],
        "/s",
        peer="all resident",
        peer_value=rates["resident"],
        ratio=ratio,
        bar=f">= {SPEED_BAR:.1f}x",
        ok=ratio >= SPEED_BAR,
    )


def _stall_figures(memory: MemoryModel, device: str) -> list[Figure]:
    record_bytes = memory.snapshot.schema.record_bytes
    order = np.random.default_rng(0).permutation(memory.snapshot.expert_ids)
    queries = [_route(memory, order[i * K : (i + 1) * K]) for i in range(EXPERTS // K)]
    half = len(queries) // 2
    capacity = 4 * K * record_bytes
    with ExpertCache(memory.snapshot, device, capacity, reader="io_uring") as cache:
        for route in queries[:QUERIES]:
            _generate(memory, cache, route)
        in_generation = float(cache.stats()["stall_seconds"] or 0) / QUERIES
    with ExpertCache(memory.snapshot, device, capacity, reader="io_uring") as cache:
        for route in queries[half:]:
            cache.acquire(route).release()
        alone = float(cache.stats()["stall_seconds"] or 0) / (len(queries) - half)
    name = "stall per query when every expert misses, in generation"
    idle = "the same with nothing to compute meanwhile"
    if not fio_path():
        return [Figure(each, 1e3 * stall, "ms") for each, stall in ((name, in_generation), (idle, alone))]
    shard = next(shard for shard in memory.snapshot.shards if shard.array == "experts")
    transfer = K * record_bytes / random_read_rate(shard.path, record_bytes, K, 3.0)
    peer: dict[str, Any] = {"peer": f"the bytes of {K} records at fio's rate", "peer_value": 1e3 * transfer}
    return [
        Figure(
            name,
            1e3 * in_generation,
            "ms",
            ratio=transfer / in_generation,
            bar=f"<= {1e3 * STALL_BAR * transfer:.3g} ms",
            ok=in_generation <= STALL_BAR * transfer,
            **peer,
        ),
        Figure(idle, 1e3 * alone, "ms", ratio=transfer / alone, **peer),
    ]


def _size_figures(sizes: list[int], folder: Path, on_progress: Progress, device: str) -> list[Figure]:
    probes: dict[int, list[dict[str, float]]] = {}
    for done, size in enumerate(sizes):
        on_progress(f"a store of {size:,} experts", done, len(sizes))
        make_random_store(folder / str(size), schema_of_records(PROBE_RECORD_BYTES), size)
    peak = {size: _probe(folder / str(size), PROBE_BUDGET, device)["peak_bytes"] for size in sizes}
    for _ in range(PROBE_RUNS):
        for size in sizes:  # in turn
            probes.setdefault(size, []).append(_probe(folder / str(size), min(sizes) * PROBE_RECORD_BYTES, device))
    speed = {size: statistics.median(run["batches_per_second"] for run in runs) for size, runs in probes.items()}
    least, *others = sizes
    figures = []
    for size in others:
        figures += [
            Figure.at_most(
                f"peak memory of a process, budget fixed, {size:,} experts in the store",
                peak[size] / 2**20,
                FLAT_BAR * peak[least] / 2**20,
                "MiB",
                peer=f"{least:,} experts",
                peer_value=peak[least] / 2**20,
                ratio=peak[least] / peak[size],
            ),
            Figure.at_least(
                f"batches per second of a hot set, {size:,} experts in the store",
                speed[size],
                speed[least] / FLAT_BAR,
                "/s",
                peer=f"{least:,} experts",
                peer_value=speed[least],
                ratio=speed[size] / speed[least],
            ),
        ]
    return figures


def _probe(store: Path, budget: int, device: str) -> dict[str, float]:
    command = [sys.executable, "-m", "mome_tools.size_probe", str(store), str(budget), device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _generate(memory: MemoryModel, cache: ExpertCache, route: Route) -> float:
    """Seconds for one answer out of `cache`."""
    memory.cache = cache
    start = time.perf_counter()
    memory.generate([QUESTION], TOKENS, route=route, min_new_tokens=TOKENS)
    return time.perf_counter() - start


def _batches(memory: MemoryModel, trace: Trace) -> Iterator[Route]:
    for start, stop in zip(trace.indptr[:-1], trace.indptr[1:], strict=True):
        yield _route(memory, memory.snapshot.expert_ids[trace.ids[start:stop]])


def _route(memory: MemoryModel, expert_ids: NDArray[np.int64]) -> Route:
    groups = memory.snapshot.expert_groups[np.searchsorted(memory.snapshot.expert_ids, expert_ids)]
    weights = np.full(len(expert_ids), 1 / len(expert_ids), np.float32)
    one: Any = np.ones(1, np.float32)
    return Route((expert_ids,), (weights,), (tuple(groups.tolist()),), one, one.astype(bool))

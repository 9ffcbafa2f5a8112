"""What compaction costs: its rate beside the disk's, and what a reader in another process notices of it.

A store of 64 KiB records of which every other one is dead is compacted, once as fast as it goes and once at a quarter
of that rate. Meanwhile a reader process reads random records of a snapshot that it took before, one after the other.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from mome_store.store import ExpertStore
from mome_tools.disk_rate import sequential_write_rate
from mome_tools.figures import Figure
from mome_tools.random_store import make_random_store, schema_of_records

_RECORD_BYTES = 64 << 10
_CALM_SECONDS = 2.0


def measure_compaction(place: Path, size: int, on_progress: Callable[[str, int, int], None]) -> list[Figure]:
    """place: a folder on the disk to measure. size: bytes of records before; half of them move."""
    rates: list[float] = []
    figures: list[Figure] = []
    for done, name in enumerate(("as fast as it goes", "at a quarter of that rate")):
        on_progress("compaction beside a reader", done, 2)
        path = place / "store"
        _half_dead(path, size)
        disk = sequential_write_rate(place / "plain", size // 2)
        os.sync()
        limit = None if not rates else rates[0] / 4
        moved, seconds, calm, busy = _compact_beside_a_reader(path, limit)
        rates.append(moved / seconds)
        if limit is None:
            figures.append(
                Figure(
                    "compaction, 64 KiB records, half of them dead: bytes moved",
                    rates[0] / 1e9,
                    "GB/s",
                    peer=disk.by,
                    peer_value=disk.rate / 1e9,
                    ratio=rates[0] / disk.rate,
                )
            )
        figures.append(_latency(f"a record read beside compaction {name}, p50", calm, busy, 50))
        figures.append(_latency(f"a record read beside compaction {name}, p99", calm, busy, 99))
        shutil.rmtree(path)
    return figures


def _latency(name: str, calm: Any, busy: Any, percentile: int) -> Figure:
    before, during = (float(np.percentile(seconds, percentile)) * 1e3 for seconds in (calm, busy))
    return Figure(name, during, "ms", peer="before it", peer_value=before, ratio=before / during)


def _half_dead(path: Path, size: int) -> None:
    make_random_store(path, schema_of_records(_RECORD_BYTES), size // _RECORD_BYTES)
    with ExpertStore.open(path, "r+", automatic_compaction=False) as store, store.transaction() as txn:
        with store.snapshot() as snapshot:
            groups = snapshot.group_ids[::2].tolist()
        for group in groups:
            txn.remove_group(group)
    os.sync()


def _compact_beside_a_reader(path: Path, max_rate: float | None) -> tuple[int, float, Any, Any]:
    """Bytes moved, seconds, and the seconds of each read before and during."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    receive, send = context.Pipe(duplex=False)
    reader = context.Process(target=_read, args=(path, ready, stop, send))
    reader.start()
    try:
        while not ready.wait(1):
            if not reader.is_alive():
                raise RuntimeError("the reader died before it had taken its snapshot")
        time.sleep(_CALM_SECONDS)
        with ExpertStore.open(path, "r+") as store:
            start = time.monotonic()
            report = store.compact(max_rate=max_rate)
            end = time.monotonic()
        stop.set()
        times, seconds = receive.recv()
    finally:
        stop.set()
        reader.join()
    return report.bytes_moved, end - start, seconds[times < start], seconds[(times >= start) & (times < end)]


def _read(path: Path, ready: Event, stop: Event, send: Any) -> None:
    """Runs in a process of its own. Sends when each read began, by the clock that processes share, and its seconds."""
    rng = np.random.default_rng(0)
    times, seconds = [], []
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        ids = snapshot.expert_ids
        for expert_id in rng.choice(ids, 200).tolist():
            snapshot.read_record(expert_id)
        ready.set()
        while not stop.is_set():
            for expert_id in rng.choice(ids, 50).tolist():
                start = time.monotonic()
                snapshot.read_record(expert_id)
                times.append(start)
                seconds.append(time.monotonic() - start)
                time.sleep(0.002)  # a reader that did nothing else would measure the share of a core that it gets
    send.send((np.array(times), np.array(seconds)))

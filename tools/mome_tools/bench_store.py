"""`mome bench store`: how fast experts are added, and what a store of very many costs to open, to hold and to change.

* Ingest: 64 KiB records through `add_groups`, everything durable at the end, in turns with the disk's own sequential
  write rate: fio with O_DIRECT, or, where fio is not installed, a plain write and fsync of as many bytes.
* Scale: a store of small records (4 KiB, the least there is), opened in a process of its own, so that its memory is
  that of the store and of nothing else. The page cache is warm, since the store was just written.
* Append: commits of one group, to the large store and to one of a thousand experts, in turns.
* Verify and compaction: bench_verify.py and bench_compaction.py.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from mome_store.store import ExpertSchema, ExpertStore, Transaction
from mome_tools.bench_compaction import measure_compaction
from mome_tools.bench_verify import verify_figure
from mome_tools.disk_rate import fio_path, sequential_write_rate
from mome_tools.figures import Figure

Progress = Callable[[str, int, int], None]

LARGE = ExpertSchema({"layer": (4096, 4080)}, rank=4)  # records of 64 KiB
SMALL = ExpertSchema({"layer": (1024, 512)}, rank=1)  # records of 4 KiB
KEY_DIM = 8
FEW = 1000
ROUNDS = 3
BATCH = 4096  # groups a call of add_groups
APPENDS = 320  # small shards are merged twenty times meanwhile
WRITE_BAR, APPEND_BAR = 0.7, 1.5
INGEST_SECONDS, OPEN_SECONDS, EXPERT_BYTES = 120.0, 2.0, 200.0


def measure_store(experts: int, ingest_bytes: int, folder: Path | None, on_progress: Progress) -> list[Figure]:
    """Every figure of the store at `experts` experts. ingest_bytes: of 64 KiB records, in each of the rounds.

    folder: where the stores are made, on the disk to measure; None: the system's folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="mome-bench-", dir=folder) as name:
        place = Path(name)
        figures = [_ingest_figure(place, ingest_bytes, on_progress)]
        few, many = place / "few", place / "many"
        _ingest(few, SMALL, FEW)
        on_progress(f"adding {experts} experts", ROUNDS, ROUNDS + 2)
        seconds = _ingest(many, SMALL, experts)
        figures.append(Figure.at_most(f"adding {experts:,} experts of 4 KiB", seconds, INGEST_SECONDS, "s"))
        on_progress("opening and appending", ROUNDS + 1, ROUNDS + 2)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            cost = process.submit(_cost_of_opening, few, many).result()
        named = f"{experts:,} experts"
        return [
            *figures,
            Figure.at_most(f"open and snapshot, {named}", cost.open_seconds, OPEN_SECONDS, "s"),
            Figure.at_most(f"host memory held, {named}", cost.held / experts, EXPERT_BYTES, "B/expert"),
            Figure(f"host memory while opening, at most, {named}", cost.peak / experts, "B/expert"),
            Figure(f"ExpertCache without slots, {named}", cost.cache_seconds, "s"),
            Figure(f"host memory of the ExpertCache, {named}", cost.cache_held / experts, "B/expert"),
            _append_figure(few, many, experts),
            *([] if fio_path() is None else [verify_figure(ingest_bytes, folder, on_progress)]),
            *measure_compaction(place, ingest_bytes, on_progress),
        ]


def _ingest_figure(place: Path, size: int, on_progress: Progress) -> Figure:
    ours, theirs = [], []
    for done in range(ROUNDS):
        on_progress("64 KiB records", done, ROUNDS + 2)
        disk = sequential_write_rate(place / "plain", size)
        theirs.append(disk.rate)
        os.sync()  # what a round leaves to be written must not be charged to the next
        count = size // LARGE.record_bytes
        ours.append(count * LARGE.record_bytes / _ingest(place / "large", LARGE, count))
        shutil.rmtree(place / "large")
        os.sync()
    rate, limit = statistics.median(ours) / 1e9, statistics.median(theirs) / 1e9
    return Figure.at_least(
        "ingest, 64 KiB records",
        rate,
        WRITE_BAR * limit,
        "GB/s",
        peer=disk.by,
        peer_value=limit,
        ratio=rate / limit,
    )


def _ingest(path: Path, schema: ExpertSchema, count: int) -> float:
    """Makes a store of random experts in one commit; the seconds of that commit."""
    rng = np.random.default_rng(0)
    [(d_in, d_out)] = schema.modules.values()
    a = rng.standard_normal((BATCH, schema.rank, d_in), np.float32).astype(ml_dtypes.bfloat16)
    b = rng.standard_normal((BATCH, d_out, schema.rank), np.float32).astype(ml_dtypes.bfloat16)
    keys = rng.standard_normal((BATCH, KEY_DIM), np.float32)
    with ExpertStore.create(path, schema, KEY_DIM) as store:
        start = time.perf_counter()
        with store.transaction() as txn:
            for done in range(0, count, BATCH):
                n = min(BATCH, count - done)
                txn.add_groups({"layer": (a[:n], b[:n])}, keys[:n])
        return time.perf_counter() - start


@dataclass(frozen=True)
class _Cost:
    """Seconds, and bytes of resident memory: held afterwards, and at most meanwhile."""

    open_seconds: float
    held: int
    peak: int
    cache_seconds: float
    cache_held: int


def _cost_of_opening(few: Path, many: Path) -> _Cost:
    """Runs in a process of its own. The store of few experts is opened first, so that all code is loaded."""
    from mome_store.runtime import ExpertCache

    with ExpertStore.open(few) as store, store.snapshot() as snapshot, ExpertCache(snapshot):
        pass
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before = _resident("VmRSS")
    start = time.perf_counter()
    with ExpertStore.open(many) as store, store.snapshot() as snapshot:
        opened = time.perf_counter()
        held, peak = _resident("VmRSS"), _resident("VmHWM")
        with ExpertCache(snapshot):
            made = time.perf_counter()
            return _Cost(opened - start, held - before, peak - before, made - opened, _resident("VmRSS") - held)


def _resident(field: str) -> int:
    """Bytes that Linux counts for this process: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _append_figure(few: Path, many: Path, experts: int) -> Figure:
    """What it costs on average, the merging of small shards that some of the commits set off included."""
    seconds = {few: 0.0, many: 0.0}
    with ExpertStore.open(few, "r+") as small, ExpertStore.open(many, "r+") as large:
        for _ in range(APPENDS):
            for path, store in ((few, small), (many, large)):
                start = time.perf_counter()
                with store.transaction() as txn:
                    _append(txn)
                seconds[path] += time.perf_counter() - start
    ours, peer = (1000 * seconds[path] / APPENDS for path in (many, few))
    return Figure.at_most(
        f"append of one group, {experts:,} experts",
        ours,
        APPEND_BAR * peer,
        "ms",
        peer=f"at {FEW:,} experts",
        peer_value=peer,
        ratio=peer / ours,
    )


def _append(txn: Transaction) -> None:
    [(d_in, d_out)] = SMALL.modules.values()
    expert = {"layer": (np.ones((1, d_in), np.float32), np.ones((d_out, 1), np.float32))}
    txn.add_group([expert], keys=np.ones((1, KEY_DIM), np.float32))

"""How fast `mome verify --deep` reads a store, beside what the disk gives: fio, sequential, in the same run.

The store has 64 KiB records and is made anew on the disk to measure. Both read past the page cache, in turns, so that
what else the machine does falls on both.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mome_store.store import verify
from mome_tools.disk_rate import fio_path, sequential_read_rate
from mome_tools.figures import Figure
from mome_tools.random_store import make_random_store, schema_of_records

Progress = Callable[[str, int, int], None]

RECORD_BYTES = 64 << 10
ROUNDS = 5
BAR = 0.6


def verify_figure(size: int, folder: Path | None, on_progress: Progress) -> Figure:
    """The rate of a deep verify over a store of `size` bytes of records.

    folder: where the store is made, on the disk to measure; None: the system's folder for temporary files.
    Raises RuntimeError where fio is not installed (Debian's package `fio`), for there is no bar without it.
    """
    if fio_path() is None:
        raise RuntimeError("the disk's own rate can't be told without fio (Debian's package `fio`)")
    with tempfile.TemporaryDirectory(prefix="mome-bench-", dir=folder) as name:
        on_progress("making a store", 0, ROUNDS + 1)
        store = Path(name) / "store"
        make_random_store(store, schema_of_records(RECORD_BYTES), size // RECORD_BYTES)
        shards = sorted((store / "experts" / "c").glob("*/0"))
        _write_out(shards)
        ours, theirs = [], []
        for done in range(ROUNDS):
            on_progress("verify --deep", done + 1, ROUNDS + 1)
            theirs.append(sequential_read_rate(shards))
            ours.append(_verify_rate(store))
    rate, disk = statistics.median(ours) / 1e9, statistics.median(theirs) / 1e9
    return Figure.at_least(
        "verify --deep, 64 KiB records",
        rate,
        BAR * disk,
        "GB/s",
        peer="fio, sequential, O_DIRECT",
        peer_value=disk,
        ratio=rate / disk,
    )


def _verify_rate(store: Path) -> float:
    """Bytes of the shards per second."""
    read = 0

    def count(done: int, _: int) -> None:
        nonlocal read
        read = done

    start = time.perf_counter()
    report = verify(store, deep=True, on_progress=count)
    seconds = time.perf_counter() - start
    if not report.ok:
        raise RuntimeError(f"the store that was just made is damaged: {report.damage[0]}")
    return read / seconds


def _write_out(paths: list[Path]) -> None:
    """Everything is on disk and nothing in the page cache: what is left to be written must not be charged to reads."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

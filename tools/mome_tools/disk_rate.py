"""What the disk gives, told by fio: the limit that reads and writes are held against."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


def fio_path() -> str | None:
    """Where fio is; None when it is not installed (Debian's package `fio`)."""
    return shutil.which("fio")


def random_read_rate(path: Path, block_bytes: int, depth: int, seconds: float) -> float:
    """Bytes per second of random reads of a file past the page cache (O_DIRECT), by io_uring at a queue depth.

    With registered buffers and files, which fio needs to be at its fastest.

    Raises RuntimeError with fio's message when it fails.
    """
    command = [
        fio_path() or "fio",
        "--name=randread",
        f"--filename={path}",
        f"--size={path.stat().st_size // block_bytes * block_bytes}",
        "--readonly",
        "--rw=randread",
        "--ioengine=io_uring",
        "--direct=1",
        "--fixedbufs=1",
        "--registerfiles=1",
        "--nonvectored=1",
        f"--bs={block_bytes}",
        f"--iodepth={depth}",
        "--time_based",
        f"--runtime={seconds}",
        "--output-format=json",
    ]
    return _rate_of(command)


def sequential_read_rate(paths: Sequence[Path], block_bytes: int = 4 << 20) -> float:
    """Bytes per second of reading files from front to back, one after the other, past the page cache (O_DIRECT).

    Raises RuntimeError with fio's message when it fails.
    """
    command = [
        fio_path() or "fio",
        "--name=read",
        f"--filename={':'.join(str(path).replace(':', chr(92) + ':') for path in paths)}",
        "--file_service_type=sequential",
        "--readonly",
        "--rw=read",
        "--ioengine=psync",
        "--direct=1",
        f"--bs={block_bytes}",
        "--output-format=json",
    ]
    return _rate_of(command)


@dataclass(frozen=True)
class DiskRate:
    """Bytes per second, and what measured them."""

    rate: float
    by: str


def sequential_write_rate(path: Path, size: int, block_bytes: int = 4 << 20) -> DiskRate:
    """How fast `size` bytes get to a new file, everything durable at the end; the file is removed.

    By fio past the page cache (O_DIRECT), or, where fio is not installed, by a plain write and fsync.
    Raises RuntimeError with fio's message when it fails.
    """
    block_bytes = min(block_bytes, size)
    if fio_path() is None:
        return DiskRate(_plain_write_rate(path, size, block_bytes), "plain write and fsync")
    command = [
        fio_path() or "fio",
        "--name=write",
        f"--filename={path}",
        "--rw=write",
        "--ioengine=psync",
        "--direct=1",
        "--end_fsync=1",
        f"--bs={block_bytes}",
        f"--size={size}",
        "--output-format=json",
    ]
    rate = _rate_of(command, "write")
    path.unlink()
    return DiskRate(rate, "fio, sequential, O_DIRECT")


def _plain_write_rate(path: Path, size: int, block_bytes: int) -> float:
    block = os.urandom(block_bytes)
    with path.open("wb", buffering=0) as file:
        start = time.perf_counter()
        for _ in range(size // block_bytes):
            file.write(block)
        os.fsync(file.fileno())
        seconds = time.perf_counter() - start
    path.unlink()
    return size // block_bytes * block_bytes / seconds


def _rate_of(command: Sequence[str], direction: str = "read") -> float:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"fio failed: {done.stderr.strip() or done.stdout.strip()}")
    report = json.loads(done.stdout[done.stdout.index("{") :])
    return float(report["jobs"][0][direction]["bw_bytes"])

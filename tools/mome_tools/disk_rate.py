"""What the disk gives, told by fio: the limit that reads are held against."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
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


def _rate_of(command: Sequence[str]) -> float:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"fio failed: {done.stderr.strip() or done.stdout.strip()}")
    report = json.loads(done.stdout[done.stdout.index("{") :])
    return float(report["jobs"][0]["read"]["bw_bytes"])

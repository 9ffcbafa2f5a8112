"""What this machine has that mome_store can use, asked of the operating system. Nothing is changed."""

from __future__ import annotations

import mmap
import os
import platform
import re
import resource
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

_FEATURES = (
    "sse4_2",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512dq",
    "avx512_bf16",
    "asimd",
    "asimdhp",
    "bf16",
)
_DIRECT_BYTES = 4096  # the least that O_DIRECT reads


def cpu() -> dict[str, Any]:
    """Model, cores of the machine and of this process, and the features that kernels may use: cpuid's, as Linux lists
    them.
    """
    text = _text(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    found = set(flags[1].split()) if flags else set()
    return {
        "model": model[1].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "features": [name for name in _FEATURES if name in found],
    }


def memory() -> dict[str, Any]:
    """Bytes there are, and of a page; huge pages; how much a process may lock (null: all of it), which pinned and
    registered buffers need.
    """
    sizes = {
        name: int(kib) << 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", _text(Path("/proc/meminfo")), re.M)
    }
    counts = dict(re.findall(r"^(HugePages_\w+):\s+(\d+)$", _text(Path("/proc/meminfo")), re.M))
    transparent = re.search(r"\[(\w+)\]", _text(Path("/sys/kernel/mm/transparent_hugepage/enabled")))
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return {
        "bytes": sizes.get("MemTotal"),
        "bytes_available": sizes.get("MemAvailable"),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "huge_page_bytes": sizes.get("Hugepagesize"),
        "huge_pages_free": int(counts.get("HugePages_Free", 0)),
        "transparent_huge_pages": transparent[1] if transparent else None,
        "lock_limit_bytes": None if locked == resource.RLIM_INFINITY else locked,
    }


def system() -> dict[str, str]:
    """Versions of the kernel, of Python and of the SQLite that it has."""
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def direct_io_problem(path: Path) -> str | None:
    """Why files there can't be read past the page cache (O_DIRECT); None if they can.

    path: a file, or a folder, in which a small file is then made and removed.
    """
    try:
        if path.is_dir():
            with tempfile.NamedTemporaryFile(dir=path) as file:
                file.write(bytes(_DIRECT_BYTES))
                file.flush()
                os.fsync(file.fileno())
                _read_directly(file.name)
        else:
            _read_directly(path)
    except OSError as error:
        return error.strerror or str(error)
    return None


def file_system(path: Path) -> str | None:
    """The kind of the file system that holds a path, such as "ext4"; None where the system doesn't tell."""
    there = path.resolve()
    best: tuple[int, str] | None = None
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()[:1]
        if len(fields) < 5 or not kind:
            continue
        mounted = Path(fields[4].encode().decode("unicode_escape"))
        if there.is_relative_to(mounted) and (best is None or len(mounted.parts) >= best[0]):
            best = len(mounted.parts), kind[0]
    return None if best is None else best[1]


def _read_directly(path: Path | str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _DIRECT_BYTES) as buffer:  # begins at a page, as O_DIRECT wants it
            os.preadv(descriptor, [buffer], 0)
    finally:
        os.close(descriptor)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

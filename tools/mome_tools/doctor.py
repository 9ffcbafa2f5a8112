"""What was built, what was found and what will be used: the report of `mome doctor`.

Each part is asked for by itself, and whatever goes wrong there is that part's `problem`. No CUDA context is made.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mome_store
from mome_store.errors import DeviceError, MomeError
from mome_tools import machine_facts

Facts = dict[str, Any]

_ON_REQUEST = "used where device='cuda' is asked for"
_READERS = {"mmap": "slower (docs/runtime.md)", "pread": "takes a thread for each read in flight"}


def examine(store: Path | None = None) -> Facts:
    """{"built", "found", "used", "problems"}. problems: what the install promises and does not keep, in words; a store
    that is not there, or can't be opened, too.
    """
    built: Facts = {"version": mome_store.__version__, "core": _probe(_core), "cuda": _probe(_cuda)}
    found: Facts = {
        "system": machine_facts.system(),
        "cpu": machine_facts.cpu(),
        "memory": machine_facts.memory(),
        "driver": _probe(_driver),
        "devices": [],
        "torch": _probe(_torch),
        "faiss": _probe(_faiss),
        "io_uring": _probe(_io_uring),
        "direct_io": _direct_io(Path(tempfile.gettempdir())),
    }
    found["devices"] = found["driver"].pop("devices", [])
    if store is not None:
        found["store"] = {"path": str(store), **_probe(lambda: _store(store))}
        if direct := found["store"].pop("direct_io", None):
            found["direct_io"] = direct
    return {"built": built, "found": found, "used": _used(built, found), "problems": _problems(built, found)}


def _probe(ask: Callable[[], Facts]) -> Facts:
    """What `ask` returns, with the problem null; only the problem where it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {**ask(), "problem": None}
    except MomeError as error:
        return {"problem": error.problem if isinstance(error, DeviceError) else str(error)}
    except Exception as error:  # a broken install raises anything, and this is where one looks then
        return {"problem": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _core() -> Facts:
    from mome_store import _core

    return {"instruction_sets": _core.available_isas()}


def _cuda() -> Facts:
    import mome_store.runtime.cuda as cuda

    extension = cuda.extension()
    return {"architectures": extension.architectures(), "runtime": _cuda_version(extension.runtime_version())}


def _driver() -> Facts:
    from mome_store.cuda_driver import CudaDriver, kernel_module_version

    driver = CudaDriver()
    return {
        "kernel_module": kernel_module_version(),
        "cuda": _cuda_version(driver.version()),
        "devices": [asdict(device) for device in driver.devices()],
    }


def _torch() -> Facts:
    import torch

    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": torch.cuda.device_count() if torch.version.cuda else 0,
    }


def _faiss() -> Facts:
    installed = {name: version for name in ("faiss-cpu", "faiss-gpu") if (version := _version(name))}
    try:
        faiss: Any = importlib.import_module("faiss")
    except Exception as error:
        raise RuntimeError(f"{' '.join(str(error).split())} (installed: {installed})") from error
    gpu = hasattr(faiss, "StandardGpuResources")
    return {
        "version": faiss.__version__,
        "gpu": gpu,
        "devices": faiss.get_num_gpus() if gpu else 0,
        "installed": installed,
    }


def _io_uring() -> Facts:
    from mome_store import _core

    if refused := _core.ReaderChoice("io_uring", []).fallback:
        raise RuntimeError(refused)
    return {}


def _direct_io(path: Path) -> Facts:
    return {
        "path": str(path),
        "file_system": machine_facts.file_system(path),
        "problem": machine_facts.direct_io_problem(path),
    }


def _store(path: Path) -> Facts:
    from mome_store.runtime import ExpertCache
    from mome_store.store import ExpertStore

    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        # never the catalogue: closing a descriptor of it would drop SQLite's locks
        sample = next((shard.path for shard in snapshot.shards), path / "zarr.json")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with ExpertCache(snapshot, capacity=snapshot.schema.record_bytes) as cache:
                reader = cache.reader
        return {
            "commit": snapshot.commit,
            "experts": len(snapshot.expert_ids),
            "bytes": sum(shard.bytes for shard in snapshot.shards),
            "reader": reader,
            "warnings": [str(each.message) for each in told],
            "direct_io": {**_direct_io(sample), "path": str(path)},
        }


def _used(built: Facts, found: Facts) -> Facts:
    """Of each thing that there is a choice of: what is chosen, and why nothing else."""
    sets = built["core"].get("instruction_sets", [])
    kernels = dict.fromkeys(sets[:-1], "slower")
    kernels |= {name: "this cpu lacks it" for name in ("avx2", "avx512", "avx512bf16") if sets and name not in sets}
    return {
        "device": {"choice": "cpu", "others": {"cuda": _why_no_device(built, found)}},
        "kernels": {"choice": sets[-1] if sets else None, "others": kernels},
        "reader": _reader(found),
        "index": {"choice": "cpu", "others": {"cuda": _why_no_index(found)}},
    }


def _reader(found: Facts) -> Facts:
    """Of a cache with slots. Without a store it is not known whether reads go past the page cache."""
    no_ring, no_direct = found["io_uring"]["problem"], found["direct_io"]["problem"]
    others = dict(_READERS)
    if no_ring:
        others["io_uring"] = no_ring
        del others["pread"]
    reader = found.get("store", {}).get("reader")
    if reader is None:
        cold = "pread" if no_ring else "io_uring"
        reader = f"what is in the page cache from there, the rest by {cold}"
        others["O_DIRECT"] = no_direct or "used for a store that is larger than half of the free memory"
    elif "O_DIRECT" not in reader:
        others["O_DIRECT"] = no_direct or "the store fits into half of the free memory, and so into the page cache"
    return {"choice": reader, "others": others}


def _why_no_device(built: Facts, found: Facts) -> str:
    if reason := found["driver"]["problem"] or built["cuda"]["problem"]:
        return str(reason)
    if not found["devices"]:
        return "the driver finds no device"
    newest, runtime = found["driver"]["cuda"], built["cuda"]["runtime"]
    if _major(newest) < _major(runtime):
        return f"the driver supports CUDA up to {newest}, the extension is of CUDA {runtime}: install a newer driver"
    architectures = built["cuda"]["architectures"]
    if not any(_runs(architectures, device["compute_capability"]) for device in found["devices"]):
        return f"the extension was built for {', '.join(architectures)}, which no device here runs"
    return _ON_REQUEST


def _runs(architectures: list[str], capability: str) -> bool:
    """Whether a device of compute capability "8.6" runs machine code for one of these, such as "sm_80": of the same
    major version, and no newer a minor one.
    """
    major, minor = map(int, capability.split("."))
    built_for = [divmod(int(digits[0]), 10) for name in architectures if (digits := re.findall(r"\d+", name))]
    return any(major == its_major and minor >= its_minor for its_major, its_minor in built_for)


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _why_no_index(found: Facts) -> str:
    faiss = found["faiss"]
    if faiss["problem"]:
        return str(faiss["problem"])
    if not faiss["gpu"]:
        return "FAISS has no GPU indexes; docs/routing.md tells how to install one that has"
    if found["driver"]["problem"]:
        return str(found["driver"]["problem"])
    return _ON_REQUEST if faiss["devices"] else "FAISS finds no device"


def _problems(built: Facts, found: Facts) -> list[str]:
    problems = [
        f"{what} can't be loaded: {part['problem']}"
        for what, part in (
            ("mome_store._core", built["core"]),
            ("torch", found["torch"]),
            ("FAISS", found["faiss"]),
        )
        if part["problem"]
    ]
    if str(built["cuda"]["problem"]).startswith("the CUDA extension can't be loaded"):
        problems.append(str(built["cuda"]["problem"]))
    faiss = found["faiss"]
    if faiss.get("gpu") is False and "faiss-gpu" in faiss["installed"]:
        problems.append(
            "faiss-gpu is installed, but faiss-cpu lies over it; "
            f"pip install --force-reinstall --no-deps faiss-gpu=={faiss['installed']['faiss-gpu']}"
        )
    if found.get("store", {}).get("problem"):
        problems.append(f"the store: {found['store']['problem']}")
    return problems


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_version(number: int) -> str:
    """12040 is "12.4"."""
    return f"{number // 1000}.{number % 1000 // 10}"

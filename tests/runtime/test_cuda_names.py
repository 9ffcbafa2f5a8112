"""Devices by name, the CUDA extension where it was built and where not, and what a driver's library says of itself.

The library is made here, with a C compiler: it answers as a driver with two devices would, and counts what is asked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from mome_store import DeviceError, SchemaError
from mome_store.cuda_driver import CudaDevice, CudaDriver, kernel_module_version
from mome_store.devices import check_torch_device
from mome_store.runtime import Lease
from mome_store.runtime.cuda import extension, parse_device

DRIVER = r"""
#include <stdlib.h>
#include <string.h>
static int contexts, status_of_init = INIT_STATUS;
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuInit(unsigned flags) { return flags ? 1 : status_of_init; }
int cuGetErrorString(int error, const char **text) {
    if (error == 777) return 1;
    *text = error == 2 ? "out of memory" : "no CUDA-capable device is detected"; return 0;
}
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 40; return ordinal < 2 ? 0 : 101; }
int cuDeviceGetName(char *name, int bytes, int device) {
    strncpy(name, device == 41 ? "Small" : "Large", bytes); return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = device == 41 ? 8ul << 30 : 139ul << 30; return 0; }
int cuDeviceGetAttribute(int *value, int what, int device) {
    *value = what == 75 ? device - 32 : what == 76 ? 0 : -1; return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = (void *)(0x700000000000ul + device); contexts++; return 0;
}
int cuCtxPushCurrent_v2(void *context) { return context == (void *)(0x700000000000ul + 41) ? 0 : 201; }
int cuMemGetInfo_v2(size_t *available, size_t *total) {
    *available = 5ul << 30; *total = 8ul << 30; return MEMORY_STATUS;
}
int cuCtxPopCurrent_v2(void **context) { return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { contexts--; return 0; }
int contexts_held(void) { return contexts; }
"""


MakeDriver = Callable[..., CudaDriver]


@pytest.fixture
def driver(tmp_path: Path) -> MakeDriver:
    """Makes a driver's library and loads it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def make(init: int = 0, memory: int = 0, without: str = "") -> CudaDriver:
        source = tmp_path / "driver.c"
        source.write_text(
            "\n".join(line for line in DRIVER.splitlines() if not without or f"int {without}(" not in line)
        )
        library = tmp_path / f"driver-{init}-{memory}-{without}.so"
        flags = ["-x", "c", "-shared", "-fPIC", f"-DINIT_STATUS={init}", f"-DMEMORY_STATUS={memory}"]
        subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
        return CudaDriver(library)

    return make


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:0", ("cuda", 0)), ("cuda:17", ("cuda", 17))],
)
def test_a_name_is_a_kind_and_an_ordinal(name: str, expected: tuple[str, int]) -> None:
    assert parse_device(name) == expected


@pytest.mark.parametrize(
    "name",
    ["", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:01", "cuda: 1", "cuda:1 ", "cuda:١", "gpu", "cuda:99999", None, 0],
)
def test_anything_else_is_refused(name: object) -> None:
    with pytest.raises(SchemaError, match="is no device; write"):
        parse_device(name)  # type: ignore[arg-type]


def test_without_the_extension_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mome_store._cuda", None)  # type: ignore[arg-type]  # as if there were no file
    with pytest.raises(DeviceError) as raised:
        extension()
    assert raised.value.device == "cuda"
    assert raised.value.problem == (
        "this build of mome_store has no CUDA extension; install it with MOME_CUDA=on and nvcc 12.4 or newer"
    )


def test_the_extension_is_loaded_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mome_store._cuda")
    monkeypatch.setitem(sys.modules, "mome_store._cuda", module)
    assert extension() is module


class Broken:
    """Finds the extension, and fails to load it."""

    def __init__(self, error: ImportError) -> None:
        self.error = error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "mome_store._cuda":
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libgomp.so.1: cannot open shared object file"),
        ModuleNotFoundError("No module named 'numpy'", name="numpy"),
    ],
)
def test_an_extension_that_can_t_be_loaded_keeps_its_cause(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    monkeypatch.delitem(sys.modules, "mome_store._cuda", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    with pytest.raises(DeviceError, match="can't be loaded: ") as raised:
        extension()
    assert raised.value.__cause__ is error


def test_a_lease_that_can_t_be_released_yet_is_still_held() -> None:
    """As while a graph is captured: the experts must not be given up, and a later call has to find them."""

    class Core:
        capturing = True
        released: ClassVar[list[int]] = []

        def release(self, stream: int) -> None:
            if self.capturing:
                raise DeviceError("cuda:0", "the stream is being captured into a graph")
            self.released.append(stream)

    core = Core()
    lease = Lease(core, "cuda", lambda: 7)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="captured"):
        lease.release()
    assert not lease.released
    core.capturing = False
    lease.release()
    lease.release()
    assert lease.released and core.released == [7]


def test_torch_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    check_torch_device("cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="was built without CUDA; install"):
        check_torch_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match=r"torch \(for CUDA 12\.6\) finds no CUDA device"):
        check_torch_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_torch_device("cuda:1")
    with pytest.raises(DeviceError, match=r"^cuda:2: there is no such device: torch finds 2, the last one is cuda:1"):
        check_torch_device("cuda:2")


def test_a_driver_lists_its_devices_without_a_context(driver: MakeDriver) -> None:
    found = driver()
    assert found.version() == 12040
    assert found.devices() == [CudaDevice(0, "Large", "8.0", 139 << 30), CudaDevice(1, "Small", "9.0", 8 << 30)]
    assert found._library.contexts_held() == 0


def test_free_memory_is_asked_in_a_context_that_is_given_back(driver: MakeDriver) -> None:
    found = driver()
    assert found.memory_free(1) == 5 << 30
    assert found._library.contexts_held() == 0
    failing = driver(memory=2)
    with pytest.raises(DeviceError, match=r"cuMemGetInfo_v2: out of memory \(error 2\)"):
        failing.memory_free(1)
    assert failing._library.contexts_held() == 0
    with pytest.raises(DeviceError, match="cuDeviceGet"):
        found.memory_free(2)


def test_a_driver_without_a_device_has_none_and_any_other_error_is_told(driver: MakeDriver) -> None:
    assert driver(init=100).devices() == []
    with pytest.raises(DeviceError, match=r"^cuda: cuInit: error 777$"):
        driver(init=777).devices()


def test_a_library_that_lacks_a_function_is_too_old(driver: MakeDriver) -> None:
    old = driver(without="cuDeviceTotalMem_v2")
    assert old.version() == 12040
    with pytest.raises(DeviceError, match="too old: it has no cuDeviceTotalMem_v2"):
        old.devices()


def test_without_a_driver_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="there is no NVIDIA driver here"):
        CudaDriver(tmp_path / "libcuda.so.1")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC 12.2.0",
            "550.54.15",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65  Release Build  (a@b)  Sun", "580.65"),
        ("nothing of the kind", None),
    ],
)
def test_the_kernel_module_tells_its_version(tmp_path: Path, text: str, version: str | None) -> None:
    file = tmp_path / "version"
    assert kernel_module_version(file) is None
    file.write_text(text)
    assert kernel_module_version(file) == version

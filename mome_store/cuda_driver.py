"""What NVIDIA's driver says of itself and of its devices, asked of the driver's own library.

That library comes with the driver: nothing that was built for CUDA is needed, and devices have the ordinals that the
CUDA runtime, torch and FAISS give them. Listing devices makes no CUDA context.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mome_store.errors import DeviceError

LIBRARY = "libcuda.so.1"
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE; this and the attributes: cuda.h, the driver's API
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NAME_BYTES = 256


@dataclass(frozen=True)
class CudaDevice:
    """A device as the driver lists it. compute_capability: such as "9.0"."""

    index: int
    name: str
    compute_capability: str
    memory_bytes: int


class CudaDriver:
    """The driver of this machine. Raises DeviceError where it has none, and for whatever the driver refuses."""

    def __init__(self, library: str | Path = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise DeviceError(
                "cuda", f"there is no NVIDIA driver here ({error}); install one, or use device 'cpu'"
            ) from error

    def version(self) -> int:
        """The newest CUDA version that the driver supports: 12040 is CUDA 12.4."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return version.value

    def devices(self) -> list[CudaDevice]:
        """Every device that this process may use, by its ordinal; none where there is none."""
        count = ctypes.c_int()
        try:
            self._call("cuInit", ctypes.c_uint(0))
            self._call("cuDeviceGetCount", ctypes.byref(count))
        except _Refused as refused:
            if refused.status == _NO_DEVICE:
                return []
            raise
        return [self._device(index) for index in range(count.value)]

    def memory_free(self, index: int) -> int:
        """Bytes of memory that are free on a device. Makes the device's context, where the process has none yet."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuInit", ctypes.c_uint(0))
        with self._context(index):
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def _device(self, index: int) -> CudaDevice:
        device = self._handle(index)
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGetName", name, ctypes.c_int(_NAME_BYTES), device)
        memory = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        major, minor = (self._attribute(each, device) for each in (_MAJOR, _MINOR))
        return CudaDevice(index, name.value.decode(errors="replace"), f"{major}.{minor}", memory.value)

    def _handle(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
        return device

    def _attribute(self, attribute: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), device)
        return value.value

    @contextmanager
    def _context(self, index: int) -> Iterator[None]:
        """The device's primary context, which the CUDA runtime of this process uses as well, is current meanwhile."""
        device, context = self._handle(index), ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            self._call("cuCtxPushCurrent_v2", context)
            try:
                yield
            finally:
                self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        finally:
            self._call("cuDevicePrimaryCtxRelease_v2", device)

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, name, None)
        if function is None:
            raise DeviceError("cuda", f"the NVIDIA driver is too old: it has no {name}")
        status = function(*arguments)
        if status:
            raise _Refused(status, f"{name}: {self._error_text(status)}")

    def _error_text(self, status: int) -> str:
        text = ctypes.c_char_p()
        function = getattr(self._library, "cuGetErrorString", None)
        if function is None or function(ctypes.c_int(status), ctypes.byref(text)) or text.value is None:
            return f"error {status}"
        return f"{text.value.decode(errors='replace')} (error {status})"


class _Refused(DeviceError):
    """A call that the driver answered with an error."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__("cuda", problem)
        self.status = status


def kernel_module_version(path: Path = _KERNEL_MODULE) -> str | None:
    """The version of the driver's kernel module, such as "550.54.15"; None where it is not loaded, or hidden."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else None

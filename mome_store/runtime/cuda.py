"""The CUDA extension, loaded when a device is asked for and not before."""

from __future__ import annotations

import importlib
from typing import Any

from mome_store.devices import parse_device
from mome_store.errors import DeviceError

__all__ = ["extension", "parse_device"]

_MODULE = "mome_store._cuda"


def extension() -> Any:
    """The module `mome_store._cuda`. Raises DeviceError where it was not built, or can't be loaded."""
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise DeviceError("cuda", f"the CUDA extension can't be loaded: {error}") from error
        raise DeviceError(
            "cuda",
            "this build of mome_store has no CUDA extension; install it with MOME_CUDA=on and nvcc 12.4 or newer",
        ) from None
    except ImportError as error:
        raise DeviceError("cuda", f"the CUDA extension can't be loaded: {error}") from error

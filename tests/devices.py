"""Where a test runs: on the cpu, and where there is one on a CUDA device too.

A test with the parameter `device` takes one of DEVICES; what only a GPU can show carries the marker `gpu` itself. Both
are skipped, with the reason, where there is no device (tests/conftest.py). `make test-gpu` runs them, and this file
before, which says on one line what is missing.
"""

from __future__ import annotations

import sys
from functools import cache

import pytest

from mome_store.cuda_driver import CudaDriver
from mome_store.devices import check_torch_device
from mome_store.errors import DeviceError
from mome_store.runtime.cuda import extension

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = ["cpu", CUDA]


def driver_problem() -> str | None:
    """Why the NVIDIA driver has no device to give; None where it has one. Needs no CUDA build."""
    try:
        return None if CudaDriver().devices() else "the NVIDIA driver finds no device"
    except DeviceError as error:
        return str(error)


@cache
def cuda_problem() -> str | None:
    """Why nothing can run on a CUDA device here; None where it can."""
    try:
        if not extension().devices():
            return "the NVIDIA driver finds no device"
        check_torch_device("cuda")
    except DeviceError as error:
        return str(error)
    return None


def main() -> None:
    """With `--driver` before anything is built. Exit code 1 and a line on stderr where the GPU tests can't run."""
    problem = driver_problem() if sys.argv[1:] == ["--driver"] else cuda_problem()
    if problem is not None:
        sys.exit(f"the GPU tests can't run here: {problem}")


if __name__ == "__main__":
    main()

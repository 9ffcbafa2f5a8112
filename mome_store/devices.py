"""The names of devices, "cpu", "cuda" and "cuda:1", which say the same everywhere; and whether torch has them."""

from __future__ import annotations

import re

from mome_store.errors import DeviceError, SchemaError

_CUDA = re.compile(r"cuda(?::(0|[1-9][0-9]{0,3}))?")


def parse_device(device: str) -> tuple[str, int]:
    """Kind and ordinal: "cpu" is ("cpu", 0), "cuda" is ("cuda", 0), "cuda:1" is ("cuda", 1).

    Raises SchemaError for anything else. Whether the device is there is not asked.
    """
    if device == "cpu":
        return "cpu", 0
    match = _CUDA.fullmatch(device) if isinstance(device, str) else None
    if match is None:
        raise SchemaError(f'{device!r} is no device; write "cpu", "cuda" or, for the second one, "cuda:1"')
    return "cuda", int(match[1] or 0)


def check_torch_device(device: str) -> None:
    """Raises DeviceError, which says what to do, where torch can't put a model on this device; SchemaError as above."""
    kind, ordinal = parse_device(device)
    if kind == "cpu":
        return
    import torch

    if torch.version.cuda is None:
        raise DeviceError(device, f"torch {torch.__version__} was built without CUDA; install a build of it for CUDA")
    count = torch.cuda.device_count()
    if not count:
        raise DeviceError(
            device, f"torch (for CUDA {torch.version.cuda}) finds no CUDA device; `mome doctor` tells what there is"
        )
    if ordinal >= count:
        raise DeviceError(device, f"there is no such device: torch finds {count}, the last one is cuda:{count - 1}")

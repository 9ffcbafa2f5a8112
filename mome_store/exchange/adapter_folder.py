"""The folder that PEFT keeps an adapter in: its two files, read with a reason for all that is wrong, or written.

    adapter_config.json         what kind of adapter it is
    adapter_model.safetensors   base_model.model.<module>.lora_A.weight and the like

What an adapter has of a store besides (its memory, where it acts) is in the second one's metadata, under "mome": PEFT
passes over that, and would warn of anything that it does not know in the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from mome_store.errors import AdapterError
from mome_store.exchange.whole_files import new_folder

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_NOTES = "mome"
_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F16": np.dtype("<f2"),
        "F32": np.dtype("<f4"),
        "F64": np.dtype("<f8"),
    }
)


@dataclass(frozen=True, eq=False)
class AdapterFolder:
    """An adapter as it lies on disk.

    config: of adapter_config.json. tensors: name -> float array, read-only. notes: what a store wrote beside them.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]
    notes: Mapping[str, Any]


def read_adapter(path: Path) -> AdapterFolder:
    """The adapter in a folder.

    Raises AdapterError where a file is missing or damaged, OSError where one can't be read.
    """
    if not path.is_dir():
        raise AdapterError(path, "there is no such folder")
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            pickled = name == WEIGHTS and (path / _PICKLED).is_file()
            way_out = f"; {_PICKLED} is a pickle, which can run any code: save the adapter as safetensors"
            raise AdapterError(path, f"{name} is missing{way_out if pickled else ''}")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(path, f"{CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise AdapterError(path, f"{CONFIG} is no JSON object")
    content = (path / WEIGHTS).read_bytes()
    try:
        found = deserialize(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, RecursionError) as error:
        raise AdapterError(path, f"{WEIGHTS} is damaged: {error}") from error
    tensors = {}
    for name, tensor in sorted(found, key=lambda each: each[0]):  # they come in any order
        dtype = _DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise AdapterError(path, f"{name} is of dtype {tensor['dtype']}; only {', '.join(_DTYPES)} can be imported")
        tensors[name] = np.frombuffer(bytes(tensor["data"]), dtype).reshape(tensor["shape"])
    return AdapterFolder(path, config, tensors, _notes(path, header.get("__metadata__") or {}))


def write_adapter(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], notes: Mapping[str, Any]
) -> None:
    """Makes the folder, whole or not at all. Raises FileExistsError where anything but an empty folder is."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    metadata = {"format": "pt", _NOTES: json.dumps(notes, ensure_ascii=False, sort_keys=True)}
    with new_folder(path) as folder:
        (folder / WEIGHTS).write_bytes(save(contiguous, metadata))
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _notes(path: Path, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    if _NOTES not in metadata:
        return {}
    try:
        notes = json.loads(metadata[_NOTES])
    except (ValueError, RecursionError) as error:
        raise AdapterError(path, f"the metadata {_NOTES!r} of {WEIGHTS} is not JSON: {error}") from error
    if not isinstance(notes, dict):
        raise AdapterError(path, f"the metadata {_NOTES!r} of {WEIGHTS} is no JSON object")
    return notes

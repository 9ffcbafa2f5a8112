"""A trained router as a file: projection, background and gate, with the encoder that they belong to.

safetensors; the metadata is JSON. The one that the project ships, `DEFAULT_ROUTER`, is made by `mome train-router`;
stores
remember by name and fingerprint the router that made their keys, so a file that was released never changes: a better
router gets a new name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mome_store.errors import SchemaError
from mome_store.routing.gate import FEATURES, Background, Gate
from mome_store.routing.projection import Projection

DEFAULT_ROUTER = "mome-router-3"
_FORMAT = 3
_BYTE = 127.0  # background vectors are kept as int8: a word's place need not be exact


@dataclass(frozen=True, eq=False)
class TrainedRouter:
    """encoder: fingerprint of the sentence encoder that it was trained for. recipe: how it was trained, JSON.

    fingerprint: of what makes keys, encoder and projection. A router with another gate alone serves the same stores.
    """

    encoder: str
    projection: Projection
    background: Background
    gate: Gate
    recipe: dict[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        total = hashlib.sha256(self.encoder.encode())
        for name, value in sorted(self._projection_tensors().items()):
            total.update(name.encode() + value.tobytes())
        return total.hexdigest()

    def _projection_tensors(self) -> dict[str, NDArray[np.float16]]:
        return {f"projection.{name}": value.half().numpy() for name, value in self.projection.state_dict().items()}

    def to_bytes(self) -> bytes:
        tensors: dict[str, NDArray[Any]] = {**self._projection_tensors()}
        tensors |= {f"gate.{name}": getattr(self.gate, name) for name in _GATE_ARRAYS}
        tensors["gate.output_bias"] = np.array(self.gate.output_bias, np.float32)
        tensors |= {f"negatives.{kind}": values for kind, values in self.gate.negatives.items()}
        tensors["background"] = np.rint(self.background.vectors * _BYTE).astype(np.int8)
        metadata = {
            "format": _FORMAT,
            "encoder": self.encoder,
            "features": FEATURES,
            "words": self.background.words,
            "recipe": self.recipe,
        }
        return bytes(save(tensors, {"mome_router": json.dumps(metadata, sort_keys=True)}))

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(self.to_bytes())


_GATE_ARRAYS = ("mean", "scale", "hidden_weight", "hidden_bias", "output_weight")


def load_router(name_or_path: str | Path | None = None) -> TrainedRouter:
    """The router in a file; None or "mome-router-3": the one that is shipped. Raises SchemaError for any other file."""
    path = _path_of(DEFAULT_ROUTER if name_or_path is None else name_or_path)
    try:
        return router_from_bytes(path.read_bytes())
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise SchemaError(f"router {path} can't be loaded: {error}") from error


def router_from_bytes(content: bytes) -> TrainedRouter:
    """What `TrainedRouter.to_bytes` gave; ValueError, KeyError and the like for anything else."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = json.loads(header["__metadata__"]["mome_router"])
    if metadata["format"] != _FORMAT or tuple(metadata["features"]) != FEATURES:
        raise ValueError("it was made by another version of mome_store; train it again")
    return _from_parts(metadata, load(content))


def _path_of(name_or_path: str | Path) -> Path:
    shipped = Path(str(files("mome_store.routing") / f"{name_or_path}.safetensors"))
    return shipped if shipped.is_file() else Path(name_or_path).expanduser()


def _from_parts(metadata: dict[str, Any], tensors: dict[str, Any]) -> TrainedRouter:
    weights = {
        name.removeprefix("projection."): torch.from_numpy(value).float()
        for name, value in tensors.items()
        if name.startswith("projection.")
    }
    width, dim = weights["relation.weight"].shape
    projection = Projection(dim, width)
    projection.load_state_dict(weights)
    projection.requires_grad_(False).eval()
    negatives = {n.removeprefix("negatives."): v for n, v in tensors.items() if n.startswith("negatives.")}
    return TrainedRouter(
        encoder=str(metadata["encoder"]),
        projection=projection,
        background=Background(metadata["words"], tensors["background"].astype(np.float32) / np.float32(_BYTE)),
        gate=Gate(
            **{name: tensors[f"gate.{name}"] for name in _GATE_ARRAYS},
            output_bias=float(tensors["gate.output_bias"]),
            negatives=negatives,
        ),
        recipe=metadata["recipe"],
    )

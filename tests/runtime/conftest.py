"""A real store with experts of several ranks over three commits, and routes over it."""

from __future__ import annotations

import shutil
from ctypes import string_at
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store import ExpertSchema, ExpertStore
from mome_store.devices import parse_device
from mome_store.runtime.cuda import extension

SCHEMA = ExpertSchema(modules={"up": (64, 40), "down": (40, 64)}, rank=4, dtype="bfloat16", alpha=6.0)
KEY_DIM = 8


@dataclass(frozen=True)
class FixedRoute:
    """The part of a route that the runtime reads."""

    expert_ids: tuple[NDArray[np.int64], ...]
    weights: tuple[NDArray[np.float32], ...]


def route(*sequences: list[int], weight: float = 1.0) -> FixedRoute:
    """One list of expert ids for each sequence."""
    return FixedRoute(
        tuple(np.array(ids, dtype=np.int64) for ids in sequences),
        tuple(np.full(len(ids), weight, dtype=np.float32) for ids in sequences),
    )


def record_at(address: int | np.int64, device: str = "cpu") -> bytes:
    """The record that a lease points to."""
    kind, ordinal = parse_device(device)
    if kind == "cpu":
        return string_at(int(address), SCHEMA.record_bytes)
    copied: bytes = extension().make_device(ordinal).read(int(address), SCHEMA.record_bytes)
    return copied


def add_experts(store: ExpertStore, ranks: list[int], seed: int) -> list[int]:
    """One commit with a group of one expert for each rank; returns the new groups."""
    rng = np.random.default_rng(seed)
    with store.transaction() as txn:
        return [
            txn.add_group(
                experts=[
                    {
                        name: (
                            rng.normal(size=(rank, d_in)).astype(np.float32),
                            rng.normal(size=(d_out, rank)).astype(np.float32),
                        )
                        for name, (d_in, d_out) in SCHEMA.modules.items()
                    }
                ],
                keys=rng.normal(size=(1, KEY_DIM)).astype(np.float32),
            )
            for rank in ranks
        ]


@pytest.fixture(scope="session")
def pristine_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six experts of ranks 4, 3, 2 | 1, 4 | 4 in three shards."""
    path = tmp_path_factory.mktemp("runtime") / "store"
    with ExpertStore.create(path, schema=SCHEMA, key_dim=KEY_DIM, rows_per_shard=8) as store:
        for seed, ranks in enumerate([[4, 3, 2], [1, 4], [4]]):
            add_experts(store, ranks, seed)
    return path


@pytest.fixture
def store_path(pristine_store: Path, tmp_path: Path) -> Path:
    """A copy of the pristine store, to do with as a test likes."""
    return Path(shutil.copytree(pristine_store, tmp_path / "store"))

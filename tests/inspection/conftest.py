"""A store that has been lived in: several commits, removed groups, shards of few rows, texts of all kinds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store.store import ExpertSchema, ExpertStore, Memory

SCHEMA = ExpertSchema({"layers.0.down": (24, 8), "layers.1.down": (16, 40)}, rank=3, alpha=6.0)
KEY_DIM = 6
ROWS_PER_SHARD = 4


@dataclass
class Lived:
    """The store at `path`, and what must be in it.

    keys, experts: of the live groups. added: by each commit, ids.
    """

    path: Path
    keys: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    experts: dict[int, list[dict[str, tuple[NDArray[Any], NDArray[Any]]]]] = field(default_factory=dict)
    added: list[list[int]] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


@pytest.fixture
def lived(tmp_path: Path) -> Lived:
    rng = np.random.default_rng(0)
    made = Lived(tmp_path / "store")
    with ExpertStore.create(made.path, SCHEMA, KEY_DIM, rows_per_shard=ROWS_PER_SHARD) as store:
        for commit in range(3):
            with store.transaction() as txn:
                made.added.append([])
                for i in range(5):
                    experts = [_expert(rng, int(rng.integers(1, 4))) for _ in range(1 + (i == 0))]
                    keys = rng.standard_normal((2, KEY_DIM)).astype(np.float32)
                    memory = Memory(f"Who is {commit}-{i}?", f"Number {commit * 5 + i}", (f"{commit}-{i} is who?",))
                    group = txn.add_group(experts, keys, None if i == 4 else memory)
                    made.keys[group], made.experts[group] = keys, experts
                    made.added[-1].append(group)
        with store.transaction() as txn:
            for group in (2, 3, 9):
                txn.remove_group(group)
                made.removed.append(group)
                del made.keys[group], made.experts[group]
    return made


def _expert(rng: np.random.Generator, rank: int) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    return {
        name: (rng.standard_normal((rank, d_in)), rng.standard_normal((d_out, rank)))
        for name, (d_in, d_out) in SCHEMA.modules.items()
    }

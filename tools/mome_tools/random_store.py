"""Stores of random experts, for benchmarks: how fast bytes move does not depend on what they say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mome_store import ExpertSchema, ExpertStore

if TYPE_CHECKING:
    from mome_store.store.record import Weights

_AT_ONCE = 4096
_SCALE = 1e-3  # small enough that a model still speaks


Keys = Callable[[int, np.random.Generator], NDArray[np.float32]]
"""So many keys, float32 [n, key_dim]."""


def make_random_store(path: Path, schema: ExpertSchema, experts: int, key_dim: int = 8) -> None:
    """A new store of `experts` random groups."""
    with ExpertStore.create(path, schema=schema, key_dim=key_dim) as store:
        add_random_groups(store, experts)


def add_random_groups(store: ExpertStore, experts: int, keys: Keys | None = None) -> None:
    """Adds groups of one expert each, of the schema's rank. The experts of a commit repeat a few random ones.

    keys: one for each; None: random ones of unit length.
    """
    keys = keys or partial(_random_keys, store.key_dim)
    rng = np.random.default_rng(experts)
    for start in range(0, experts, _AT_ONCE):
        count = min(_AT_ONCE, experts - start)
        with store.transaction() as txn:
            txn.add_groups(_random_weights(store.schema, count, rng), keys(count, rng))


def schema_of_records(record_bytes: int) -> ExpertSchema:
    """A schema of one module whose records have exactly so many bytes, a multiple of 4096."""
    rank = max(1, record_bytes // 8192)
    elements = (record_bytes - 512) // (2 * rank) // 16 * 8
    schema = ExpertSchema(modules={"layer": (elements, elements)}, rank=rank, dtype="bfloat16")
    if schema.record_bytes != record_bytes:
        raise ValueError(f"no schema of records of {record_bytes} bytes: the nearest has {schema.record_bytes}")
    return schema


def _random_weights(schema: ExpertSchema, count: int, rng: np.random.Generator) -> Weights:
    few = 16
    picked = rng.integers(few, size=count)
    return {
        name: (
            (_SCALE * rng.standard_normal((few, schema.rank, d_in), np.float32))[picked],
            (_SCALE * rng.standard_normal((few, d_out, schema.rank), np.float32))[picked],
        )
        for name, (d_in, d_out) in schema.modules.items()
    }


def _random_keys(key_dim: int, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    keys = rng.standard_normal((count, key_dim), np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    return keys

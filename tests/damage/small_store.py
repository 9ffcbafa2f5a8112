"""The smallest store that has some of everything, so that every bit of it can be flipped."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from mome_store.routing.index_cache import load_or_build_index
from mome_store.store import ExpertSchema, ExpertStore, Memory

PAGE_BYTES = 512  # SQLite's smallest; of its usual 4096 most would lie idle in a catalogue of so few rows


def make_small_store(path: Path) -> None:
    """Two commits; a group of an expert and two keys with a memory, a meta value that was replaced, and the router's
    index. A record is 4096 bytes, the least there is, and a shard of experts has a row that is missing.
    """
    schema = ExpertSchema({"down": (8, 8)}, rank=2)
    rng = np.random.default_rng(0)
    with ExpertStore.create(path, schema, key_dim=2, rows_per_shard=2, base_model={"name": "tiny"}) as store:
        with store.transaction() as txn:
            expert = {"down": (rng.standard_normal((2, 8)), rng.standard_normal((8, 2)))}
            memory = Memory("Wie heißt 東京?", "🙂", ("Which?",), id="f1", nll=0.25)
            txn.add_group([expert], rng.standard_normal((2, 2)).astype(np.float32), memory)
            txn.set_meta("router", {"threshold": 0.5})
        with store.transaction() as txn:
            txn.set_meta("router", {"threshold": 0.25})
    _shrink_pages(path / "catalog.sqlite")
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        load_or_build_index(path, snapshot.commit, snapshot.keys()[0])


def files_of(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def _shrink_pages(catalogue: Path) -> None:
    with closing(sqlite3.connect(catalogue, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # in WAL mode the size of pages is fixed
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode=WAL")

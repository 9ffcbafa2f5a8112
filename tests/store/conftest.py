"""Small stores with seeded experts, and the oracle that says what must be in them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store.store import ExpertSchema, ExpertStore, Memory, Snapshot, Transaction

KEY_DIM = 8
ROWS_PER_SHARD = 4  # so that a handful of groups crosses shards

Expert = dict[str, tuple[NDArray[Any], NDArray[Any]]]


@dataclass
class Oracle:
    """What must be in a store: group id -> what was added. Its changes go to a transaction and to itself alike."""

    seed: int = 0
    schema: ExpertSchema = field(
        default_factory=lambda: ExpertSchema({"layers.0.down": (24, 8), "layers.1.down": (16, 40)}, rank=3)
    )
    groups: dict[int, tuple[list[Expert], NDArray[np.float32], Memory | None, str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def create(self, path: Path, **settings: Any) -> ExpertStore:
        return ExpertStore.create(path, self.schema, KEY_DIM, rows_per_shard=ROWS_PER_SHARD, **settings)

    def expert(self, rank: int | None = None) -> Expert:
        r = int(self.rng.integers(1, self.schema.rank + 1)) if rank is None else rank
        return {
            name: (self.rng.standard_normal((r, d_in)), self.rng.standard_normal((d_out, r)).astype(np.float32))
            for name, (d_in, d_out) in self.schema.modules.items()
        }

    def keys(self, n: int) -> NDArray[np.float32]:
        return self.rng.standard_normal((n, KEY_DIM)).astype(np.float32)

    def group(self, experts: int = 1, keys: int = 2, memory: Memory | None = None) -> tuple[Any, ...]:
        return [self.expert() for _ in range(experts)], self.keys(keys), memory, "owned", "answer"

    def add(self, txn: Transaction, experts: int = 1, keys: int = 2, memory: Memory | None = None) -> int:
        group = self.group(experts, keys, memory)
        group_id = txn.add_group(*group)
        assert group_id not in self.groups
        self.groups[group_id] = group
        return group_id

    def add_many(
        self, txn: Transaction, count: int, keys: int = 2, memories: list[Memory | None] | None = None
    ) -> list[int]:
        """Adds groups of one expert by `add_groups`."""
        rank = int(self.rng.integers(1, self.schema.rank + 1))
        experts = [self.expert(rank) for _ in range(count)]
        group_keys = [self.keys(keys) for _ in range(count)]
        ids = txn.add_groups(stacked(self.schema, experts), np.stack(group_keys), memories).tolist()
        for i, group_id in enumerate(ids):
            assert group_id not in self.groups
            memory = None if memories is None else memories[i]
            self.groups[group_id] = ([experts[i]], group_keys[i], memory, "owned", "answer")
        return ids

    def remove(self, txn: Transaction, group_id: int) -> None:
        txn.remove_group(group_id)
        del self.groups[group_id]

    def replace(self, txn: Transaction, group_id: int, experts: int = 1, keys: int = 2) -> int:
        group = self.group(experts, keys)
        new_id = txn.replace_group(group_id, *group)
        del self.groups[group_id]
        self.groups[new_id] = group
        return new_id

    def stored(self, expert: Expert) -> Expert:
        dtype = self.schema.numpy_dtype
        return {name: (a.astype(dtype), b.astype(dtype)) for name, (a, b) in expert.items()}

    def check(self, snapshot: Snapshot) -> None:
        """The snapshot holds exactly this, bit for bit."""
        assert snapshot.group_ids.tolist() == sorted(self.groups)
        assert np.all(np.diff(snapshot.expert_ids) > 0)
        keys, key_groups = snapshot.keys()
        held = 0
        for group_id, (experts, group_keys, memory, mode, activation) in self.groups.items():
            group = snapshot.group(group_id)
            assert (group.memory, group.mode, group.activation) == (memory, mode, activation)
            assert group.expert_ids.tolist() == snapshot.expert_ids[snapshot.expert_groups == group_id].tolist()
            assert len(group.expert_ids) == len(experts)
            for expert_id, expert in zip(group.expert_ids.tolist(), experts, strict=True):
                read = snapshot.read_expert(expert_id)
                assert list(read) == list(self.schema.modules)
                for name, (a, b) in self.stored(expert).items():
                    assert read[name][0].dtype == read[name][1].dtype == self.schema.numpy_dtype
                    assert read[name][0].tobytes() == a.tobytes() and read[name][1].tobytes() == b.tobytes()
            assert keys[key_groups == group_id].tobytes() == group_keys.tobytes()
            held += len(experts)
        assert held == len(snapshot.expert_ids)
        assert sum(len(group[1]) for group in self.groups.values()) == len(keys)
        expected = [(i, group[2]) for i, group in sorted(self.groups.items()) if group[2] is not None]
        assert list(snapshot.memories()) == expected
        backwards = sorted(self.groups, reverse=True)
        assert list(snapshot.memories(backwards)) == expected[::-1]

    def check_path(self, path: Path) -> None:
        with ExpertStore.open(path) as store, store.snapshot() as snapshot:
            self.check(snapshot)


def stacked(schema: ExpertSchema, experts: list[Expert]) -> Expert:
    """Experts of one rank as `add_groups` takes them."""
    return {
        name: (np.stack([e[name][0] for e in experts]), np.stack([e[name][1] for e in experts]))
        for name in schema.modules
    }


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def oracle_of() -> Callable[..., Oracle]:
    return Oracle


@contextmanager
def memory_directory() -> Iterator[Path]:
    """A directory in memory where the system has such: hundreds of commits here would wait for a disk otherwise."""
    shared = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with memory_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def template() -> Iterator[tuple[Path, Oracle]]:
    """What `filled` copies."""
    with memory_directory() as directory:
        yield fill(directory / "store")


def fill(path: Path) -> tuple[Path, Oracle]:
    oracle = Oracle()
    with oracle.create(path, base_model={"name": "tiny"}) as store:
        with store.transaction() as txn:
            oracle.add(txn, experts=2, keys=3, memory=Memory("What?", "That.", ("Which?",), id="f1", nll=0.25))
            oracle.add(txn)
            gone = oracle.add(txn)
            txn.set_meta("router", {"threshold": 0.5})
        with store.transaction() as txn:
            oracle.remove(txn, gone)
            for _ in range(3):
                oracle.add(txn, memory=Memory("Wie heißt 東京?", "🙂"))
    return path, oracle


@pytest.fixture
def filled(tmp_path: Path, oracle: Oracle, template: tuple[Path, Oracle]) -> Path:
    """A closed store with two commits, a group of two experts, a memory, a retired group and a meta value."""
    shutil.copytree(template[0], tmp_path / "store")
    oracle.groups = dict(template[1].groups)
    oracle.rng = np.random.default_rng(1)
    return tmp_path / "store"

"""Every way there is to read a store, and what each of them makes of it: its content, or an error that is typed.

The Python snapshot, the C++ cache in each of its forms over that snapshot, the router's index, and a C++ program that
reads the catalogue by itself (tests/cpp/read_store.cpp) where it could be built.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mome_store.errors import MomeError
from mome_store.routing.index_cache import load_or_build_index
from mome_store.runtime import ExpertCache
from mome_store.store import ExpertStore, Snapshot
from tests.runtime.conftest import route

Found = dict[str, Any]
"""What each reader found: a value that is equal where the same was found, or a `Refusal`."""


@dataclass(frozen=True)
class Refusal:
    """A typed error, as its words."""

    words: str


def everything(snapshot: Snapshot) -> tuple[Any, ...]:
    keys, key_groups = snapshot.keys()
    return (
        (snapshot.commit, snapshot.time_us, snapshot.schema, snapshot.base_model, snapshot.meta("router")),
        snapshot.expert_ids.tolist(),
        [snapshot.read_record(expert_id) for expert_id in snapshot.expert_ids.tolist()],
        snapshot.expert_groups.tolist(),
        snapshot.group_ids.tolist(),
        sorted(snapshot.modes),
        snapshot.acting(snapshot.expert_ids, "answer").tolist(),
        keys.tobytes(),
        key_groups.tolist(),
        list(snapshot.memories()),
    )


def leased(snapshot: Snapshot, **settings: Any) -> tuple[Any, ...]:
    """The bytes and ranks of all experts, leased at once."""
    ids = snapshot.expert_ids.tolist()
    size = snapshot.schema.record_bytes
    with ExpertCache(snapshot, **settings) as cache, cache.acquire(route(ids)) as lease:
        records = [ctypes.string_at(base, size) for base in lease.expert_base.tolist()]
        return records, lease.expert_rank.tolist()


def slots(reader: str) -> Callable[[Snapshot], tuple[Any, ...]]:
    return lambda snapshot: leased(snapshot, capacity=4 * snapshot.schema.record_bytes, reader=reader)


def nearest(snapshot: Snapshot) -> tuple[bytes, list[list[int]]]:
    """What a search of the index finds for fixed queries."""
    keys, _ = snapshot.keys()
    index = load_or_build_index(snapshot.path, snapshot.commit, keys)
    queries = np.random.default_rng(5).standard_normal((3, snapshot.key_dim)).astype(np.float32)
    scores, rows = index.search(queries, len(keys))
    return scores.tobytes(), rows.tolist()


OF_A_SNAPSHOT: dict[str, Callable[[Snapshot], Any]] = {
    "snapshot": everything,
    "cache, mapped": leased,
    "cache, mmap": slots("mmap"),
    "cache, pread": slots("pread"),
    "cache, io_uring": slots("io_uring"),
    "index": nearest,
}


class Readers:
    """All of them. Close it to end the C++ program."""

    def __init__(self, program: Path | None) -> None:
        """program: read_store, or None where it can't be built."""
        self._program = None
        if program is not None:
            self._program = subprocess.Popen(
                [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
            )

    def close(self) -> None:
        if self._program is not None:
            assert self._program.stdin is not None and self._program.stdout is not None
            self._program.stdin.close()
            self._program.stdout.close()
            self._program.wait()

    def read(self, store: Path) -> Found:
        """Whatever is no MomeError goes through: it is a bug."""
        if self._program is not None:  # it reads while Python does
            assert self._program.stdin is not None
            self._program.stdin.write(f"{store}\n")
            self._program.stdin.flush()
        try:
            with ExpertStore.open(store) as opened, opened.snapshot() as snapshot:
                found = {name: _attempt(reader, snapshot) for name, reader in OF_A_SNAPSHOT.items()}
        except MomeError as error:
            found = dict.fromkeys(OF_A_SNAPSHOT, Refusal(str(error)))
        return found | self._said()

    def _said(self) -> Found:
        if self._program is None:
            return {}
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        assert line.endswith("\n"), "the C++ program died"
        fields = [field.split("=", 1) for field in line[:-1].split("\t")]
        assert not any(what.startswith("?") for _, what in fields), f"an error without a type: {line}"
        return {f"C++ {name}": Refusal(what[1:]) if what.startswith("!") else what for name, what in fields}


def _attempt(reader: Callable[[Snapshot], Any], snapshot: Snapshot) -> Any:
    try:
        return reader(snapshot)
    except MomeError as error:
        return Refusal(str(error))

"""`add_groups` writes what as many calls of `add_group` would, refuses what they would, and says nothing twice."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import ml_dtypes
import numpy as np
import pytest

from mome_store.errors import SchemaError
from mome_store.store import ExpertSchema, ExpertStore, Memory, expert_store, files, transaction, verify

COUNT = 23
MODULES = {"layers.0.down": (24, 8), "layers.1.down": (16, 40)}


@pytest.fixture(autouse=True)
def same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores made here differ in nothing but what the test is about."""
    monkeypatch.setattr(expert_store, "uuid4", lambda: UUID(int=1))


def experts(rank: int, dtype: Any, seed: int = 0) -> dict[str, tuple[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.standard_normal((COUNT, rank, d_in)).astype(dtype),
            rng.standard_normal((COUNT, d_out, rank)).astype(dtype),
        )
        for name, (d_in, d_out) in MODULES.items()
    }


def keys(per_group: int) -> Any:
    return np.random.default_rng(1).standard_normal((COUNT, per_group, 8)).astype(np.float32)


def contents(path: Path) -> dict[str, Any]:
    """Every shard's bytes, and the rows of every table but for the time of commits and the digest, which covers it."""
    found: dict[str, Any] = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("c/*/0")}
    with closing(sqlite3.connect(path / "catalog.sqlite")) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            found[table] = [(row[0], *row[2:-1]) for row in rows] if table == "commits" else rows
    return found


MANY = [None if i % 3 == 1 else Memory(f"question {i}", "a", (f"wording {i}",), nll=0.5) for i in range(COUNT)]


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("given", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ">f4"])
@pytest.mark.parametrize(
    ("rank", "per_group", "mode", "memories"),
    [(3, 1, "owned", None), (2, 3, "owned", MANY), (1, 0, "pool", None)],
    ids=["one key", "keys and memories", "a pool without keys"],
)
def test_the_files_are_those_of_add_group(
    tmp_path: Path, monkeypatch: Any, stored: str, given: Any, rank: int, per_group: int, mode: str, memories: Any
) -> None:
    """Across shards, for input that begins inside one, and encoded in several pieces."""
    monkeypatch.setattr(transaction, "_ENCODED_AT_ONCE", 5 * 4096)
    schema = ExpertSchema(MODULES, rank=3, dtype=stored)
    batch, batch_keys = experts(rank, given), keys(per_group)
    for name in ("bulk", "single"):
        with ExpertStore.create(tmp_path / name, schema, 8, rows_per_shard=4) as store, store.transaction() as txn:
            one = [{module: (a[0], b[0]) for module, (a, b) in batch.items()}]
            txn.add_group(one, keys(1)[0], MANY[0])
            if name == "bulk":
                ids = txn.add_groups(batch, batch_keys, memories, mode, "all")
                assert ids.dtype == np.int64 and ids.tolist() == list(range(2, COUNT + 2))
                continue
            for i in range(COUNT):
                expert = {module: (a[i], b[i]) for module, (a, b) in batch.items()}
                txn.add_group([expert], batch_keys[i], memories[i] if memories else None, mode, "all")
    assert contents(tmp_path / "bulk") == contents(tmp_path / "single")
    assert verify(tmp_path / "bulk", deep=True).ok


def test_one_key_a_group_may_be_given_without_an_axis(tmp_path: Path) -> None:
    schema = ExpertSchema(MODULES, rank=3)
    for name, given in (("flat", keys(1)[:, 0]), ("deep", keys(1)), ("strided", np.repeat(keys(1), 2, axis=0)[::2])):
        with ExpertStore.create(tmp_path / name, schema, 8) as store, store.transaction() as txn:
            txn.add_groups(experts(2, np.float32), given)
    assert contents(tmp_path / "flat") == contents(tmp_path / "deep") == contents(tmp_path / "strided")


def changed(at: int, value: float) -> dict[str, tuple[Any, Any]]:
    batch = experts(2, np.float32)
    batch["layers.1.down"][1][at, -1, -1] = value
    return batch


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, ">f2"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_value_that_is_not_finite_is_found_wherever_it_is(tmp_path: Path, dtype: Any, value: float) -> None:
    rng = np.random.default_rng(2)
    with ExpertStore.create(tmp_path / "s", ExpertSchema(MODULES, rank=3), 8) as store, store.transaction() as txn:
        for _ in range(5):
            batch = experts(2, dtype)
            array = batch[list(MODULES)[rng.integers(2)]][rng.integers(2)]
            array.reshape(-1)[rng.integers(array.size)] = value
            with pytest.raises(SchemaError, match="not finite"):
                txn.add_groups(batch, keys(1))


def test_a_value_that_rounding_makes_infinite_is_refused_on_either_side(tmp_path: Path) -> None:
    schema = ExpertSchema(MODULES, rank=3, dtype="float16")
    with ExpertStore.create(tmp_path / "s", schema, 8) as store, store.transaction() as txn:
        for value, fits in ((65519.0, True), (65520.0, False), (-65519.0, True), (-65520.0, False)):
            batch = experts(2, np.float32)
            batch["layers.0.down"][0][3, 1, 5] = value
            if fits:
                txn.add_groups(batch, keys(1))
                continue
            with pytest.raises(SchemaError, match="A holds values that are not finite in float16"):
                txn.add_groups(batch, keys(1))


def test_refused_groups_change_nothing_and_the_transaction_goes_on(tmp_path: Path, oracle: Any) -> None:
    batch = experts(2, np.float32)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"experts": changed(COUNT - 1, np.nan)}, "B holds values that are not finite in bfloat16"),
        ({"experts": changed(0, 3.4e38)}, "not finite"),
        ({"experts": {name: (a.astype(np.int8), b) for name, (a, b) in batch.items()}}, "float dtype"),
        ({"experts": {name: (a[:-1], b) for name, (a, b) in batch.items()}}, r"expected A \[23, r, 24\]"),
        ({"experts": {name: (a, b[0]) for name, (a, b) in batch.items()}}, r"B \[23, 8, r\]"),
        ({"experts": experts(4, np.float32)}, "rank must be 1 to 3"),
        ({"experts": [batch]}, "mapping"),
        ({"keys": keys(1)[:-1]}, r"expected A \[22, r, 24\]"),
        ({"keys": keys(0)}, "at least one key"),
        ({"keys": keys(1).astype(np.float64)}, r"float32 \[n, 8\] or \[n, k, 8\], found float64 \[23, 1, 8\]"),
        ({"keys": keys(1)[..., :7]}, r"\[n, 8\]"),
        ({"keys": keys(1) * np.float32(np.inf)}, "finite"),
        ({"memories": MANY[:-1]}, "for each of 23 groups, found 22"),
        ({"memories": ["text"] * COUNT}, "Memory"),
        ({"mode": "shared"}, "owned, pool"),
        ({"activation": "never"}, "answer, all"),
    ]
    with oracle.create(tmp_path / "s") as store:
        with store.transaction() as txn:
            for change, words in refused:
                with pytest.raises(SchemaError, match=words):
                    txn.add_groups(**{"experts": batch, "keys": keys(1), **change})
            assert oracle.add_many(txn, COUNT) == list(range(1, COUNT + 1))
        with store.snapshot() as snapshot:
            oracle.check(snapshot)


def test_no_groups_are_no_change(tmp_path: Path, oracle: Any) -> None:
    none = {name: (a[:0], b[:0]) for name, (a, b) in experts(2, np.float32).items()}
    with oracle.create(tmp_path / "s") as store:
        with store.transaction() as txn:
            assert txn.add_groups(none, keys(1)[:0]).tolist() == []
        with store.snapshot() as snapshot:
            assert snapshot.commit == 0


def test_large_pieces_go_past_the_page_cache_and_are_the_same_on_disk(tmp_path: Path, monkeypatch: Any) -> None:
    """Pieces of whole pages are written directly where the file system can; where it can't, as any other."""
    schema = ExpertSchema({"layer": (4096, 4080)}, rank=4)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((100, 4, 4096), np.float32), rng.standard_normal((100, 4080, 4), np.float32)
    asked: list[int] = []
    fcntl = files.fcntl.fcntl

    def refused(fd: int, command: int, flags: int = 0) -> int:
        if command == files.fcntl.F_SETFL and flags & os.O_DIRECT:
            asked.append(fd)
            raise OSError(errno.EINVAL, "Invalid argument")
        return fcntl(fd, command, flags)

    with tempfile.TemporaryDirectory() as disk:
        for folder, direct in ((Path(disk), True), (tmp_path, False)):
            with monkeypatch.context() as patch:
                if not direct:
                    patch.setattr(files.fcntl, "fcntl", refused)
                with ExpertStore.create(folder / "s", schema, 8) as store, store.transaction() as txn:
                    txn.add_groups({"layer": (a, b)}, np.ones((100, 8), np.float32))
        shards = [(folder / "s" / "experts" / "c" / "0" / "0").read_bytes() for folder in (Path(disk), tmp_path)]
        assert asked and shards[0] == shards[1]
        assert verify(Path(disk) / "s", deep=True).ok

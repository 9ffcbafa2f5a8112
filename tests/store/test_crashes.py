"""After a power cut at any operation, whatever was not durable: the last acknowledged commit, or the one under way.

Each scenario runs once on a simulated disk, which is frozen before every operation. Of every frozen state several
findings are made (nothing kept that was not durable, all of it, parts of it, torn at 512 and 4096 bytes) and opened.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome_store.errors import StoreNotFoundError
from mome_store.routing.index import build_index
from mome_store.routing.index_cache import load_or_build_index
from mome_store.store import ExpertStore, Memory, compaction, transaction, verify
from mome_store.store.catalog_writer import CatalogWriter
from tests.store.simulated_disk import CATALOG, Frozen, SimulatedDisk

pytestmark = pytest.mark.fault

FINDINGS = [(0.0, 512), (1.0, 512), (0.5, 4096)]  # (chance that what is not durable is there, sector)
MORE_FINDINGS = [
    (0.0, 512),
    (1.0, 512),
    *[(chance, sector) for chance in (0.2, 0.5, 0.8, 0.95) for sector in (512, 4096)],
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scenario is of several pieces and steps."""
    monkeypatch.setattr(transaction, "_ENCODED_AT_ONCE", 2 * 4096)
    monkeypatch.setattr(compaction, "_STEP_BYTES", 8 * 4096)
    monkeypatch.setattr(compaction, "_PIECE_BYTES", 2 * 4096)


def add_one(store: ExpertStore, oracle: Any) -> None:
    with store.transaction() as txn:
        oracle.add(txn, memory=Memory("q", "a"))


def add_many(store: ExpertStore, oracle: Any) -> None:
    with store.transaction() as txn:
        oracle.add_many(txn, 6, keys=1, memories=[Memory(f"p{i}", "a") for i in range(6)])


def replace(store: ExpertStore, oracle: Any) -> None:
    with store.transaction() as txn:
        oracle.replace(txn, 1, experts=2)


def remove(store: ExpertStore, oracle: Any) -> None:
    with store.transaction() as txn:
        oracle.remove(txn, 2)
        txn.set_meta("router", 1)


def compact(store: ExpertStore, oracle: Any) -> None:
    store.compact()


def collect_garbage(store: ExpertStore, oracle: Any) -> None:
    store.collect_garbage()


def a_commit_that_merges(store: ExpertStore, oracle: Any) -> None:
    add_one(store, oracle)
    assert len(list(store.path.glob("experts/c/*"))) < compaction.SMALL_SHARDS


SCENARIOS: dict[str, Callable[[ExpertStore, Any], None]] = {
    work.__name__: work for work in (add_one, add_many, replace, remove, compact, collect_garbage, a_commit_that_merges)
}


class Recorded:
    """A scenario's frozen states, and what must be in the store as of each commit."""

    def __init__(self, path: Path, oracle: Any, work: Callable[[ExpertStore, Any], None], monkeypatch: Any) -> None:
        with ExpertStore.open(path) as store, store.snapshot() as snapshot:
            commit = snapshot.commit
        self.expected = {commit: dict(oracle.groups)}
        disk = SimulatedDisk(path, commit)
        real = CatalogWriter.commit

        def commit_and_record(writer: Any, changes: Any, row: Any) -> None:
            self.expected[row.id] = dict(oracle.groups)
            disk.freeze("commit")
            before = disk.wal_bytes()
            real(writer, changes, row)
            disk.freeze("within the commit", inside=True, wal_before=before)
            disk.commit = row.id

        with monkeypatch.context() as patch:
            patch.setattr(CatalogWriter, "commit", commit_and_record)
            with ExpertStore.open(path, "r+", files=disk) as store:
                work(store, oracle)
                disk.freeze("close")
        self.frozen = disk.frozen


def check_finding(frozen: Frozen, expected: dict[int, Any], path: Path, oracle: Any, again: bool) -> None:
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        commit = snapshot.commit
        assert commit == frozen.commit or (frozen.operation in ("within the commit", "close") and commit in expected)
        oracle.groups = dict(expected[commit])
        oracle.check(snapshot)
    report = verify(path, deep=True)
    assert report.ok, report.damage
    if again:  # the next writer clears up and goes on
        with ExpertStore.open(path, "r+") as store:
            with store.transaction() as txn:
                oracle.add(txn, memory=Memory("next", "a"))
            store.compact()
        oracle.check_path(path)
        with ExpertStore.open(path) as store, store.snapshot() as snapshot:
            named = {shard.path for shard in snapshot.shards}
        assert set(path.glob("*/c/*/*")) == named


def prepared(path: Path, oracle: Any, work: Callable[[ExpertStore, Any], None]) -> None:
    """A store in which there is something for every scenario to do."""
    with oracle.create(path, automatic_compaction=False) as store:
        for i in range(compaction.SMALL_SHARDS - 1 if work is a_commit_that_merges else 5):
            with store.transaction() as txn:
                oracle.add(txn, experts=1 + i % 2, memory=Memory(f"q{i}", "a"))
        if work in (compact, collect_garbage):
            with store.transaction() as txn:
                oracle.remove(txn, 3)
    if work is collect_garbage:
        for array, number in (("experts", 50), ("keys", 60), ("keys", 61)):
            (path / array / "c" / str(number)).mkdir()
            (path / array / "c" / str(number) / "0").write_bytes(b"left by a crash")


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_cut_leaves_a_whole_commit(
    tmp_path: Path,
    oracle: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    every: bool,
    record_property: Callable[[str, object], None],
) -> None:
    work = SCENARIOS[name]
    path = tmp_path / "s"
    prepared(path, oracle, work)
    recorded = Recorded(path, oracle, work, monkeypatch)
    findings = MORE_FINDINGS if every else FINDINGS
    step = 1 if every else -(-len(recorded.frozen) // 12)
    rng = random.Random(0)
    tried = 0
    for frozen in recorded.frozen[::-step]:
        for chance, sector in findings:
            found = tmp_path / "found"
            frozen.write_to(found, rng, chance, sector)
            try:
                check_finding(frozen, recorded.expected, found, oracle, again=chance in (0.0, 0.5))
            except BaseException as error:
                error.add_note(f"power cut before {frozen.operation!r}, kept {chance}, sectors of {sector}")
                raise
            shutil.rmtree(found)
            tried += 1
    assert tried >= 9
    record_property("damage", f"power cuts, {name}: {tried} findings at {len(recorded.frozen[::-step])} operations")


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_power_cut_during_creation_leaves_no_store_or_an_empty_one(tmp_path: Path, oracle: Any, every: int) -> None:
    path = tmp_path / "s"
    path.mkdir()
    (path / "LOCK").touch()
    disk = SimulatedDisk(path, 0)
    oracle.create(path, files=disk).close()
    disk.freeze("close")
    rng = random.Random(0)
    stores = 0
    for frozen in disk.frozen[::every]:
        for chance, sector in MORE_FINDINGS:
            found = tmp_path / "found"
            frozen.write_to(found, rng, chance, sector)
            if not (found / "zarr.json").exists() and rng.random() < 0.5:
                for file in found.glob(f"{CATALOG}*"):
                    file.unlink()
            try:
                ExpertStore.open(found).close()
            except StoreNotFoundError:
                oracle.create(found).close()
            else:
                stores += 1
            oracle.check_path(found)
            assert verify(found, deep=True).ok
            shutil.rmtree(found)
    assert stores > 0


def test_a_power_cut_while_the_index_is_written_costs_no_answer(tmp_path: Path, filled: Path) -> None:
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        keys, commit = snapshot.keys()[0], snapshot.commit
    (filled / "index").mkdir()
    (filled / "index" / "1.faiss").write_bytes(b"stale")
    disk = SimulatedDisk(filled, commit)
    load_or_build_index(filled, commit, keys, disk)
    disk.freeze("end")
    exact = build_index(keys).search(keys, 3)
    rng = random.Random(0)
    for frozen in disk.frozen:
        for chance, sector in MORE_FINDINGS:
            found = tmp_path / "found"
            frozen.write_to(found, rng, chance, sector)
            for left, right in zip(load_or_build_index(found, commit, keys).search(keys, 3), exact, strict=True):
                assert np.array_equal(left, right)
            ExpertStore.open(found, "r+").close()
            shutil.rmtree(found)
    assert len(disk.frozen) > 5

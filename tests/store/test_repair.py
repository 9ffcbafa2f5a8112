"""A repaired store opens, is whole, holds what was not damaged bit for bit, and the report says what is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from mome_store.errors import DamagedStoreError, SchemaError, StoreLockedError, StoreNotFoundError, WriteError
from mome_store.store import ExpertStore, RepairReport, repair, verify
from mome_store.store.catalog_writer import CatalogWriter
from mome_store.store.files import FileOperations
from mome_store.store.repair import REPAIRED

from .conftest import Oracle
from .simulated_disk import SimulatedDisk
from .test_damage import flip, lengthen, swap_index_entries, truncate
from .test_faults import FaultyFiles, fail_with, in_child
from .test_interop import READERS

RECORD = 4096
OWNED = {"mode": "owned", "activation": "answer"}


def tree(path: Path) -> dict[str, bytes]:
    """Every file but the writer's lock."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name != "LOCK")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def damage_record(path: Path, row: int) -> None:
    flip(path / f"experts/c/{row // 4}/0", 8 * (row % 4 * RECORD + 100))


def without(oracle: Any, *groups: int) -> Any:
    for group in groups:
        del oracle.groups[group]
    return oracle


def without_keys(oracle: Any, *groups: int) -> Any:
    for group in groups:
        experts, keys, *rest = oracle.groups[group]
        oracle.groups[group] = (experts, keys[:0], *rest)
    return oracle


def without_memory(oracle: Any, *groups: int) -> Any:
    for group in groups:
        experts, keys, _, *rest = oracle.groups[group]
        oracle.groups[group] = (experts, keys, None, *rest)
    return oracle


def check(path: Path, oracle: Any) -> None:
    """The store is whole, holds what the oracle says, and can be written."""
    report = verify(path, deep=True)
    assert report.ok, report.damage
    oracle.check_path(path)
    before = tree(path)
    again = repair(path)
    assert tree(path) == before and again.lost == again.set_aside == again.rewritten == ()
    with ExpertStore.open(path, "r+") as store, store.transaction() as txn:
        oracle.add(txn)
    oracle.check_path(path)
    assert verify(path, deep=True).ok


def lost_groups(report: RepairReport) -> set[int | None]:
    return {loss.group_id for loss in report.lost}


def facts_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_repairing_a_whole_store_changes_nothing(filled: Path, oracle: Any) -> None:
    before = tree(filled)
    for dry_run in (True, False):
        report = repair(filled, dry_run=dry_run)
        assert report == RepairReport(2, 6, 5, (), (), (), (), ())
        assert tree(filled) == before
    (filled / "LOCK").unlink()
    repair(filled)
    check(filled, oracle)


def test_a_group_that_lost_an_expert_is_retired_whole_and_nothing_is_thrown_away(filled: Path, oracle: Any) -> None:
    damage_record(filled, 1)  # the second expert of group 1
    damaged = (filled / "experts/c/0/0").read_bytes()
    report = repair(filled)
    assert (report.commit, report.recovered_experts, report.recovered_groups) == (3, 4, 4)
    assert [(loss.file, loss.row, loss.expert_id, loss.group_id) for loss in report.lost] == [
        ("experts/c/0/0", 0, 1, 1),
        ("experts/c/0/0", 1, 2, 1),
    ]
    assert "another expert" in report.lost[0].what and "checksum" in report.lost[1].what
    assert set(report.set_aside) == {f"damaged/1/{name}" for name in ("records/1", "records/2", "facts.jsonl")}
    assert (filled / "damaged/1/records/1").read_bytes() == damaged[:RECORD]
    assert (filled / "damaged/1/records/2").read_bytes() == damaged[RECORD : 2 * RECORD]
    [fact] = facts_in(filled / "damaged/1/facts.jsonl")
    assert fact == {"id": "f1", "question": "What?", "answer": "That.", "paraphrases": ["Which?"], "group_id": 1}
    assert json.loads((filled / "damaged/1/report.json").read_text())["report"]["lost"]
    check(filled, without(oracle, 1))


def test_what_repair_would_do_is_what_it_does(filled: Path) -> None:
    damage_record(filled, 1)
    truncate(filled / "keys/c/1/0")
    (filled / "experts/zarr.json").unlink()
    before = tree(filled)
    told = repair(filled, dry_run=True)
    assert tree(filled) == before
    done = repair(filled)
    assert done == RepairReport(**{**vars(told), "commit": 3})


@pytest.mark.parametrize(
    "harm", [truncate, lengthen, swap_index_entries, lambda file: flip(file, 8 * file.stat().st_size - 1)]
)
@pytest.mark.parametrize("name", ["experts/c/0/0", "keys/c/0/0", "keys/c/3/0"])
def test_a_shard_whose_rows_are_whole_is_restored_exactly(
    filled: Path, oracle: Any, name: str, harm: Callable[[Path], None]
) -> None:
    original = tree(filled)
    harm(filled / name)
    damaged = (filled / name).read_bytes()
    report = repair(filled)
    assert report.lost == () and report.rewritten == (name,) and report.set_aside == (f"damaged/1/{name}",)
    after = tree(filled)
    assert after.pop(f"damaged/1/{name}") == damaged
    after.pop("damaged/1/report.json")
    assert after == original
    check(filled, oracle)


def test_whole_records_are_found_in_a_shard_that_can_not_be_opened(filled: Path, oracle: Any) -> None:
    file = filled / "experts/c/0/0"  # rows 0 to 3: group 1 (two), group 2, group 3 (removed)
    content = bytearray(file.read_bytes())
    content[3 * RECORD + 7] ^= 1
    file.write_bytes(content[:-5])
    report = repair(filled)
    assert report.lost == () and report.rewritten == ("experts/c/0/0",) and report.commit == 3
    assert verify(filled, deep=True).ok
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        oracle.check(snapshot)
        assert snapshot.shards[0].rows == 3
    check(filled, oracle)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_other_zarr_readers_find_the_rows_of_a_rewritten_shard(
    filled: Path, read: Callable[[Path], NDArray[Any]]
) -> None:
    content = bytearray((filled / "experts/c/1/0").read_bytes())
    content[7] ^= 1  # row 4 is lost; rows 5 and 6 move up in the file
    (filled / "experts/c/1/0").write_bytes(content + b"\0")
    repair(filled)
    array = read(filled / "experts")
    assert not array[4].any()
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        for expert_id, row in zip(snapshot.expert_ids.tolist(), snapshot.expert_rows.tolist(), strict=True):
            assert array[row].tobytes() == snapshot.read_record(expert_id)


def test_a_rewritten_shard_holds_nothing_of_groups_that_were_retired(filled: Path, oracle: Any) -> None:
    """Else a later repair without the catalogue would bring half a group back."""
    damage_record(filled, 1)  # row 0 is the other expert of group 1
    truncate(filled / "experts/c/0/0")
    assert lost_groups(repair(filled)) == {1}
    assert (filled / "damaged/1/records/1").stat().st_size == RECORD
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        assert snapshot.shards[0].rows == 1
    (filled / "catalog.sqlite").unlink()
    assert 1 not in repair(filled, **OWNED).maybe_removed


def test_records_that_changed_places_are_found_though_the_checksum_of_all_of_them_is_right(
    filled: Path, oracle: Any
) -> None:
    """Each record ends with its own checksum, so the one of them all does not see it."""
    file = filled / "experts/c/0/0"
    content = file.read_bytes()
    file.write_bytes(content[RECORD : 2 * RECORD] + content[:RECORD] + content[2 * RECORD : -1])
    assert repair(filled).lost == ()
    check(filled, oracle)


def test_records_that_slid_to_another_page_are_found(filled: Path, oracle: Any) -> None:
    file = filled / "experts/c/1/0"
    file.write_bytes(bytes(RECORD) + file.read_bytes())
    assert repair(filled).lost == ()
    check(filled, oracle)


@pytest.mark.parametrize("keep", [0, RECORD, 2 * RECORD + 100])
def test_a_shard_cut_short_keeps_the_groups_that_are_in_it(filled: Path, oracle: Any, keep: int) -> None:
    os.truncate(filled / "experts/c/1/0", keep)  # rows 4 to 6: groups 4, 5 and 6
    report = repair(filled)
    lost = [group for i, group in enumerate((4, 5, 6)) if (i + 1) * RECORD > keep]
    assert lost_groups(report) == set(lost) and report.recovered_groups == 5 - len(lost)
    assert len(facts_in(filled / "damaged/1/facts.jsonl")) == len(lost)
    assert (filled / "damaged/1/experts/c/1/0").stat().st_size == keep
    assert (filled / "experts/c/1/0").exists() == bool(keep)
    check(filled, without(oracle, *lost))


def test_a_missing_shard_takes_its_groups_with_it_and_no_others(filled: Path, oracle: Any) -> None:
    shutil.rmtree(filled / "experts/c/1")
    report = repair(filled)
    assert lost_groups(report) == {4, 5, 6} and all("missing" in loss.what for loss in report.lost)
    check(filled, without(oracle, 4, 5, 6))


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: flip(file, 77), lambda file: os.truncate(file, 40)])
def test_groups_that_lost_their_keys_stay_and_are_named(
    filled: Path, oracle: Any, harm: Callable[[Path], None]
) -> None:
    harm(filled / "keys/c/1/0")  # rows 4 to 6: the second key of group 2, and those of the removed group
    harm(filled / "keys/c/2/0")  # rows 8 to 11: the keys of groups 4 and 5
    report = repair(filled)
    assert report.without_keys == (4, 5) and lost_groups(report) == {2, 4, 5}
    assert (report.recovered_groups, report.recovered_experts) == (5, 6)
    assert [fact["group_id"] for fact in facts_in(filled / "damaged/1/without_keys.jsonl")] == [4, 5]
    experts, keys, *rest = oracle.groups[2]
    oracle.groups[2] = (experts, keys[:1], *rest)
    check(filled, without_keys(oracle, 4, 5))


def test_a_memory_that_is_damaged_leaves_its_group(filled: Path, oracle: Any) -> None:
    with sqlite3.connect(filled / "catalog.sqlite") as connection:
        connection.execute("UPDATE memories SET answer = 'other' WHERE id IN (1, 3)")
    connection.close()
    report = repair(filled)
    assert lost_groups(report) == {1, 5} and report.recovered_groups == 5
    check(filled, without_memory(oracle, 1, 5))


@pytest.mark.parametrize("name", ["zarr.json", "experts/zarr.json", "keys/zarr.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"attributes": {"mome": {"format": 7}}}'])
def test_zarr_json_files_are_derived_anew(filled: Path, oracle: Any, name: str, content: bytes | None) -> None:
    original = tree(filled)
    (filled / name).unlink()
    if content is not None:
        (filled / name).write_bytes(content)
    report = repair(filled)
    assert report.rewritten == (name,) and report.lost == () and report.commit == 2
    after = {file: text for file, text in tree(filled).items() if not file.startswith("damaged")}
    assert after == original
    assert (content is None) == (f"damaged/1/{name}" not in tree(filled))
    check(filled, oracle)


def test_a_rewritten_shard_with_gaps_is_described_to_its_last_row(filled: Path, oracle: Any) -> None:
    content = bytearray((filled / "experts/c/1/0").read_bytes())
    content[7] ^= 1
    (filled / "experts/c/1/0").write_bytes(content + b"\0")
    repair(filled)
    (filled / "experts/zarr.json").unlink()
    repair(filled)
    assert json.loads((filled / "experts/zarr.json").read_text())["shape"][0] == 7
    check(filled, without(oracle, 4))


def damage_an_index_of_sqlite(path: Path) -> None:
    """Leaves all rows, and an index that has one entry too few."""
    with sqlite3.connect(path / "catalog.sqlite") as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'retired IS NULL', 'retired IS 1') WHERE type = 'index'"
        )
    connection.close()


def test_a_catalogue_that_only_sqlite_objects_to_is_copied(filled: Path, oracle: Any) -> None:
    damage_an_index_of_sqlite(filled)
    assert not verify(filled).ok
    told = repair(filled, dry_run=True)
    report = repair(filled)
    assert (told.lost, told.rewritten, told.set_aside) == (report.lost, report.rewritten, report.set_aside)
    assert report.lost == () and report.rewritten == ("catalog.sqlite",)
    assert "damaged/1/catalog.sqlite" in report.set_aside
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        assert snapshot.meta("router") == {"threshold": 0.5} and store.base_model == {"name": "tiny"}
    check(filled, oracle)


def test_both_a_catalogue_and_shards_are_repaired(filled: Path, oracle: Any) -> None:
    damage_an_index_of_sqlite(filled)
    damage_record(filled, 5)
    report = repair(filled)
    assert lost_groups(report) == {5} and report.commit == 4
    check(filled, without(oracle, 5))


LOST = {
    "gone": lambda file: file.unlink(),
    "empty": lambda file: os.truncate(file, 0),
    "not a database": lambda file: file.write_bytes(b"x" * 5000),
    "cut": lambda file: os.truncate(file, 8192),
    "a row changed": lambda file: change_a_cell(file),
}


def change_a_cell(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE keys SET group_id = group_id + 1")
    connection.close()


@pytest.mark.parametrize("harm", LOST)
def test_a_lost_catalogue_is_rebuilt_from_the_records_and_nothing_is_guessed(
    filled: Path, oracle: Any, template: tuple[Path, Any], harm: str
) -> None:
    LOST[harm](filled / "catalog.sqlite")
    before = tree(filled)
    for dry_run in (True, False):
        with pytest.raises(DamagedStoreError, match="mode and activation"):
            repair(filled, dry_run=dry_run)
    with pytest.raises(SchemaError, match="go together"):
        repair(filled, mode="owned")
    assert tree(filled) == before
    report = repair(filled, **OWNED)
    assert report.maybe_removed == report.without_keys == (1, 2, 3, 4, 5, 6)  # group 3 had been removed
    assert report.recovered_experts == 7 and "catalog.sqlite" in report.rewritten
    assert all(before[f"keys/c/{n}/0"] == tree(filled)[f"damaged/1/keys/c/{n}/0"] for n in range(4))
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        assert snapshot.commit > 2 and store.base_model == {"name": "tiny"}
        for group_id, (experts, *_) in oracle.groups.items():
            group = snapshot.group(group_id)
            assert (group.mode, group.activation, group.memory) == ("owned", "answer", None)
            for expert_id, expert in zip(group.expert_ids.tolist(), experts, strict=True):
                for name, (a, b) in oracle.stored(expert).items():
                    read = snapshot.read_expert(expert_id)[name]
                    assert read[0].tobytes() == a.tobytes() and read[1].tobytes() == b.tobytes()
    assert verify(filled, deep=True).ok
    with ExpertStore.open(filled, "r+") as store, store.transaction() as txn:
        assert txn.add_group(*oracle.group()) == 7
        txn.remove_group(3)
    assert verify(filled, deep=True).ok


def test_memories_of_a_catalogue_that_is_lost_are_kept_as_facts(filled: Path) -> None:
    change_a_cell(filled / "catalog.sqlite")
    repair(filled, **OWNED)
    facts = facts_in(filled / "damaged/1/memories.jsonl")
    assert [fact["question"] for fact in facts] == ["What?", *["Wie heißt 東京?"] * 3]


def test_without_a_catalogue_a_group_that_may_have_lost_an_expert_stays_out(filled: Path) -> None:
    """Group 1 has rows 0 and 1. Which group the damaged record was of, nothing tells."""
    (filled / "catalog.sqlite").unlink()
    damage_record(filled, 1)
    report = repair(filled, **OWNED)
    assert report.maybe_removed == (3, 4, 5, 6)  # not group 2 either: row 1 may have been its first expert
    assert {loss.row for loss in report.lost if loss.row is not None} == {0, 1, 2}
    assert {"damaged/1/records/row-0", "damaged/1/records/row-1", "damaged/1/records/row-2"} <= set(report.set_aside)
    assert verify(filled, deep=True).ok


def test_without_a_catalogue_shards_with_a_damaged_index_are_searched_too(filled: Path) -> None:
    (filled / "catalog.sqlite").unlink()
    truncate(filled / "experts/c/0/0")
    report = repair(filled, **OWNED)
    assert report.maybe_removed == (1, 2, 3, 4, 5, 6) and "experts/c/0/0" in report.rewritten
    assert verify(filled, deep=True).ok


def test_the_same_record_in_two_shards_counts_once(filled: Path) -> None:
    """What a compaction leaves that was cut short: the old shard and the new one."""
    (filled / "catalog.sqlite").unlink()
    shutil.copytree(filled / "experts/c/0", filled / "experts/c/7")
    report = repair(filled, **OWNED)
    assert report.recovered_experts == 7 and not any(loss.file.startswith("experts") for loss in report.lost)
    assert "damaged/1/experts/c/0/0" in report.set_aside
    assert verify(filled, deep=True).ok


def test_a_lost_root_zarr_json_and_a_lost_catalogue_leave_too_little(filled: Path) -> None:
    (filled / "zarr.json").unlink()
    (filled / "catalog.sqlite").unlink()
    before = tree(filled)
    with pytest.raises(DamagedStoreError, match=r"zarr\.json"):
        repair(filled, **OWNED)
    assert tree(filled) == before


def test_the_layout_of_an_unconfirmed_catalogue_serves_where_records_bear_it_out(filled: Path) -> None:
    change_a_cell(filled / "catalog.sqlite")
    (filled / "zarr.json").unlink()
    report = repair(filled, **OWNED)
    assert report.recovered_experts == 7 and "zarr.json" in report.rewritten
    assert verify(filled, deep=True).ok


def test_a_catalogue_of_another_store_is_refused_where_no_zarr_json_tells_so(
    filled: Path, tmp_path: Path, oracle: Any
) -> None:
    other = Oracle(seed=7)  # the same ids and shapes, other bytes
    with other.create(tmp_path / "other") as store, store.transaction() as txn:
        other.add(txn, experts=2)
    mine, foreign = ((path / "catalog.sqlite").read_bytes() for path in (filled, tmp_path / "other"))
    (filled / "zarr.json").unlink()
    (filled / "catalog.sqlite").write_bytes(foreign)
    before = tree(filled)
    for dry_run in (True, False):
        with pytest.raises(DamagedStoreError, match="another store"):
            repair(filled, dry_run=dry_run)
    assert tree(filled) == before
    (filled / "catalog.sqlite").write_bytes(mine)
    assert repair(filled).rewritten == ("zarr.json",)
    check(filled, oracle)


def test_what_is_no_store_is_left_alone(tmp_path: Path, oracle: Any) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(StoreNotFoundError):
            repair(path)
    assert list(tmp_path.iterdir()) == []


def test_a_living_writer_keeps_repair_out(filled: Path) -> None:
    with ExpertStore.open(filled, "r+"), pytest.raises(StoreLockedError):
        repair(filled)


def hurt_shards(path: Path) -> None:
    damage_record(path, 1)
    os.truncate(path / "experts/c/1/0", 2 * RECORD + 9)
    flip(path / "keys/c/2/0", 3)
    truncate(path / "keys/c/3/0")
    (path / "keys/zarr.json").unlink()


def hurt_sqlite(path: Path) -> None:
    damage_an_index_of_sqlite(path)
    damage_record(path, 5)


def lose_catalogue(path: Path) -> None:
    change_a_cell(path / "catalog.sqlite")
    truncate(path / "experts/c/0/0")
    damage_record(path, 5)


def contents(path: Path) -> list[Any]:
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        keys, groups = snapshot.keys()
        return [
            [(i, snapshot.read_record(i)) for i in snapshot.expert_ids.tolist()],
            [repr(snapshot.group(i)) for i in snapshot.group_ids.tolist()],
            (keys.tobytes(), groups.tolist()),
            list(snapshot.memories()),
        ]


def aside(path: Path) -> dict[str, bytes]:
    """What was set aside; reports have times and numbers of commits in them."""
    return {name: content for name, content in tree(path / "damaged").items() if not name.endswith("report.json")}


@pytest.mark.fault
@pytest.mark.parametrize("hurt", [hurt_shards, hurt_sqlite, lose_catalogue])
@pytest.mark.parametrize("how", ["killed", "disk full", "Ctrl-C"])
def test_a_repair_cut_short_anywhere_is_done_by_the_next_one(
    filled: Path, tmp_path: Path, hurt: Callable[[Path], None], how: str
) -> None:
    hurt(filled)
    shutil.copytree(filled, tmp_path / "expected")
    counted = FaultyFiles(0, lambda: None)
    repair(tmp_path / "expected", **OWNED, files=counted)
    expected, set_aside = contents(tmp_path / "expected"), aside(tmp_path / "expected")
    assert counted.count > 20
    for at in range(1, counted.count + 1):
        path = tmp_path / "cut"
        shutil.copytree(filled, path)
        if how == "killed":

            def die_at(at: int = at, path: Path = path) -> None:
                repair(path, **OWNED, files=FaultyFiles(at, lambda: os.kill(os.getpid(), signal.SIGKILL)))

            assert in_child(die_at) == -signal.SIGKILL
        else:
            error = OSError(ENOSPC, "full") if how == "disk full" else KeyboardInterrupt()
            with pytest.raises((WriteError, KeyboardInterrupt)):
                repair(path, **OWNED, files=FaultyFiles(at, fail_with(error)))
        repair(path, **OWNED)
        assert verify(path, deep=True).ok
        assert contents(path) == expected
        assert aside(path) == set_aside
        assert not (path / REPAIRED).exists() and not list(path.rglob("*.tmp")) and not list(path.rglob("0.repaired"))
        shutil.rmtree(path)


@pytest.mark.fault
def test_a_catalogue_that_was_put_back_meanwhile_goes_before_what_a_repair_had_in_mind(
    filled: Path, tmp_path: Path, oracle: Any
) -> None:
    good = (filled / "catalog.sqlite").read_bytes()
    change_a_cell(filled / "catalog.sqlite")
    counted = FaultyFiles(0, lambda: None)
    shutil.copytree(filled, tmp_path / "count")
    repair(tmp_path / "count", **OWNED, files=counted)
    decided = 0
    for at in range(1, counted.count + 1):
        path = tmp_path / "cut"
        shutil.copytree(filled, path)
        with pytest.raises(KeyboardInterrupt):
            repair(path, **OWNED, files=FaultyFiles(at, fail_with(KeyboardInterrupt())))
        if (path / "catalog.sqlite").exists() and not (path / "damaged/1/catalog.sqlite").exists():
            decided += (path / "damaged/1/unfinished.json").exists()
            (path / "catalog.sqlite").write_bytes(good)
            assert repair(path).lost == ()
            oracle.check_path(path)
            assert verify(path, deep=True).ok and not (path / REPAIRED).exists()
        shutil.rmtree(path)
    assert decided > 0


class MovingDisk(SimulatedDisk):
    """Knows moves between directories: a file that has gone from the one is in the other for sure."""

    def rename(self, source: Path, target: Path) -> None:
        if source.parent == target.parent or source.name.startswith("catalog.sqlite"):
            super().rename(source, target)
            return
        self.freeze(f"move to {target.relative_to(self.root)}")
        FileOperations.rename(self, source, target)
        left, right = self._directory(source.parent), self._directory(target.parent)
        right.durable = {**right.durable, target.name: left.now()[source.name]}
        left.pending.append({source.name: None})


@pytest.mark.fault
def test_a_power_cut_during_a_repair_costs_nothing_more(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurt_shards(filled)
    shutil.copytree(filled, tmp_path / "expected")
    repair(tmp_path / "expected")
    expected, set_aside = contents(tmp_path / "expected"), aside(tmp_path / "expected")
    disk = MovingDisk(filled, 2)
    commit = CatalogWriter.commit

    def frozen_commit(*arguments: Any) -> None:
        disk.freeze("commit")
        before = disk.wal_bytes()
        commit(*arguments)
        disk.freeze("within the commit", inside=True, wal_before=before)

    monkeypatch.setattr(CatalogWriter, "commit", frozen_commit)
    repair(filled, files=disk)
    disk.freeze("end")
    monkeypatch.undo()
    rng = random.Random(0)
    for frozen in disk.frozen[::-3]:
        for chance, sector in ((0.0, 512), (0.5, 4096), (1.0, 512)):
            found = tmp_path / "found"
            frozen.write_to(found, rng, chance, sector)
            repair(found)
            assert verify(found, deep=True).ok, frozen.operation
            assert contents(found) == expected, frozen.operation
            assert aside(found) == set_aside, frozen.operation
            shutil.rmtree(found)
    assert len(disk.frozen) > 40


@pytest.mark.parametrize("name", ["catalog.sqlite", "zarr.json"])
def test_a_file_of_another_store_is_not_taken_for_the_truth(tmp_path: Path, oracle_of: Any, name: str) -> None:
    """Its records would pass for this store's, or the other way round."""
    for seed, folder in enumerate(("one", "other")):
        oracle = oracle_of(seed=seed)
        with oracle.create(tmp_path / folder) as store, store.transaction() as txn:
            oracle.add(txn)
    original = (tmp_path / "one" / name).read_bytes()
    shutil.copy(tmp_path / "other" / name, tmp_path / "one" / name)
    for dry_run in (True, False):
        with pytest.raises(DamagedStoreError, match="another store"):
            repair(tmp_path / "one", dry_run=dry_run)
    (tmp_path / "one" / name).write_bytes(original)
    assert verify(tmp_path / "one", deep=True).ok

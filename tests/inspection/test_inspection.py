"""What is gathered of a store equals what was put in, and of a damaged one all that can be read is still told."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mome_store.errors import StoreNotFoundError
from mome_store.inspection import Contents, Inspection, RowState, inspect_store
from mome_store.runtime.trace import Trace, TraceWriter
from mome_store.store import ExpertStore, Memory, set_pool_memories, statistics

from .conftest import KEY_DIM, ROWS_PER_SHARD, SCHEMA, Lived


def contents_of(inspection: Inspection) -> Contents:
    assert inspection.contents is not None
    return inspection.contents


def rows(contents: Contents, array: str, state: RowState) -> int:
    return sum(shard.count(state) for shard in contents.shards if shard.array == array)


def flip(file: Path, byte: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)


def test_statistics_are_those_of_mome_inspect(lived: Lived) -> None:
    assert contents_of(inspect_store(lived.path)).statistics == statistics(lived.path)


def test_every_row_of_every_shard_is_live_dead_or_never_written(lived: Lived) -> None:
    contents = contents_of(inspect_store(lived.path))
    live = sum(len(experts) for experts in lived.experts.values())
    assert rows(contents, "experts", RowState.LIVE) == live
    assert rows(contents, "experts", RowState.DEAD) == 18 - live
    assert rows(contents, "keys", RowState.LIVE) == 2 * len(lived.keys)
    assert rows(contents, "keys", RowState.DEAD) == 2 * len(lived.removed)
    for shard in contents.shards:
        assert shard.rows == ROWS_PER_SHARD == sum(shard.count(state) for state in RowState)
        assert len(shard.stretches) == ROWS_PER_SHARD
    # group 1 has two experts, groups 2 and 3 are gone: rows 0 to 3 of the first shard
    assert contents.shards[0].stretches[:, RowState.LIVE].tolist() == [1, 1, 0, 0]
    assert contents.shards[0].stretches[:, RowState.DEAD].tolist() == [0, 0, 1, 1]
    # each commit began a shard of its own: six experts are four rows and two, with two that were never written
    assert contents.shards[1].stretches[:, RowState.NEVER_WRITTEN].tolist() == [0, 0, 1, 1]


def test_sizes_are_those_of_the_files(lived: Lived) -> None:
    (lived.path / "experts" / "c" / "99").mkdir()
    (lived.path / "experts" / "c" / "99" / "0").write_bytes(b"left of a crash")
    inspection = inspect_store(lived.path)
    found = sum(file.stat().st_size for file in lived.path.rglob("*") if file.is_file() and file.name != "LOCK")
    assert inspection.sizes.total == found
    assert (inspection.sizes.unnamed, inspection.sizes.unnamed_files) == (15, 1)
    assert inspection.sizes.live == contents_of(inspection).statistics.bytes_live
    assert inspection.sizes.dead == contents_of(inspection).statistics.bytes_dead


def test_compaction_is_due_where_small_files_could_be_few(tmp_path: Path, lived: Lived) -> None:
    experts, keys = contents_of(inspect_store(lived.path)).compactions
    assert (experts.shards, experts.needed) == (6, 4) and (keys.shards, keys.needed) == (9, 6)
    assert not experts.due and not keys.due
    with ExpertStore.create(tmp_path / "many", SCHEMA, KEY_DIM, rows_per_shard=64) as store:
        for _ in range(6):
            with store.transaction() as txn:
                txn.add_group(lived.experts[1], lived.keys[1])
    assert all(each.due and each.needed == 1 for each in contents_of(inspect_store(tmp_path / "many")).compactions)


def test_the_history_tells_what_each_commit_added_and_what_of_it_is_live(lived: Lived) -> None:
    history = contents_of(inspect_store(lived.path)).history
    assert history.ids.tolist() == [0, 1, 2, 3, 4]
    assert history.groups_added.tolist() == [0, 5, 5, 5, 0]
    assert history.groups_live.tolist() == [0, *(len(set(own) - set(lived.removed)) for own in lived.added), 0]
    assert history.experts_added.tolist() == [0, 6, 6, 6, 0]
    assert history.experts_live.sum() == sum(len(experts) for experts in lived.experts.values())
    assert (np.diff(history.times_us) >= 0).all()


def test_norms_are_those_of_the_whole_product(lived: Lived) -> None:
    norms = contents_of(inspect_store(lived.path)).norms
    assert norms.modules == tuple(SCHEMA.modules) and not norms.sampled
    with ExpertStore.open(lived.path) as store, store.snapshot() as snapshot:
        assert sorted(norms.expert_ids.tolist()) == snapshot.expert_ids.tolist()
        for expert_id, found in zip(norms.expert_ids.tolist(), norms.values, strict=True):
            for (a, b), norm in zip(snapshot.read_expert(expert_id).values(), found, strict=True):
                product = b.astype(np.float64) @ a.astype(np.float64)
                assert norm == pytest.approx(SCHEMA.alpha / len(a) * np.linalg.norm(product), rel=1e-9)
    assert norms.whole[norms.largest(1)[0]] == norms.whole.max()


def test_usage_counts_the_groups_of_the_experts_asked_for(lived: Lived, tmp_path: Path) -> None:
    with ExpertStore.open(lived.path) as store, store.snapshot() as snapshot:
        first = snapshot.group(1).expert_ids  # two experts that act together: one use
        fourth = snapshot.group(4).expert_ids
    with TraceWriter(tmp_path / "trace", SCHEMA.record_bytes) as trace:
        trace.append([first, fourth], when=20.0)
        trace.append([fourth, fourth, np.array([10**9])], when=10.0)
    usage = contents_of(inspect_store(lived.path, Trace.load(tmp_path / "trace"))).usage
    assert usage is not None
    assert (usage.group_ids.tolist(), usage.uses.tolist()) == ([4, 1], [3, 1])
    assert usage.never.tolist() == [group for group in sorted(lived.keys) if group not in (1, 4)]
    assert (usage.requests, usage.batches, usage.gone) == (6, 2, 1)
    assert (usage.first, usage.last) == (10.0, 20.0)
    assert usage.groups_for(0.5) == 1 and usage.groups_for(0.9) == 2


def test_memories_come_newest_first_with_the_time_of_their_commit(lived: Lived) -> None:
    contents = contents_of(inspect_store(lived.path))
    expected = [group for group in sorted(lived.keys, reverse=True) if group % 5]
    assert [shown.group_id for shown in contents.memories] == expected
    assert contents.memories_total == len(expected)
    times = dict(zip(contents.history.ids.tolist(), contents.history.times_us.tolist(), strict=True))
    assert all(shown.since_us == times[(shown.group_id + 4) // 5] for shown in contents.memories if shown.group_id)


def test_a_pool_shows_the_facts_that_its_experts_share(lived: Lived) -> None:
    with ExpertStore.open(lived.path, mode="r+") as store, store.transaction() as txn:
        set_pool_memories(txn, [Memory("shared?", "yes")])
    contents = contents_of(inspect_store(lived.path))
    assert contents.memories[-1].memory.question == "shared?" and contents.memories[-1].group_id is None


def test_an_empty_store_has_empty_pictures(tmp_path: Path) -> None:
    ExpertStore.create(tmp_path / "s", SCHEMA, KEY_DIM).close()
    inspection = inspect_store(tmp_path / "s", deep=True)
    contents = contents_of(inspection)
    assert inspection.damage == () and contents.shards == () and contents.memories == ()
    assert contents.neighbours.pairs == () and len(contents.norms.values) == 0


def test_a_missing_shard_is_damage_and_all_else_is_still_told(lived: Lived) -> None:
    whole = contents_of(inspect_store(lived.path))
    shutil.rmtree(lived.path / "experts" / "c" / "1")
    inspection = inspect_store(lived.path)
    contents = contents_of(inspection)
    assert [(each.file, each.problem) for each in inspection.damage] == [("experts/c/1/0", "the shard is missing")]
    assert contents.shards[1].count(RowState.DAMAGED) == 2 and contents.shards[1].problem
    assert contents.shards[0].stretches.tolist() == whole.shards[0].stretches.tolist()
    assert contents.norms.unreadable == 2 and len(contents.norms.values) == len(whole.norms.values) - 2
    assert contents.memories == whole.memories and contents.neighbours.pairs == whole.neighbours.pairs


def test_a_flipped_record_is_one_damaged_row(lived: Lived) -> None:
    flip(lived.path / "experts" / "c" / "0" / "0", SCHEMA.record_bytes + 5)
    inspection = inspect_store(lived.path, deep=True)
    assert [(each.file, each.row) for each in inspection.damage] == [("experts/c/0/0", 1)]
    shard = contents_of(inspection).shards[0]
    assert shard.stretches[:, RowState.DAMAGED].tolist() == [0, 1, 0, 0] and shard.problem is None
    assert contents_of(inspection).norms.unreadable == 1


def test_flipped_keys_are_found_even_where_only_what_is_needed_is_read(lived: Lived) -> None:
    flip(lived.path / "keys" / "c" / "0" / "0", 5)
    inspection = inspect_store(lived.path)
    assert [each.file for each in inspection.damage] == ["keys/c/0/0"]
    neighbours = contents_of(inspection).neighbours
    assert neighbours.unreadable == 2 and neighbours.compared == neighbours.keys - 2


def test_a_damaged_memory_is_left_out_and_named(lived: Lived) -> None:
    with sqlite3.connect(lived.path / "catalog.sqlite") as connection:
        connection.execute("UPDATE memories SET answer = 'x' WHERE question = 'Who is 1-1?'")
    connection.close()
    inspection = inspect_store(lived.path)
    assert len(inspection.damage) == 1 and "memory" in inspection.damage[0].problem
    contents = contents_of(inspection)
    assert contents.unreadable_memories == 1 and len(contents.memories) == contents.memories_total - 1
    assert "Who is 1-1?" not in [shown.memory.question for shown in contents.memories]


@pytest.mark.parametrize("what", ["missing", "changed"])
def test_without_a_catalogue_the_files_and_the_damage_are_told(lived: Lived, what: str) -> None:
    catalog = lived.path / "catalog.sqlite"
    if what == "missing":
        catalog.unlink()
    else:
        with sqlite3.connect(catalog) as connection:
            connection.execute("UPDATE experts SET row = row + 1 WHERE row = (SELECT max(row) FROM experts)")
        connection.close()
    inspection = inspect_store(lived.path)
    assert inspection.contents is None and inspection.damage
    assert inspection.attributes is not None and inspection.attributes["key_dim"] == KEY_DIM
    assert inspection.sizes.unnamed_files == 15


def test_a_damaged_zarr_json_does_not_hide_the_contents(lived: Lived) -> None:
    (lived.path / "zarr.json").write_text("no json")
    inspection = inspect_store(lived.path)
    assert inspection.damage and contents_of(inspection).statistics.groups == len(lived.keys)


def test_a_place_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        inspect_store(tmp_path)


def test_inspecting_changes_no_file_and_makes_none(lived: Lived) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        files = (file for file in lived.path.rglob("*") if file.is_file())
        return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    before = state()
    assert inspect_store(lived.path, deep=True).damage == ()
    assert state() == before


def test_a_store_that_may_only_be_read_is_inspected(lived: Lived) -> None:
    with tempfile.TemporaryDirectory() as place:  # other users may enter this one; pytest's own are private
        path = Path(shutil.copytree(lived.path, Path(place) / "s"))
        for file in [path, *path.rglob("*")]:
            file.chmod(0o555 if file.is_dir() else 0o444)
        Path(place).chmod(0o555)
        inspect_store(path)  # what is imported on the way may be out of the child's reach
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if os.getuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                found = inspect_store(path, deep=True)
                code = 0 if found.damage == () and found.contents and not os.access(path, os.W_OK) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for folder in [Path(place), path, *path.rglob("*")]:
            folder.chmod(0o755)

"""Damage to any file gives exact data or a typed error, never other data; `verify` lists all of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np
import pytest

from mome_store.errors import DamagedStoreError, FormatVersionError, MomeError, StoreNotFoundError
from mome_store.store import ExpertStore, Memory, expert_store, verify

FLIPS_PER_FILE = 50
CUTS_PER_FILE = 12
FILES = ["zarr.json", "experts/zarr.json", "keys/zarr.json", "catalog.sqlite", "experts/c/1/0", "keys/c/3/0", "LOCK"]


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def read_everything(path: Path) -> list[Any]:
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        keys, groups = snapshot.keys()
        return [
            snapshot.commit,
            store.schema,
            store.base_model,
            snapshot.expert_ids.tolist(),
            [snapshot.read_record(i) for i in snapshot.expert_ids.tolist()],
            [repr(snapshot.group(i)) for i in snapshot.group_ids.tolist()],
            keys.tobytes(),
            groups.tolist(),
            list(snapshot.memories()),
            snapshot.meta("router"),
        ]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_never_passes_for_data(filled: Path, name: str) -> None:
    expected = read_everything(filled)
    original = (filled / name).read_bytes()
    bits = np.random.default_rng(0).permutation(8 * len(original))[:FLIPS_PER_FILE].tolist()
    seen = 0
    for bit in bits:
        flip(filled / name, bit)
        try:
            assert read_everything(filled) == expected
        except (DamagedStoreError, FormatVersionError, StoreNotFoundError):
            seen += 1
            with contextlib.suppress(FormatVersionError, StoreNotFoundError):
                assert not verify(filled, deep=True).ok
        (filled / name).write_bytes(original)
    assert seen or name == "LOCK"
    assert read_everything(filled) == expected


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_never_passes_for_data(filled: Path, name: str) -> None:
    expected = read_everything(filled)
    size = (filled / name).stat().st_size
    for left in np.linspace(0, size - 2, CUTS_PER_FILE, dtype=int).tolist():
        original = (filled / name).read_bytes()
        os.truncate(filled / name, left)
        if name == "LOCK":
            assert read_everything(filled) == expected
        else:
            with pytest.raises(DamagedStoreError) as raised:
                read_everything(filled)
            assert raised.value.file == name and not verify(filled).ok
        (filled / name).write_bytes(original)


CELLS = {
    "commits": ["time_us", "next_group", "digest"],
    "shards": ["rows", "bytes", "index_crc", "content_crc", "retired"],
    "groups": ["mode", "activation", "memory", "retired"],
    "experts": ["id", "group_id", "retired"],
    "keys": ["group_id", "retired"],
    "memories": ["name", "question", "paraphrases", "answer", "status", "nll", "tuned_at", "crc"],
    "meta": ["name", "value", "retired"],
}


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, columns in CELLS.items() for column in columns]
)
def test_a_changed_cell_of_the_catalogue_is_damage(filled: Path, table: str, column: str) -> None:
    """SQLite does not notice; our checksums must."""
    with sqlite3.connect(filled / "catalog.sqlite") as connection:
        text = column in ("name", "question", "answer", "status", "tuned_at", "value", "paraphrases")
        value = f"coalesce({column}, '') || 'x'" if text else f"coalesce({column}, 0) + 1"
        connection.execute(f"UPDATE {table} SET {column} = {value} WHERE rowid = (SELECT max(rowid) FROM {table})") if (
            table not in ("shards", "meta")
        ) else connection.execute(
            f"UPDATE {table} SET {column} = {value} WHERE created = (SELECT max(created) FROM {table})"
        )
    connection.close()
    with pytest.raises(DamagedStoreError) as raised:
        read_everything(filled)
    assert raised.value.file == "catalog.sqlite"
    assert not verify(filled).ok


@pytest.mark.parametrize("table", ["commits", "shards", "groups", "experts", "keys", "memories", "meta"])
def test_a_lost_row_of_the_catalogue_is_damage(filled: Path, table: str) -> None:
    with sqlite3.connect(filled / "catalog.sqlite") as connection:
        first = connection.execute(f"SELECT * FROM {table} WHERE true LIMIT 1").description[0][0]
        condition = "retired IS NULL" if table not in ("commits", "memories") else "true"
        connection.execute(f"DELETE FROM {table} WHERE {first} = (SELECT max({first}) FROM {table} WHERE {condition})")
    connection.close()
    with pytest.raises(DamagedStoreError):
        read_everything(filled)
    assert not verify(filled).ok


def test_damage_to_the_tables_definitions_is_damage_even_where_sqlites_message_is_not_text(filled: Path) -> None:
    file = filled / "catalog.sqlite"
    original = file.read_bytes()
    for word in (b"paraphrases", b"INTEGER", b"STRICT", b"experts_by_group"):
        flip(file, 8 * original.index(word) + 7)
        with pytest.raises(DamagedStoreError):
            read_everything(filled)
        assert not verify(filled).ok
        file.write_bytes(original)


def test_a_table_that_is_defined_otherwise_is_damage_though_its_rows_are_read_all_the_same(filled: Path) -> None:
    file = filled / "catalog.sqlite"
    original = file.read_bytes()
    expected = read_everything(filled)
    for word in (b"time_us", b"next_group", b"next_keys_shard"):
        flip(file, 8 * original.index(word))
        assert read_everything(filled) == expected
        [damage] = verify(filled).damage
        assert damage.file == "catalog.sqlite" and "definition" in damage.problem
        file.write_bytes(original)


def test_a_catalogue_that_ends_within_a_page_is_damage_though_sqlite_takes_what_is_missing_for_zeros(
    filled: Path,
) -> None:
    truncate(filled / "catalog.sqlite")
    assert "the file ends within a page" in [damage.problem for damage in verify(filled).damage]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("zarr.json", b'"zarr_format": 3', b'"zarr_format": 2'),
        ("zarr.json", b'"node_type": "group"', b'"node_type": "grouq"'),
        ("zarr.json", b'"node_type"', b'"nodf_type"'),
    ],
)
def test_a_root_that_zarr_would_not_open_is_damage(filled: Path, name: str, old: bytes, new: bytes) -> None:
    content = (filled / name).read_bytes()
    assert old in content
    (filled / name).write_bytes(content.replace(old, new))
    with pytest.raises(DamagedStoreError) as raised:
        ExpertStore.open(filled)
    assert raised.value.file == name
    assert [damage.file for damage in verify(filled).damage] == [name]


def test_an_unknown_format_is_told_of_with_the_file_that_says_so(filled: Path) -> None:
    file = filled / "zarr.json"
    file.write_bytes(file.read_bytes().replace(b'"format": 1', b'"format": 5'))
    with pytest.raises(FormatVersionError, match=r"zarr\.json: store format 5"):
        ExpertStore.open(filled)


@pytest.mark.parametrize("name", ["zarr.json", "experts/zarr.json", "keys/zarr.json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 100_000, b"\xff\xfe" * 9, b""])
def test_metadata_that_no_parser_likes_is_damage(filled: Path, name: str, content: bytes) -> None:
    (filled / name).write_bytes(content)
    with pytest.raises(DamagedStoreError) as raised:
        ExpertStore.open(filled)
    assert raised.value.file == name
    assert [damage.file for damage in verify(filled).damage] == [name]


def test_a_row_whose_types_damage_has_changed_is_damage(filled: Path) -> None:
    """The bytes before a row's values say what each of them is: text may become a number."""
    expected, file = read_everything(filled), filled / "catalog.sqlite"
    original = file.read_bytes()
    refused = 0
    for text in (b'{"base_model"', b'{"threshold"', b"What?"):
        start = original.index(text)
        for bit in range(8 * (start - 40), 8 * start):
            flip(file, bit)
            try:
                assert read_everything(filled) == expected
            except MomeError:
                refused += 1
            file.write_bytes(original)
    assert refused > 500


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def swap_index_entries(file: Path) -> None:
    content = bytearray(file.read_bytes())
    index = len(content) - 4 - 16 * 4
    content[index : index + 16], content[index + 16 : index + 32] = (
        content[index + 16 : index + 32],
        content[index : index + 16],
    )
    content[-4:] = google_crc32c.value(bytes(content[index:-4])).to_bytes(4, "little")
    file.write_bytes(content)


HARMS = {
    "gone": Path.unlink,
    "cut": truncate,
    "empty": lambda file: os.truncate(file, 0),
    "longer": lengthen,
    "index checksum flipped": lambda file: flip(file, 8 * file.stat().st_size - 1),
    "index changed with its checksum": swap_index_entries,
}


@pytest.mark.parametrize("name", ["experts/c/0/0", "keys/c/2/0"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_shard_that_is_not_as_committed_is_named_when_a_snapshot_is_taken(filled: Path, name: str, harm: str) -> None:
    HARMS[harm](filled / name)
    with ExpertStore.open(filled) as store, pytest.raises(DamagedStoreError) as raised:
        store.snapshot()
    assert raised.value.file == name and name in str(raised.value)
    assert [damage.file for damage in verify(filled).damage] == [name]


def test_a_damaged_record_is_named_by_file_row_and_expert_and_the_others_stay_readable(
    filled: Path, oracle: Any
) -> None:
    flip(filled / "experts/c/1/0", 8 * 5000)  # the second row of shard 1: array row 5, the sixth expert
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        with pytest.raises(DamagedStoreError) as raised:
            snapshot.read_expert(6)
        assert (raised.value.file, raised.value.row, raised.value.expert_id) == ("experts/c/1/0", 5, 6)
        for expert_id in (1, 2, 3, 5, 7):
            snapshot.read_expert(expert_id)


def test_a_record_in_anothers_place_is_damage(filled: Path) -> None:
    file = filled / "experts/c/0/0"
    content = bytearray(file.read_bytes())
    content[:4096], content[4096:8192] = content[4096:8192], content[:4096]
    file.write_bytes(content)
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        for expert_id in (1, 2):
            with pytest.raises(DamagedStoreError, match="expert_id"):
                snapshot.read_record(expert_id)


def test_damage_that_comes_after_the_snapshot_was_taken_is_an_error_too(filled: Path) -> None:
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        os.truncate(filled / "experts/c/1/0", 100)
        with pytest.raises(DamagedStoreError, match="ends at byte"):
            snapshot.read_record(5)


def test_verify_finds_all_damage_at_once(filled: Path) -> None:
    assert verify(filled).ok and verify(filled, deep=True) == verify(filled)
    flip(filled / "experts/c/0/0", 8 * 10)
    flip(filled / "experts/c/1/0", 8 * (4096 + 10))
    flip(filled / "keys/c/0/0", 8 * 10)
    (filled / "keys/c/1/0").unlink()
    truncate(filled / "keys/c/2/0")
    (filled / "experts/zarr.json").write_text("{")
    fast, deep = verify(filled), verify(filled, deep=True)
    shallow = {"experts/zarr.json", "keys/c/1/0", "keys/c/2/0"}
    assert not fast.ok and {d.file for d in fast.damage} == shallow and len(fast.damage) == 3
    assert {d.file for d in deep.damage} == shallow | {"experts/c/0/0", "experts/c/1/0", "keys/c/0/0"}
    assert {(d.row, d.expert_id) for d in deep.damage if d.expert_id is not None} == {(0, 1), (5, 6)}
    assert len(deep.damage) == 6 and deep.commit == 2


def test_verify_finds_every_damaged_memory(filled: Path) -> None:
    with sqlite3.connect(filled / "catalog.sqlite") as connection:
        connection.execute("UPDATE memories SET answer = 'other' WHERE id IN (1, 3)")
    connection.close()
    problems = [damage.problem for damage in verify(filled).damage]
    assert len(problems) == 2 and "memory 1" in problems[0] and "memory 3" in problems[1]


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_an_unreadable_catalogue_is_damage(filled: Path, content: bytes | None) -> None:
    (filled / "catalog.sqlite").unlink()
    if content is not None:
        (filled / "catalog.sqlite").write_bytes(content)
    for mode in ("r", "r+"):
        with pytest.raises(DamagedStoreError, match=r"catalog\.sqlite"):
            ExpertStore.open(filled, mode)
    report = verify(filled, deep=True)
    assert not report.ok and report.commit is None and report.damage[0].file == "catalog.sqlite"


def test_a_store_whose_zarr_json_is_gone_is_damaged_and_never_created_anew(filled: Path, oracle: Any) -> None:
    original = (filled / "zarr.json").read_bytes()
    (filled / "zarr.json").unlink()
    with pytest.raises(DamagedStoreError, match=r"zarr\.json"):
        ExpertStore.open(filled)
    with pytest.raises(MomeError):
        oracle.create(filled)
    assert [damage.file for damage in verify(filled).damage] == ["zarr.json"]
    (filled / "zarr.json").write_bytes(original)
    oracle.check_path(filled)


@pytest.mark.parametrize(("name", "value"), [("key_dim", 4), ("base_model", {"name": "other"}), ("encoder", {})])
def test_attributes_that_differ_from_the_catalogue_are_damage(filled: Path, name: str, value: Any) -> None:
    document = json.loads((filled / "zarr.json").read_text())
    document["attributes"]["mome"][name] = value
    (filled / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(DamagedStoreError, match="differs"):
        ExpertStore.open(filled)
    assert [damage.file for damage in verify(filled).damage] == ["zarr.json"]


@pytest.mark.parametrize("name", ["catalog.sqlite", "zarr.json"])
def test_a_file_of_another_store_that_looks_alike_is_refused(tmp_path: Path, oracle_of: Any, name: str) -> None:
    """The same schema, shards and ids: each record by itself would pass."""
    for seed, folder in enumerate(("one", "other")):
        oracle = oracle_of(seed=seed)
        with oracle.create(tmp_path / folder) as store, store.transaction() as txn:
            oracle.add(txn, memory=Memory("q", folder))
    shutil.copy(tmp_path / "other" / name, tmp_path / "one" / name)
    with pytest.raises(DamagedStoreError, match="another store"):
        ExpertStore.open(tmp_path / "one")
    assert [damage.file for damage in verify(tmp_path / "one").damage] == ["zarr.json"]


def test_a_store_made_before_there_were_ids_opens(tmp_path: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(expert_store, "uuid4", lambda: SimpleNamespace(hex=None))
        with oracle.create(tmp_path / "s") as store, store.transaction() as txn:
            oracle.add(txn)
    assert "mome_id" not in json.loads((tmp_path / "s" / "zarr.json").read_text())["attributes"]
    with ExpertStore.open(tmp_path / "s", "r+") as store, store.transaction() as txn:
        oracle.add(txn)
    oracle.check_path(tmp_path / "s")
    assert verify(tmp_path / "s", deep=True).ok


def test_zarr_json_may_describe_more_rows_but_not_fewer(filled: Path, oracle: Any) -> None:
    path = filled / "experts" / "zarr.json"
    document = json.loads(path.read_text())
    document["shape"][0] += 100
    path.write_text(json.dumps(document))
    oracle.check_path(filled)
    assert verify(filled).ok
    document["shape"][0] = 6
    path.write_text(json.dumps(document))
    with pytest.raises(DamagedStoreError, match="shape"):
        ExpertStore.open(filled)


def test_no_file_stays_open_whatever_is_found(filled: Path, oracle: Any) -> None:
    def everything() -> None:
        for deep in (False, True):
            verify(filled, deep)
        for mode in ("r", "r+"):
            with contextlib.suppress(DamagedStoreError), ExpertStore.open(filled, mode) as store, store.snapshot():
                pass
        with contextlib.suppress(MomeError):
            oracle.create(filled)

    before = os.listdir("/proc/self/fd")
    everything()
    for name in ("keys/c/3/0", "experts/c/0/0", "experts/zarr.json", "catalog.sqlite", "zarr.json"):
        truncate(filled / name)
        everything()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_copied_store_is_as_good_as_the_first(filled: Path, tmp_path: Path, oracle: Any) -> None:
    shutil.copytree(filled, tmp_path / "copy")
    oracle.check_path(tmp_path / "copy")
    assert verify(tmp_path / "copy", deep=True).ok


@pytest.mark.parametrize("table", ["experts", "keys"])
def test_a_writer_never_goes_by_a_damaged_index_which_no_reader_looks_at(filled: Path, oracle: Any, table: str) -> None:
    """Every bit of the index's page that is in use: the group that is removed is the one that was meant."""
    file = filled / "catalog.sqlite"
    with sqlite3.connect(file) as connection:
        query = "SELECT rootpage, (SELECT * FROM pragma_page_size) FROM sqlite_schema WHERE name = ?"
        page, size = connection.execute(query, (f"{table}_by_group",)).fetchone()
    connection.close()
    original = {name: name.read_bytes() for name in filled.rglob("*") if name.is_file()}
    content = original[file][(page - 1) * size :][:size]
    used = [*range(8 + 2 * int.from_bytes(content[3:5], "big")), *range(int.from_bytes(content[5:7], "big"), size)]
    group_id = sorted(oracle.groups)[1]
    after = dict(oracle.groups)
    del after[group_id]
    refused = 0
    for bit in (8 * at + i for at in used for i in range(8)):
        flip(file, 8 * (page - 1) * size + bit)
        oracle.groups = dict(after)
        try:
            with ExpertStore.open(filled, "r+") as store, store.transaction() as txn:
                txn.remove_group(group_id)
            oracle.check_path(filled)
        except DamagedStoreError as error:
            assert error.file == "catalog.sqlite"
            refused += 1
        for leftover in filled.glob("catalog.sqlite-*"):
            leftover.unlink()
        for name, whole in original.items():
            name.write_bytes(whole)
    assert refused > len(used)

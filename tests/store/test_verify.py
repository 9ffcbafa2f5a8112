"""`verify --deep`: every bad row by itself, whatever the disk does; its progress; a store that changes meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome_store import _core
from mome_store.errors import SchemaError
from mome_store.store import ExpertStore, Transaction, shard_check, verify
from mome_store.store.catalog import load_state
from mome_store.store.verify import shard_damage

from .test_damage import flip

RECORD = 4096


@pytest.fixture
def many(tmp_path: Path, oracle: Any) -> Path:
    """A store with ten full shards of experts in one commit."""
    with oracle.create(tmp_path / "s", automatic_compaction=False) as store, store.transaction() as txn:
        oracle.add_many(txn, 40)
    return tmp_path / "s"


def failing_reads(monkeypatch: Any, fails: Callable[[int, int, int], int | None]) -> None:
    """Reads for which `fails(fd, offset, length)` gives an errno fail with it."""
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        number = fails(fd, offset, len(buffers[0]))
        if number is not None:
            raise OSError(number, os.strerror(number))
        return real(fd, buffers, offset)

    monkeypatch.setattr(shard_check.os, "preadv", preadv)


@pytest.mark.parametrize("piece", [RECORD, 3 * RECORD, 8 << 20])
def test_all_damage_is_found_in_order_however_the_file_is_cut_into_pieces(
    many: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(shard_check, "_PIECE_BYTES", piece)
    for row in range(0, 40, 3):
        flip(many / f"experts/c/{row // 4}/0", 8 * (row % 4 * RECORD + row))
    for shard in (0, 7, 19):
        flip(many / f"keys/c/{shard}/0", 5)
    damage = verify(many, deep=True).damage
    experts = [(found.row, found.expert_id) for found in damage if found.expert_id is not None]
    assert experts == [(row, row + 1) for row in range(0, 40, 3)]
    assert [found.file for found in damage if found.expert_id is None] == [f"keys/c/{n}/0" for n in (0, 7, 19)]
    assert all("checksum" in found.problem for found in damage)


def test_a_block_that_can_not_be_read_condemns_its_record_alone(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {many / "experts/c/2/0": 2 * RECORD, many / "keys/c/1/0": 0}

    def fails(fd: int, offset: int, length: int) -> int | None:
        at = bad.get(Path(os.readlink(f"/proc/self/fd/{fd}")))
        return errno.EIO if at is not None and offset <= at < offset + length else None

    failing_reads(monkeypatch, fails)
    experts, keys = verify(many, deep=True).damage
    assert (experts.file, experts.row, experts.expert_id) == ("experts/c/2/0", 10, 11)
    assert experts.problem == "can't be read: Input/output error"
    assert (keys.file, keys.row) == ("keys/c/1/0", None) and "can't be read" in keys.problem


def test_a_file_that_ends_while_it_is_read_is_damage(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shard_check._Source

    def cut_short(shard: Any) -> Any:
        source = real(shard)
        if shard.file == "experts/c/3/0":
            os.truncate(many / shard.file, 2 * RECORD + 10)
        return source

    monkeypatch.setattr(shard_check, "_Source", cut_short)
    damage = verify(many, deep=True).damage
    assert [found.row for found in damage] == [14, 15] and "the file ends at byte" in damage[0].problem


def test_a_file_system_that_refuses_direct_reads_is_read_plainly(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def fails(fd: int, offset: int, length: int) -> int | None:
        if flags_of(fd) & os.O_DIRECT:
            refused.append(fd)
            return errno.EINVAL
        return None

    failing_reads(monkeypatch, fails)
    flip(many / "experts/c/0/0", 8 * RECORD)
    assert [found.row for found in verify(many, deep=True).damage] == [1]
    try:
        os.close(os.open(many / "experts/c/0/0", os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of this folder has no direct reads")
    assert refused


def flags_of(fd: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))


@pytest.mark.parametrize("deep", [False, True])
def test_progress_ends_at_all_bytes_even_where_shards_are_gone(many: Path, deep: bool) -> None:
    told: list[tuple[int, int]] = []
    assert verify(many, deep, on_progress=lambda *numbers: told.append(numbers)).ok
    assert told == sorted(told) and len({total for _, total in told}) == 1
    with ExpertStore.open(many) as store, store.snapshot() as snapshot:
        size = sum(shard.bytes for shard in snapshot.shards)
    assert told[-1] == ((size, size) if deep else (30 * (16 * 4 + 4),) * 2)
    (many / "experts/c/3/0").unlink()
    again: list[tuple[int, int]] = []
    verify(many, deep, on_progress=lambda *numbers: again.append(numbers))
    assert again[-1] == told[-1]


def test_a_compaction_meanwhile_is_no_damage_and_what_it_wrote_is_checked(many: Path, oracle: Any) -> None:
    state = load_state(many)
    with ExpertStore.open(many, "r+", automatic_compaction=False) as store:
        with store.transaction() as txn:
            for group in (1, 6, 11, 16, 21):
                oracle.remove(txn, group)
        store.compact()
    assert not (many / "experts/c/0/0").exists()
    assert list(shard_damage(many, state, deep=True)) == []
    new = max((many / "experts/c").iterdir(), key=lambda folder: int(folder.name))
    flip(new / "0", 8 * 50)
    [damage] = shard_damage(many, state, deep=True)
    assert damage.file == f"experts/c/{new.name}/0"


def test_a_key_that_is_not_finite_is_named(tmp_path: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transaction, "_check_keys", lambda *_: None)
    with oracle.create(tmp_path / "s") as store, store.transaction() as txn:
        for value in (1.0, np.nan, -np.inf, 3e38):
            keys = oracle.keys(1)
            keys[0, 7] = value
            txn.add_group([oracle.expert()], keys)
    damage = verify(tmp_path / "s", deep=True).damage
    assert [(found.row, found.problem) for found in damage] == [
        (1, "the key is not finite"),
        (2, "the key is not finite"),
    ]


def test_few_files_are_open_at_once(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    def count(done: int, total: int) -> None:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))

    before = len(os.listdir("/proc/self/fd"))
    assert verify(many, deep=True, on_progress=count).ok
    assert before < most <= before + 2 * (shard_check._WAITING + 2)
    assert len(os.listdir("/proc/self/fd")) == before


def test_rows_outside_the_buffer_are_refused() -> None:
    ids, buffer = np.array([1]), bytes(8192)
    for at in (-1, 4097, 1 << 60):
        with pytest.raises(SchemaError, match="does not lie"):
            _core.check_records(buffer, 4096, 100, 1, 0, np.array([at]), ids, ids)
        with pytest.raises(SchemaError, match="does not lie"):
            _core.keys_not_finite(buffer, 1024, np.array([at]))
    with pytest.raises(SchemaError, match="one length"):
        _core.check_records(buffer, 4096, 100, 1, 0, np.array([0, 0]), ids, ids)
    with pytest.raises(SchemaError, match="trailer"):
        _core.check_records(buffer, 32, 100, 1, 0, np.array([0]), ids, ids)
    assert _core.keys_not_finite(buffer, 1024, np.array([0, 4096])) == []

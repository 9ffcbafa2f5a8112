"""Damaged shards reach the user as errors that name file, row and expert; never as zeros or another expert's bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mome_store import DamagedStoreError, ExpertCache, ExpertStore
from mome_store.store.snapshot import Snapshot
from tests.devices import DEVICES
from tests.runtime.conftest import SCHEMA, route


def shard_of(snapshot: Snapshot, expert: int) -> Path:
    row = int(snapshot.expert_rows[np.searchsorted(snapshot.expert_ids, expert)])
    [path] = [s.path for s in snapshot.shards if s.array == "experts" and s.number == row // snapshot.rows_per_shard]
    return path


def flip_bit(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 8]))


# The first shard holds the first three experts, in order.
@pytest.mark.parametrize("offset", [0, 1000, SCHEMA.record_bytes - 64, SCHEMA.record_bytes - 1])
@pytest.mark.parametrize("device", DEVICES)
def test_a_flipped_bit_in_a_record(store_path: Path, offset: int, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot, device=device) as cache:
        first, second, third = snapshot.expert_ids.tolist()[:3]
        flip_bit(shard_of(snapshot, second), SCHEMA.record_bytes + offset)
        for _ in range(2):  # it stays an error
            with pytest.raises(DamagedStoreError) as raised:
                cache.acquire(route([first, second, third]))
            assert raised.value.expert_id == second
            assert raised.value.row == snapshot.expert_rows[1]
            assert Path(raised.value.file).name == "0"
        assert cache.stats()["leases_live"] == 0
        cache.acquire(route([first, third]))  # the others still serve


@pytest.mark.parametrize("device", DEVICES)
def test_without_record_checks_a_payload_passes_but_a_trailer_does_not(store_path: Path, device: str) -> None:
    with (
        ExpertStore.open(store_path).snapshot() as snapshot,
        ExpertCache(snapshot, device=device, verify="open") as cache,
    ):
        first, second = snapshot.expert_ids.tolist()[:2]
        path = shard_of(snapshot, first)
        flip_bit(path, 5)
        flip_bit(path, 2 * SCHEMA.record_bytes - 64 + 16)  # the second record's expert id
        cache.acquire(route([first]))
        with pytest.raises(DamagedStoreError, match="expert_id"):
            cache.acquire(route([second]))


def test_two_records_in_each_others_place(store_path: Path) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot) as cache:
        first = int(snapshot.expert_ids[0])
        path = shard_of(snapshot, first)
        content = path.read_bytes()
        size = SCHEMA.record_bytes
        with path.open("r+b") as file:
            file.write(content[size : 2 * size] + content[:size])
        with pytest.raises(DamagedStoreError, match="expert_id"):
            cache.acquire(route([first]))


def test_a_shard_cut_short_before_and_after_it_was_mapped(store_path: Path) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot) as cache:
        first, _, third = snapshot.expert_ids.tolist()[:3]
        cache.acquire(route([first]))
        os.truncate(shard_of(snapshot, first), SCHEMA.record_bytes)
        with pytest.raises(DamagedStoreError, match="bytes"):
            cache.acquire(route([third]))
        with pytest.raises(DamagedStoreError, match="bytes"):
            ExpertCache(snapshot)


@pytest.mark.parametrize("device", DEVICES)
def test_a_damaged_index(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        path = shard_of(snapshot, int(snapshot.expert_ids[0]))
        flip_bit(path, 3 * SCHEMA.record_bytes + 4)
        with pytest.raises(DamagedStoreError, match="index"):
            ExpertCache(snapshot, device=device)


def test_a_missing_shard(store_path: Path) -> None:
    with ExpertStore.open(store_path) as store:
        snapshot = store.snapshot()
        first = int(snapshot.expert_ids[0])
        shard_of(snapshot, first).unlink()
        with ExpertCache(snapshot) as cache:  # a snapshot's files are open: an unlink does not hurt it
            cache.acquire(route([first]))
        with pytest.raises(DamagedStoreError):
            ExpertCache(store.snapshot())

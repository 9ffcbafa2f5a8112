"""ExpertCache over a real store: the right bytes, checked once, pinned as long as leased; and every misuse refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mome_store import CapacityError, ClosedError, ExpertCache, ExpertSchema, ExpertStore, SchemaError, UnknownIdError
from mome_store import _core as core
from mome_store.runtime.apply import RoutedRows, apply_experts, tables_of
from mome_store.runtime.expert_cache import DTYPE_CODES, parse_bytes, record_layout
from tests.devices import DEVICES
from tests.runtime.conftest import SCHEMA, FixedRoute, add_experts, record_at, route


@given(
    modules=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=6),
    rank=st.integers(1, 70),
    dtype=st.sampled_from(list(DTYPE_CODES)),
)
def test_both_implementations_of_the_layout_agree(modules: list[tuple[int, int]], rank: int, dtype: str) -> None:
    schema = ExpertSchema({f"m{i}": (8 * a, 8 * b) for i, (a, b) in enumerate(modules)}, rank=rank, dtype=dtype)
    layout = record_layout(schema)
    assert layout.sections == [(s.a_offset, s.b_offset) for s in schema.sections.values()]
    assert (layout.payload_bytes, layout.record_bytes) == (schema.payload_bytes, schema.record_bytes)


@pytest.mark.parametrize("device", DEVICES)
def test_a_lease_points_at_the_records_of_its_route(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot, device=device) as cache:
        ids = snapshot.expert_ids.tolist()
        wanted = [[ids[5], ids[0]], [], [ids[0], ids[3], ids[1]]]
        records = [snapshot.read_record(i) for sequence in wanted for i in sequence]
        with cache.acquire(route(*wanted, weight=0.5)) as lease:
            assert lease.expert_indptr.tolist() == [0, 2, 2, 5]
            assert [record_at(a, device) for a in lease.expert_base] == records
            assert lease.expert_rank.tolist() == [4, 4, 4, 1, 3]
            assert lease.expert_weight.tolist() == [0.5] * 5


@pytest.mark.parametrize("device", DEVICES)
def test_what_the_operator_adds_is_what_the_stored_experts_say(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot, device=device) as cache:
        ids = snapshot.expert_ids.tolist()
        x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
        y = torch.zeros(3, 64)
        section = SCHEMA.sections["down"]
        with cache.acquire(route([ids[1], ids[3]], [], [ids[2]], weight=0.25)) as lease:
            each = torch.arange(3, dtype=torch.int32)
            rows = RoutedRows(each, each, tables_of(lease), device)
            again, placed = y.clone().to(device), x.to(device)
            rows.apply(SCHEMA, "down", again, placed)
            y = y.to(device)
            apply_experts(
                y, placed, each, each, *tables_of(lease)[:4], section.a_offset, section.b_offset, SCHEMA.alpha, 0
            )
            assert torch.equal(y, again)

        expected = torch.zeros(3, 64, dtype=torch.float64)
        for row, expert in ((0, ids[1]), (0, ids[3]), (2, ids[2])):
            a, b = (torch.from_numpy(m.astype(np.float64)) for m in snapshot.read_expert(expert)["down"])
            expected[row] += 0.25 * SCHEMA.alpha / len(a) * (b @ (a @ x[row].double()))
        torch.testing.assert_close(y.cpu().double(), expected, rtol=1e-5, atol=1e-5)


def test_each_record_is_checked_once_and_counted(store_path: Path) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot) as cache:
        first, second = snapshot.expert_ids.tolist()[:2]
        for _ in range(2):
            cache.acquire(route([first, first], [second])).release()
        stats = cache.stats()
        assert stats["leases"] == 2
        assert stats["leases_live"] == 0
        assert stats["experts_leased"] == 4
        assert stats["records_checked"] == 2
        assert stats["experts"] == 6
        assert stats["shards"] == 3
        assert stats["record_bytes"] == SCHEMA.record_bytes
        assert stats["slots"] is None


def test_prefetch_reads_ahead_what_was_not_used_yet(store_path: Path) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot) as cache:
        first, second = snapshot.expert_ids.tolist()[:2]
        cache.acquire(route([first]))
        cache.prefetch(route([first, second], []))
        assert cache.stats()["records_prefetched"] == 1
        with pytest.raises(UnknownIdError):
            cache.prefetch(route([first, 999]))


@pytest.mark.parametrize("device", DEVICES)
def test_unknown_ids_are_all_named(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot, device=device) as cache:
        with pytest.raises(UnknownIdError) as raised:
            cache.acquire(route([777, int(snapshot.expert_ids[0])], [999, 777]))
        assert raised.value.ids == [777, 999]
        assert raised.value.kind == "expert"


@pytest.mark.parametrize("device", DEVICES)
def test_the_capacity_counts_distinct_experts_of_one_lease(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, device=device, capacity=2 * SCHEMA.record_bytes + 100) as cache:
            assert cache.stats()["slots"] == 2
            cache.acquire(route(ids[:2], ids[:2]))
            with pytest.raises(CapacityError) as raised:
                cache.acquire(route(ids[:2], ids[2:3]))
            assert (raised.value.needed, raised.value.slots) == (3, 2)
        with pytest.raises(CapacityError):
            ExpertCache(snapshot, device=device, capacity=SCHEMA.record_bytes - 1)


def test_a_released_lease_gives_nothing_more_but_its_arrays_stay_valid(store_path: Path) -> None:
    snapshot = ExpertStore.open(store_path).snapshot()
    cache = ExpertCache(snapshot)
    expert = int(snapshot.expert_ids[2])
    expected = snapshot.read_record(expert)
    lease = cache.acquire(route([expert]))
    base = torch.from_numpy(lease.expert_base)
    lease.release()
    lease.release()
    assert lease.released
    for name in ("expert_indptr", "expert_base", "expert_rank", "expert_weight", "__enter__"):
        with pytest.raises(ClosedError):
            attribute = getattr(lease, name)
            attribute()
    cache.close()
    snapshot.close()
    assert record_at(int(base[0])) == expected  # the tensor still holds the mapping


def test_a_lease_outlives_its_cache_and_snapshot(store_path: Path) -> None:
    snapshot = ExpertStore.open(store_path).snapshot()
    expert = int(snapshot.expert_ids[4])
    expected = snapshot.read_record(expert)
    with ExpertCache(snapshot) as cache:
        lease = cache.acquire(route([expert]))
    snapshot.close()
    assert record_at(int(lease.expert_base[0])) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_a_closed_cache_says_so(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        cache = ExpertCache(snapshot, device=device)
        cache.close()
        cache.close()
        for use in (lambda: cache.acquire(route([])), lambda: cache.prefetch(route([])), cache.stats, cache.__enter__):
            with pytest.raises(ClosedError):
                use()
        with pytest.raises(ClosedError):
            cache.refresh(snapshot)


@pytest.mark.parametrize("device", DEVICES)
def test_refresh_serves_the_new_commit_and_keeps_what_was_checked(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path, mode="r+") as store, ExpertCache(store.snapshot(), device=device) as cache:
        before = store.snapshot()
        kept, removed = before.expert_ids.tolist()[:2]
        lease = cache.acquire(route([kept, removed]))
        expected = before.read_record(removed)
        [group] = add_experts(store, [2], seed=9)
        with store.transaction() as txn:
            txn.remove_group(int(before.expert_groups[1]))
        after = store.snapshot()
        cache.refresh(after)

        new = int(after.group(group).expert_ids[0])
        again = cache.acquire(route([kept, new]))
        assert again.expert_base[0] == lease.expert_base[0]
        assert record_at(int(again.expert_base[1]), device) == after.read_record(new)
        assert cache.stats()["records_checked"] == 3  # kept, removed, new
        with pytest.raises(UnknownIdError):
            cache.acquire(route([removed]))
        assert record_at(int(lease.expert_base[1])) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_threads_share_a_cache(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot, device=device) as cache:
        ids = snapshot.expert_ids.tolist()
        expected = {i: snapshot.read_record(i) for i in ids}

        def use(seed: int) -> bool:
            chosen = np.random.default_rng(seed).permutation(ids).tolist()
            with cache.acquire(route(chosen)) as lease:
                return [record_at(a, device) for a in lease.expert_base] == [expected[i] for i in chosen]

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(use, range(200)))
        assert cache.stats()["leases"] == 200
        assert cache.stats()["leases_live"] == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"device": "tpu"},
        {"policy": "belady"},
        {"reader": "io_uring"},  # without a capacity there is nothing to read into
        {"reader": "readahead", "capacity": "1MiB"},
        {"capacity": "1MiB", "staging": -1},
        {"capacity": "1MiB", "timeout": 0.0},
        {"capacity": "1MiB", "timeout": float("nan")},
        {"verify": "never"},
        {"capacity": "lots"},
        {"capacity": "12 parsecs"},
        {"capacity": -1},
        {"capacity": True},
    ],
)
def test_settings_that_do_not_work_are_refused(store_path: Path, settings: dict[str, Any]) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, pytest.raises(SchemaError):
        ExpertCache(snapshot, **settings)


@pytest.mark.parametrize(
    ("text", "count"),
    [("512MiB", 512 * 2**20), ("2 GB", 2 * 10**9), ("4096", 4096), (" 1kib ", 1024), (7, 7), ("3B", 3)],
)
def test_sizes_are_read_as_people_write_them(text: int | str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("device", DEVICES)
def test_a_route_that_does_not_pair_up_is_refused(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, ExpertCache(snapshot, device=device) as cache:
        ids = snapshot.expert_ids[:2]
        one, two = np.ones(1, np.float32), np.ones(2, np.float32)
        for wrong in (
            FixedRoute((ids,), (one,)),
            FixedRoute((ids, ids), (np.ones(4, np.float32), np.ones(0, np.float32))),
            FixedRoute((ids, ids), (two,)),
            FixedRoute((ids,), (two * np.nan,)),
        ):
            with pytest.raises(SchemaError):
                cache.acquire(wrong)


def test_the_documented_call_works(store_path: Path) -> None:
    with (
        ExpertStore.open(store_path).snapshot() as snapshot,
        ExpertCache(snapshot, device="cpu", capacity="512MiB", policy="s3fifo", reader="auto") as cache,
    ):
        assert cache.stats()["slots"] == 512 * 2**20 // SCHEMA.record_bytes


@given(data=st.binary(max_size=6000), cut=st.integers(0, 6000))
def test_crc32c_is_the_one_that_python_computes(data: bytes, cut: int) -> None:
    import google_crc32c

    assert core.crc32c(data) == google_crc32c.value(data)
    assert core.crc32c(data[cut:], core.crc32c(data[:cut])) == google_crc32c.value(data)

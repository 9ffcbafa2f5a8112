"""ExpertCache with a capacity, over a real store: slots, readers, lazy leases, the hot set, and what is counted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from ctypes import string_at
from pathlib import Path

import numpy as np
import pytest

from mome_store import CapacityError, ClosedError, DamagedStoreError, ExpertCache, ExpertStore, UnknownIdError
from mome_store.runtime.trace import Trace
from mome_store.store import Snapshot
from tests.devices import DEVICES
from tests.runtime.conftest import SCHEMA, add_experts, record_at, route
from tests.runtime.test_damage import flip_bit, shard_of

READERS = ["auto", "mmap", "pread", "io_uring"]


def slots(count: int) -> int:
    return count * SCHEMA.record_bytes


def holds(snapshot: Snapshot, cache: ExpertCache, ids: list[int]) -> bool:
    with cache.acquire(route(ids)) as lease:
        return [record_at(a, cache.device) for a in lease.expert_base] == [snapshot.read_record(i) for i in ids]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("policy", ["lru", "clock", "s3fifo", "lfu"])
@pytest.mark.parametrize("device", DEVICES)
def test_every_reader_and_policy_serves_the_right_bytes(
    store_path: Path, reader: str, policy: str, device: str
) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where there is no io_uring, its tests run what stands in
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, device=device, capacity=slots(2), reader=reader, policy=policy) as cache:
            for first in (*range(5), *range(5)):
                assert holds(snapshot, cache, ids[first : first + 2])
            stats = cache.stats()
            assert stats["slots"] == cache.slots == 2
            assert stats["evictions"] == stats["misses"] - 2 > 0
            assert stats["hits"] + stats["joins"] + stats["misses"] == stats["experts_leased"] == 20
            assert stats["bytes_from_memory"] + stats["bytes_from_disk"] == stats["misses"] * SCHEMA.record_bytes
            assert stats["policy"] == policy


@pytest.mark.parametrize("device", DEVICES)
def test_staging_buffers_change_nothing_but_the_way(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, device=device, capacity=slots(4), staging=1) as cache:
            assert all(holds(snapshot, cache, ids[i : i + 3]) for i in range(4))
            assert cache.stats()["bytes_staged"] == cache.stats()["misses"] * SCHEMA.record_bytes


@pytest.mark.parametrize("device", DEVICES)
def test_a_lease_need_not_wait_until_it_is_used(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        expert = int(snapshot.expert_ids[1])
        with ExpertCache(snapshot, device=device, capacity=slots(2), _delays=(1, 200_000)) as cache:
            lease = cache.acquire(route([expert]), wait=False)
            assert not lease.ready
            assert cache.stats()["queue_depth"] == 1
            assert record_at(lease.expert_base[0], device) == snapshot.read_record(expert)
            assert lease.ready
            assert cache.stats()["stall_p50_seconds"] > 0


@pytest.mark.parametrize("device", DEVICES)
def test_what_was_prefetched_is_joined_or_found(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, device=device, capacity=slots(4), _delays=(2, 1000)) as cache:
            cache.prefetch(route(ids[:3]))
            assert holds(snapshot, cache, ids[:3])
            assert cache.stats()["misses"] == 0
            assert cache.stats()["records_prefetched"] == 3
            with pytest.raises(UnknownIdError):
                cache.prefetch(route([ids[0], 999]))


@pytest.mark.parametrize("device", DEVICES)
def test_bytes_do_not_depend_on_timing(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, device=device, capacity=slots(4), _delays=(3, 500)) as cache:
            wrong: list[list[int]] = []

            def use(seed: int) -> None:
                rng = np.random.default_rng(seed)
                for _ in range(50):
                    chosen = rng.permutation(ids)[:2].tolist()
                    if rng.random() < 0.5:
                        cache.prefetch(route(rng.permutation(ids)[:3].tolist()))
                    if not holds(snapshot, cache, chosen):
                        wrong.append(chosen)

            threads = [threading.Thread(target=use, args=(seed,)) for seed in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not wrong


@pytest.mark.parametrize("device", DEVICES)
def test_a_route_larger_than_the_cache_is_refused_with_both_numbers(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, device=device, capacity=slots(3)) as cache:
            with pytest.raises(CapacityError) as raised:
                cache.acquire(route(ids[:2], ids[2:4]))
            assert (raised.value.needed, raised.value.slots) == (4, 3)
            assert cache.stats()["misses"] == 0
        with pytest.raises(CapacityError):
            ExpertCache(snapshot, device=device, capacity=SCHEMA.record_bytes - 1)


@pytest.mark.parametrize("device", DEVICES)
def test_slots_that_others_hold_are_waited_for_no_longer_than_the_timeout(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, device=device, capacity=slots(2), timeout=0.1) as cache:
            with cache.acquire(route(ids[:2])), pytest.raises(CapacityError):
                cache.acquire(route(ids[2:3]))
            assert holds(snapshot, cache, ids[2:3])


@pytest.mark.parametrize("device", DEVICES)
def test_the_hot_set_stays(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, device=device, capacity=slots(3)) as cache:
            cache.pin(ids[:1])
            assert all(holds(snapshot, cache, [i]) for i in ids[1:])
            before = cache.stats()["misses"]
            assert holds(snapshot, cache, ids[:1])
            assert cache.stats()["misses"] == before
            with pytest.raises(UnknownIdError):
                cache.pin([999])
            cache.pin([])
            assert cache.stats()["slots_held"] == 0


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_damaged_record_never_enters_a_lease(store_path: Path, reader: str, device: str) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        first, second, third = snapshot.expert_ids.tolist()[:3]
        flip_bit(shard_of(snapshot, second), SCHEMA.record_bytes + 100)
        with ExpertCache(snapshot, device=device, capacity=slots(4), reader=reader) as cache:
            for _ in range(2):
                with pytest.raises(DamagedStoreError) as raised:
                    cache.acquire(route([first, second]))
                assert raised.value.expert_id == second
            assert holds(snapshot, cache, [first, third])
            assert cache.stats()["slots_held"] == 0


@pytest.mark.parametrize("device", DEVICES)
def test_a_refresh_keeps_what_is_still_valid_and_leases_of_what_is_not(store_path: Path, device: str) -> None:
    with ExpertStore.open(store_path, mode="r+") as store:
        before = store.snapshot()
        kept, removed = before.expert_ids.tolist()[:2]
        with ExpertCache(before, device=device, capacity=slots(3)) as cache:
            lease = cache.acquire(route([kept, removed]))
            [group] = add_experts(store, [2], seed=9)
            with store.transaction() as txn:
                txn.remove_group(int(before.expert_groups[1]))
            after = store.snapshot()
            cache.refresh(after)
            assert record_at(lease.expert_base[1], device) == before.read_record(removed)
            misses = cache.stats()["misses"]
            assert holds(after, cache, [kept])
            assert cache.stats()["misses"] == misses
            assert holds(after, cache, after.group(group).expert_ids.tolist())
            with pytest.raises(UnknownIdError):
                cache.acquire(route([removed]))


def test_ctrl_c_ends_a_wait() -> None:
    program = f"""
import sys
from mome_store import ExpertCache, ExpertStore
from tests.runtime.conftest import SCHEMA, add_experts, route
import tempfile, os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
with tempfile.TemporaryDirectory() as folder:
    with ExpertStore.create(folder + "/store", schema=SCHEMA, key_dim=8) as store:
        add_experts(store, [2, 2], 0)
        snapshot = store.snapshot()
        cache = ExpertCache(snapshot, capacity={slots(1)}, timeout=60)
        first, second = snapshot.expert_ids.tolist()
        lease = cache.acquire(route([first]))
        print("waiting", flush=True)
        try:
            cache.acquire(route([second]))
        except KeyboardInterrupt:
            lease.release()
            cache.acquire(route([second]))
            print("interrupted, and well", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out == "interrupted, and well\n"


def test_a_forked_child_is_told_to_open_its_own(store_path: Path) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, capacity=slots(2)) as cache:
            lease = cache.acquire(route(ids[:1]))
            child = os.fork()
            if child == 0:
                good = string_at(int(lease.expert_base[0]), SCHEMA.record_bytes) == snapshot.read_record(ids[0])
                for use in (lambda: cache.acquire(route(ids[1:2])), cache.stats):
                    try:
                        use()
                        good = False
                    except ClosedError:
                        pass
                with ExpertCache(snapshot, capacity=slots(2)) as own:
                    good = good and holds(snapshot, own, ids[1:2])
                lease.release()
                cache.close()
                os._exit(0 if good else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert holds(snapshot, cache, ids[1:2])


def test_a_reader_that_can_not_be_had_is_replaced_loudly(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import ctypes, struct, sys, warnings
# A process that may not call io_uring_setup, as in many containers: seccomp answers it with EPERM.
SETUP = 425
def bpf(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
rules = bpf(0x20, 0, 0, 0) + bpf(0x15, 0, 1, SETUP) + bpf(0x06, 0, 0, 0x00050001) + bpf(0x06, 0, 0, 0x7FFF0000)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(4, rules)), 0, 0) == 0
from mome_store import ExpertCache, ExpertStore
from tests.runtime.test_slots import holds, slots
for reader in ("io_uring", "auto"):
    with ExpertStore.open(sys.argv[1]).snapshot() as snapshot, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ExpertCache(snapshot, capacity=slots(2), reader=reader) as cache:
            assert "io_uring" in str(caught[0].message) and caught[0].category is RuntimeWarning
            assert "pread" in cache.reader and cache.stats()["reader"] == cache.reader
            assert holds(snapshot, cache, snapshot.expert_ids.tolist()[:2])
"""
    done = subprocess.run([sys.executable, "-c", program, store_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no memory file system to write to")
@pytest.mark.parametrize("reader", READERS)
def test_a_store_in_a_memory_file_system_is_served(pristine_store: Path, reader: str) -> None:
    """tmpfs has no O_DIRECT on some kernels: then there is a warning, and the bytes are right all the same."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = shutil.copytree(pristine_store, Path(folder, "store"))
        with (
            ExpertStore.open(path).snapshot() as snapshot,
            ExpertCache(snapshot, capacity=slots(2), reader=reader) as cache,
        ):
            assert all(holds(snapshot, cache, [expert]) for expert in snapshot.expert_ids.tolist())
            assert "O_DIRECT" in cache.reader or reader != "io_uring" or caught


def test_prometheus_text_is_what_a_scraper_parses(store_path: Path) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, capacity=slots(2), policy="lru") as cache:
            holds(snapshot, cache, ids[:2])
            samples = {}
            for line in cache.prometheus().splitlines():
                if not line.startswith("# "):
                    name, value = line.rsplit(" ", 1)
                    samples[name] = float(value)
            labels = 'device="cpu",policy="lru"'
            assert samples[f"mome_cache_misses_total{{{labels}}}"] == 2
            assert samples[f"mome_cache_slots{{{labels}}}"] == 2
            assert f'mome_cache_stall_seconds{{{labels},quantile="0.99"}}' in samples
        with ExpertCache(snapshot) as mapped:
            assert "mome_cache_slots{" not in mapped.prometheus()


@pytest.mark.parametrize("capacity", [None, slots(4)])
def test_what_was_acquired_is_in_the_trace(store_path: Path, tmp_path: Path, capacity: int | None) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        ids = snapshot.expert_ids.tolist()
        with ExpertCache(snapshot, capacity=capacity, trace=tmp_path / "trace.jsonl") as cache:
            cache.prefetch(route(ids))
            for wanted in ([ids[:2], ids[1:3]], [[]], [ids[3:6]]):
                cache.acquire(route(*wanted)).release()
            with pytest.raises(UnknownIdError):
                cache.acquire(route([999]))
    trace = Trace.load(tmp_path / "trace.jsonl")
    assert trace.record_bytes == SCHEMA.record_bytes
    assert trace.indptr.tolist() == [0, 4, 4, 7]
    assert trace.ids.tolist() == [*ids[:2], *ids[1:3], *ids[3:6]]

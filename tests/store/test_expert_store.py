"""Opening and creating stores, transactions and snapshots: what a user of the interface can rely on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome_store.errors import (
    ClosedError,
    FormatVersionError,
    SchemaError,
    StoreExistsError,
    StoreLockedError,
    StoreNotFoundError,
    StoreReadOnlyError,
    TransactionError,
    UnknownIdError,
)
from mome_store.store import ExpertStore, Memory, statistics, verify


def test_importing_the_store_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, mome_store.store; print([m for m in ('torch', 'transformers', 'zarr') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_new_store_is_empty_and_remembers_what_it_was_made_for(tmp_path: Path, oracle: Any) -> None:
    base, encoder = {"name": "m", "layers": (1, 2)}, {"fingerprint": "é"}
    with oracle.create(tmp_path / "a" / "b", base_model=base, encoder=encoder) as store:
        assert store.mode == "r+"
    with ExpertStore.open(str(tmp_path / "a" / "b")) as store, store.snapshot() as snapshot:
        for view in (store, snapshot):
            assert (view.schema, view.key_dim, view.rows_per_shard) == (oracle.schema, 8, 4)
            assert view.base_model == {"name": "m", "layers": [1, 2]} and view.encoder == encoder
            assert view.path == tmp_path / "a" / "b"
        assert snapshot.commit == 0 and snapshot.shards == ()
        oracle.check(snapshot)


def test_what_is_committed_is_read_back_bit_for_bit(filled: Path, oracle: Any) -> None:
    oracle.check_path(filled)
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        assert snapshot.commit == 2
        assert snapshot.meta("router") == {"threshold": 0.5} and snapshot.meta("nothing", 3) == 3
        assert [(s.array, s.number, s.rows) for s in snapshot.shards] == [
            ("experts", 0, 4),
            ("experts", 1, 3),
            ("keys", 0, 4),
            ("keys", 1, 3),
            ("keys", 2, 4),
            ("keys", 3, 2),
        ]
        for shard in snapshot.shards:
            assert shard.path.stat().st_size == shard.bytes == os.fstat(shard.fd).st_size
            assert shard.first_row == 4 * shard.number


def test_statistics_count_the_live_and_the_dead(filled: Path, oracle: Any) -> None:
    found = statistics(filled)
    record = oracle.schema.record_bytes
    assert (found.commit, found.groups, found.experts_live, found.experts_dead, found.keys) == (2, 5, 6, 1, 11)
    assert (found.shards, found.record_bytes) == (6, record)
    assert (found.bytes_live, found.bytes_dead) == (6 * record + 11 * 32, record + 2 * 32)
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        assert statistics(snapshot) == found


def test_a_snapshot_stays_as_it_was_while_the_store_changes(tmp_path: Path, oracle: Any, oracle_of: Any) -> None:
    store = oracle.create(tmp_path / "s")
    with store.transaction() as txn:
        first = oracle.add(txn, memory=Memory("q", "a"))
        second = oracle.add(txn, experts=2)
        txn.set_meta("m", 1)
    before = store.snapshot()
    frozen = oracle_of()
    frozen.groups = dict(oracle.groups)
    with store.transaction() as txn:
        oracle.remove(txn, first)
        oracle.replace(txn, second)
        txn.set_meta("m", 2)
        with store.snapshot() as during:
            frozen.check(during)
    with store.snapshot() as after:
        oracle.check(after)
        assert (before.commit, after.commit) == (1, 2)
        assert (before.meta("m"), after.meta("m")) == (1, 2)
        with pytest.raises(UnknownIdError):
            after.read_record(1)
        with pytest.raises(UnknownIdError):
            after.group(first)
    store.close()
    frozen.check(before)


def test_ids_are_never_used_twice(tmp_path: Path, oracle: Any) -> None:
    seen: list[int] = []
    for _ in range(3):
        store = ExpertStore.open(tmp_path / "s", "r+") if seen else oracle.create(tmp_path / "s")
        with store, store.transaction() as txn:
            group = oracle.add(txn, experts=2)
        with ExpertStore.open(tmp_path / "s") as reader, reader.snapshot() as snapshot:
            seen += snapshot.expert_ids.tolist()
        with ExpertStore.open(tmp_path / "s", "r+") as store, store.transaction() as txn:
            oracle.remove(txn, group)
    assert len(set(seen)) == 6


def test_a_transaction_without_changes_makes_no_commit(filled: Path) -> None:
    files = sorted(filled.rglob("*"))
    with ExpertStore.open(filled, "r+") as store:
        with store.transaction():
            pass
        with store.snapshot() as snapshot:
            assert snapshot.commit == 2
    assert sorted(filled.rglob("*")) == files


def test_a_group_may_come_and_go_in_one_transaction(tmp_path: Path, oracle: Any) -> None:
    with oracle.create(tmp_path / "s") as store:
        with store.transaction() as txn:
            kept = oracle.add(txn)
            oracle.remove(txn, oracle.add(txn))
            again = oracle.replace(txn, oracle.add(txn))
            txn.set_meta("m", 1)
            txn.set_meta("m", [2])
        with store.snapshot() as snapshot:
            assert snapshot.group_ids.tolist() == [kept, again] and snapshot.meta("m") == [2]
            oracle.check(snapshot)


def test_an_error_in_the_block_leaves_nothing(filled: Path, oracle: Any) -> None:
    files = sorted(filled.rglob("*"))
    for error in (RuntimeError("mine"), KeyboardInterrupt()):
        with ExpertStore.open(filled, "r+") as store:
            with pytest.raises(type(error)), store.transaction() as txn:
                for _ in range(6):
                    txn.add_group(*oracle.group())
                txn.remove_group(1)
                txn.set_meta("router", None)
                raise error
            with store.snapshot() as snapshot:
                oracle.check(snapshot)
                assert snapshot.commit == 2
        assert sorted(filled.rglob("*")) == files


def test_a_refused_group_changes_nothing_and_the_transaction_goes_on(tmp_path: Path, oracle: Any) -> None:
    good, keys, *_ = oracle.group()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"experts": []}, "at least one"),
        ({"experts": good[0]}, "a list"),
        ({"experts": [good[0], {}]}, "missing"),
        ({"keys": keys[:0]}, "at least one key"),
        ({"keys": keys[:, :7]}, r"\[n, 8\]"),
        ({"keys": keys[0]}, r"\[n, 8\]"),
        ({"keys": keys.astype(np.float64)}, "float32"),
        ({"keys": keys * np.inf}, "finite"),
        ({"mode": "shared"}, "owned, pool"),
        ({"activation": "never"}, "answer, all"),
        ({"mode": "pool", "experts": good * 2}, "exactly one"),
        ({"memory": "a fact"}, "Memory"),
    ]
    with oracle.create(tmp_path / "s") as store:
        with store.transaction() as txn:
            before = oracle.add(txn)
            for change, words in refused:
                with pytest.raises(SchemaError, match=words):
                    txn.add_group(**{"experts": good, "keys": keys, **change})
                with pytest.raises(SchemaError, match=words):
                    txn.replace_group(before, **{"experts": good, "keys": keys, **change})
            with pytest.raises(UnknownIdError, match="no live group with id 77"):
                txn.remove_group(77)
            with pytest.raises(UnknownIdError):
                txn.replace_group(77, good, keys)
            for name, value in (("store", 1), (3, 1), ("x", {1, 2}), ("x", float("nan"))):
                with pytest.raises(SchemaError):
                    txn.set_meta(name, value)
            oracle.add(txn)
        with store.snapshot() as snapshot:
            oracle.check(snapshot)
            assert snapshot.group_ids.tolist() == [1, 2]


def test_a_pool_group_may_do_without_keys(tmp_path: Path, oracle: Any) -> None:
    group = ([oracle.expert()], oracle.keys(0), None, "pool", "all")
    with oracle.create(tmp_path / "s") as store:
        with store.transaction() as txn:
            oracle.groups[txn.add_group(*group)] = group
        with store.snapshot() as snapshot:
            oracle.check(snapshot)


def test_a_memory_of_an_nll_below_zero_by_sign_alone_comes_back(tmp_path: Path, oracle: Any) -> None:
    with oracle.create(tmp_path / "s") as store, store.transaction() as txn:
        oracle.add(txn, memory=Memory("q", "a", nll=-0.0))  # SQLite makes 0.0 of it
    oracle.check_path(tmp_path / "s")


def test_memories_that_are_not_text_are_refused() -> None:
    for wrong in ({"question": 3}, {"answer": None}, {"paraphrases": "abc"}, {"paraphrases": (1,)}, {"id": 3}):
        with pytest.raises(SchemaError):
            Memory(**{"question": "q", "answer": "a", **wrong})
    with pytest.raises(SchemaError, match="Unicode"):
        Memory("\ud800", "a")
    with pytest.raises(SchemaError, match="finite"):
        Memory("q", "a", nll=float("nan"))
    assert Memory("q", "a", ["p"]).wordings == ("q", "p")  # type: ignore[arg-type]


def test_create_refuses_a_path_that_holds_anything(tmp_path: Path, oracle: Any, filled: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "mine.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "dir", tmp_path / "file", filled):
        with pytest.raises(StoreExistsError):
            oracle.create(path)
    assert (tmp_path / "dir" / "mine.txt").read_text() == "x" and list((tmp_path / "dir").iterdir()) != []
    oracle.check_path(filled)
    (tmp_path / "empty").mkdir()
    oracle.create(tmp_path / "empty").close()


@pytest.mark.parametrize("setting", [{"key_dim": 0}, {"key_dim": 1.5}, {"rows_per_shard": 0}, {"base_model": {1, 2}}])
def test_create_refuses_settings_that_make_no_sense(tmp_path: Path, oracle: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(SchemaError):
        ExpertStore.create(tmp_path / "s", **{"schema": oracle.schema, "key_dim": 8, **setting})
    assert not (tmp_path / "s").exists()


def test_open_says_what_is_there_instead_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    for name, words in (("none", "no such directory"), ("file", "a file"), ("dir", "no zarr.json"), ("zarr", "Zarr")):
        for mode in ("r", "r+"):
            with pytest.raises(StoreNotFoundError, match=words):
                ExpertStore.open(tmp_path / name, mode)
        with pytest.raises(StoreNotFoundError):
            verify(tmp_path / name)
    assert list((tmp_path / "dir").iterdir()) == []
    with pytest.raises(ValueError, match="mode"):
        ExpertStore.open(tmp_path / "dir", "w")


def test_a_newer_format_is_refused_by_its_number(filled: Path) -> None:
    document = json.loads((filled / "zarr.json").read_text())
    document["attributes"]["mome"]["format"] = 2
    (filled / "zarr.json").write_text(json.dumps(document))
    for attempt in (lambda: ExpertStore.open(filled), lambda: ExpertStore.open(filled, "r+"), lambda: verify(filled)):
        with pytest.raises(FormatVersionError, match="format 2"):
            attempt()


def test_there_is_one_writer_and_it_is_named(filled: Path, oracle: Any) -> None:
    with ExpertStore.open(filled, "r+"):
        for _ in range(2):
            with pytest.raises(StoreLockedError, match=f"by process {os.getpid()}"):
                ExpertStore.open(filled, "r+")
        oracle.check_path(filled)  # readers are welcome
    code = f"from mome_store.store import ExpertStore; ExpertStore.open({str(filled)!r}, 'r+')"
    ExpertStore.open(filled, "r+").close()
    with ExpertStore.open(filled, "r+"):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode != 0 and f"StoreLockedError: {filled}: the store is already open" in other.stderr
        assert f"by process {os.getpid()}" in other.stderr


def test_the_lock_of_a_dead_writer_is_free(filled: Path) -> None:
    code = (
        f"import os; from mome_store.store import ExpertStore; s = ExpertStore.open({str(filled)!r}, 'r+'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    ExpertStore.open(filled, "r+").close()


def test_a_forked_child_must_not_use_the_writer_but_may_use_a_snapshot(filled: Path, oracle: Any) -> None:
    with ExpertStore.open(filled, "r+") as store, store.snapshot() as snapshot:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                oracle.check(snapshot)
                try:
                    with store.transaction():
                        pass
                except TransactionError:
                    store.close()
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(StoreLockedError):
            ExpertStore.open(filled, "r+")  # the child's close did not free the parent's lock
        with store.transaction() as txn:
            oracle.add(txn)
    oracle.check_path(filled)


def test_misuse_of_handles_is_told_plainly(filled: Path, oracle: Any) -> None:
    with (
        ExpertStore.open(filled) as reader,
        pytest.raises(StoreReadOnlyError, match="open for reading"),
        reader.transaction(),
    ):
        pass
    with ExpertStore.open(filled, "r+") as store:
        with store.transaction() as txn:
            oracle.add(txn)
            with pytest.raises(TransactionError, match="under way"), store.transaction():
                pass
        with pytest.raises(TransactionError, match="over"):
            txn.add_group(*oracle.group())
    with pytest.raises(ClosedError):
        store.snapshot()
    with pytest.raises(ClosedError), store.transaction():
        pass
    store.close()
    oracle.check_path(filled)


def test_closing_the_store_abandons_an_open_transaction(filled: Path, oracle: Any) -> None:
    store = ExpertStore.open(filled, "r+")
    with pytest.raises(TransactionError), store.transaction() as txn:
        txn.add_group(*oracle.group())
        store.close()
    oracle.check_path(filled)


def test_a_closed_snapshot_says_so(filled: Path) -> None:
    with ExpertStore.open(filled) as store:
        snapshot = store.snapshot()
    snapshot.close()
    snapshot.close()
    for attempt in (lambda: snapshot.read_record(1), lambda: snapshot.keys(), lambda: snapshot.shards):
        with pytest.raises(ClosedError):
            attempt()


def test_reading_ids_that_do_not_exist_names_them(filled: Path) -> None:
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        for wrong in (0, -1, 99):
            with pytest.raises(UnknownIdError, match=f"expert with id {wrong}"):
                snapshot.read_expert(wrong)
            with pytest.raises(UnknownIdError, match=f"group with id {wrong}"):
                list(snapshot.memories([int(snapshot.group_ids[0]), wrong]))
            with pytest.raises(UnknownIdError, match=f"group with id {wrong}"):
                snapshot.group(wrong)


def test_foreign_files_and_an_index_folder_do_not_disturb(filled: Path, oracle: Any) -> None:
    (filled / "index").mkdir()
    (filled / "index" / "2.faiss").write_bytes(b"x")
    (filled / "experts" / "c" / "notes").mkdir()
    (filled / "keys" / "c" / "007").mkdir()
    with ExpertStore.open(filled, "r+") as store, store.transaction() as txn:
        oracle.add(txn)
    oracle.check_path(filled)
    assert (filled / "index" / "2.faiss").exists() and (filled / "experts" / "c" / "notes").exists()
    assert verify(filled, deep=True).ok


def test_an_empty_store_survives_tools_that_drop_empty_directories(tmp_path: Path, oracle: Any) -> None:
    oracle.create(tmp_path / "s").close()
    for array in ("experts", "keys"):
        (tmp_path / "s" / array / "c").rmdir()
    oracle.check_path(tmp_path / "s")
    with ExpertStore.open(tmp_path / "s", "r+") as store, store.transaction() as txn:
        oracle.add(txn)
    oracle.check_path(tmp_path / "s")


def test_a_path_may_have_any_characters(tmp_path: Path, oracle: Any) -> None:
    path = tmp_path / "a b?c#d%20é"
    with oracle.create(path) as store, store.transaction() as txn:
        oracle.add(txn, memory=Memory("q", "a"))
    oracle.check_path(path)


def test_a_snapshot_tells_which_experts_act_in_which_way(tmp_path: Path, oracle: Any) -> None:
    with oracle.create(tmp_path / "s") as store:
        with store.transaction() as txn:
            for activation, count in (("answer", 2), ("all", 1), ("answer", 1)):
                txn.add_group([oracle.expert() for _ in range(count)], oracle.keys(1), activation=activation)
        snapshot = store.snapshot()
        ids = snapshot.expert_ids
        assert snapshot.acting(ids, "answer").tolist() == [True, True, False, True]
        assert snapshot.acting(ids[[3, 2, 2]], "all").tolist() == [False, True, True]
        assert snapshot.acting(ids[:0], "all").tolist() == []
        with pytest.raises(UnknownIdError) as raised:
            snapshot.acting(np.array([999, 0, int(ids[0])]), "all")
        assert raised.value.ids == [0, 999]


def test_a_file_system_without_locks_is_refused_to_writers_and_not_to_readers(
    filled: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(fcntl, "fcntl", no_locks)
    with pytest.raises(StoreReadOnlyError, match="no file locks"):
        ExpertStore.open(filled, "r+")
    oracle.check_path(filled)


def test_a_clock_that_jumps_back_changes_nothing_but_the_times_told(
    filled: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    with ExpertStore.open(filled, "r+") as store:
        with store.transaction() as txn:
            oracle.add(txn)
        store.compact()
        with store.snapshot() as snapshot:
            assert (snapshot.commit, snapshot.time_us) == (4, 0)
    oracle.check_path(filled)
    assert verify(filled, deep=True).ok

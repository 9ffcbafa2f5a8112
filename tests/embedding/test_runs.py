"""The C++ reader makes of the catalogue's runs what the Python one does, and refuses runs that can't be."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome_store import ExpertStore
from mome_store.store.catalog import load_state
from mome_store.store.checksum import rows_digest, signed, text_crc
from mome_store.store.transaction import Transaction
from tests.embedding.conftest import SCHEMA, make_store, next_dump, said_by_python

pytestmark = pytest.mark.timeout(900)  # the first test builds the library where `make test-cpp` has not

RANK = 2
KEY_DIM = 8


def factors(rng: np.random.Generator, *count: int) -> dict[str, Any]:
    return {
        name: (rng.normal(size=(*count, RANK, d_in)), rng.normal(size=(*count, d_out, RANK)))
        for name, (d_in, d_out) in SCHEMA.modules.items()
    }


def keys(rng: np.random.Generator, *count: int) -> np.ndarray:
    return rng.normal(size=(*count, KEY_DIM)).astype(np.float32)


def change(rng: np.random.Generator, txn: Transaction, live: list[int]) -> None:
    """Groups in bulk, groups of the same few experts each (which are one run), and groups out of the middle of runs."""
    for _ in range(int(rng.integers(1, 4))):
        what = rng.integers(4) if len(live) < 40 else 3
        mode, activation = str(rng.choice(["owned", "pool"])), str(rng.choice(["answer", "all"]))
        if what == 0:
            count = int(rng.integers(1, 9))
            live += txn.add_groups(factors(rng, count), keys(rng, count, 2), None, mode, activation).tolist()
        elif what == 1:
            per_group = 1 if mode == "pool" else int(rng.integers(1, 4))
            for _ in range(3):
                experts = [factors(rng) for _ in range(per_group)]
                live.append(txn.add_group(experts, keys(rng, per_group), None, mode, activation))
        elif live:
            group = live.pop(int(rng.integers(len(live))))
            if what == 2:
                live.append(txn.replace_group(group, [factors(rng)], keys(rng, 1)))
            else:
                txn.remove_group(group)


@pytest.mark.parametrize("seed", range(3))
def test_both_readers_find_the_same_after_each_commit_of_a_long_history(built: Path, tmp_path: Path, seed: int) -> None:
    """Every record is read, and its trailer names its expert and its group: what was counted out of runs is right."""
    rng = np.random.default_rng(seed)
    live: list[int] = []
    seen: set[int] = set()
    runs: set[tuple[bool, bool]] = set()  # of experts: whether of several groups, whether several to a group
    program = built / "tests" / "cpp" / "dump_snapshot"
    with ExpertStore.create(tmp_path / "s", SCHEMA, KEY_DIM, rows_per_shard=8) as store:
        with store.transaction() as txn:
            live += txn.add_groups(factors(rng, 20), keys(rng, 20)).tolist()
        with subprocess.Popen(
            [program, store.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdin is not None
            for _ in range(25):
                with store.snapshot() as snapshot:
                    seen |= set(snapshot.expert_ids.tolist())
                    assert snapshot.group_ids.tolist() == sorted(live)
                assert next_dump(reader) == said_by_python(store.path) + f"fetched {len(seen)}\n"
                state = load_state(store.path)
                runs |= {(groups > 1, per_group > 1) for *_, groups, per_group in state.experts.tolist()}
                with store.transaction() as txn:
                    change(rng, txn, live)
                reader.stdin.write("\n")
                reader.stdin.flush()
            reader.communicate()
    assert runs >= {(True, False), (True, True)}


COLUMNS = {
    "shards": "array, number, rows, bytes, index_crc, content_crc",
    "groups": "id, groups, mode, activation, memory",
    "experts": "row, id, group_id, groups, per_group",
    "meta": "name, value",
}


def forge(store: Path, table: str, change: str) -> None:
    """Changes a live row of a table (`change`: SQL behind SET) and makes the digest fit what it is then."""
    with closing(sqlite3.connect(store / "catalog.sqlite")) as connection, connection:

        def digest() -> int:
            rows = connection.execute(f"SELECT {COLUMNS[table]} FROM {table} WHERE retired IS NULL").fetchall()
            if table == "meta":
                rows = [tuple(map(text_crc, row)) for row in rows]
            return rows_digest(table, list(np.array(rows, np.int64).T))

        before = digest()
        assert connection.execute(f"UPDATE {table} SET {change} AND retired IS NULL").rowcount == 1
        newest = "(SELECT max(id) FROM commits)"
        (old,) = connection.execute(f"SELECT digest FROM commits WHERE id = {newest}").fetchone()
        new = signed(old - before + digest())
        connection.execute(f"UPDATE commits SET digest = ? WHERE id = {newest}", (new,))


MOST = 2**63 - 1
OF_LAST_GROUP = "WHERE group_id = 5"  # expert 8 alone
FORGED = {
    "a run of no groups": ("groups", "groups = 0 WHERE id = 3", "there can't be 0 groups from 3 on"),
    "a run of less than no groups": ("groups", "groups = -1 WHERE id = 3", "there can't be -1 groups from 3 on"),
    "groups without end": ("groups", f"groups = {MOST} WHERE id = 5", "groups from 5 on"),
    "a group in two runs": ("groups", "groups = 2 WHERE id = 3", "groups from 4 on are named twice"),
    "a group without experts": ("groups", "groups = 2 WHERE id = 5", "not those that the experts belong to"),
    "experts without a group": ("groups", "id = 6 WHERE id = 5", "not those that the experts belong to"),
    "an unknown mode": ("groups", "mode = 2 WHERE id = 5", "group 5 has an unknown mode"),
    "an unknown activation": ("groups", "activation = -1 WHERE id = 5", "group 5 has an unknown mode or activation"),
    "less than no experts": ("experts", f"groups = -1 {OF_LAST_GROUP}", "-1 groups of 1 experts from expert 8 on"),
    "no experts": ("experts", f"per_group = 0 {OF_LAST_GROUP}", "1 groups of 0 experts from expert 8 on"),
    "experts for all memory": ("experts", f"per_group = {2**40} {OF_LAST_GROUP}", "do not fit the shards' 8 rows"),
    "a product that overflows": (
        "experts",
        f"groups = {2**32}, per_group = {2**32} {OF_LAST_GROUP}",
        "do not fit the shards' 8 rows",
    ),
    "ids that overflow": ("experts", f"id = {MOST} {OF_LAST_GROUP}", f"there can't be 1 experts from {MOST} on"),
    "rows that overflow": ("experts", f"row = {MOST} {OF_LAST_GROUP}", "rows of experts from"),
    "an expert in two runs": ("experts", f"id = 7 {OF_LAST_GROUP}", "experts from 7 on are named twice"),
    "a row in two runs": ("experts", f"row = 14 {OF_LAST_GROUP}", "rows of experts from 14 on are named twice"),
    "a row behind all shards": ("experts", f"row = 999 {OF_LAST_GROUP}", "names no such shard"),
    "a row below 0": ("experts", f"row = -1 {OF_LAST_GROUP}", "rows of experts from -1 on"),
    "more rows than a shard has": ("shards", f"rows = {2**60} WHERE array = 0 AND number = 0", "shard 0 of 4 rows"),
    "less than no rows": ("shards", "rows = -1 WHERE array = 0 AND number = 0", "shard 0 of 4 rows can't have -1"),
    "shards of no rows": (
        "meta",
        "value = json_set(value, '$.rows_per_shard', 0) WHERE name = 'store'",
        "a shard can't have 0 rows",
    ),
    "shards for all memory": (
        "meta",
        f"value = json_set(value, '$.rows_per_shard', {MOST}) WHERE name = 'store'",
        f"a shard can't have {MOST} rows",
    ),
}


@pytest.mark.parametrize("forged", FORGED)
def test_runs_that_no_writer_makes_are_damage_though_the_digest_fits_them(
    built: Path, tmp_path: Path, forged: str
) -> None:
    table, change, problem = FORGED[forged]
    make_store(tmp_path / "s").close()
    forge(tmp_path / "s", table, change)
    program = built / "tests" / "cpp" / "dump_snapshot"
    done = subprocess.run([program, tmp_path / "s"], capture_output=True, text=True, input="")
    assert done.returncode == 1 and problem in done.stderr

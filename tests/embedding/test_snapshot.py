"""The C++ `Snapshot` holds what the Python one holds, and a cache follows a store from commit to commit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mome_store import ExpertSchema, ExpertStore
from mome_store.runtime.expert_cache import DTYPE_CODES
from tests.embedding.conftest import SCHEMA, add_group, make_store, next_dump, said_by_python

pytestmark = pytest.mark.timeout(900)  # the first test builds the library where `make test-cpp` has not


@pytest.mark.parametrize("dtype", DTYPE_CODES)
def test_both_readers_find_the_same(built: Path, tmp_path: Path, dtype: str) -> None:
    schema = ExpertSchema({'a"\\\n\u00fc\U0001f642': (8, 16), "b/c.d": (24, 8)}, rank=3, dtype=dtype, alpha=0.1)
    rng = np.random.default_rng(0)
    with ExpertStore.create(tmp_path / "s", schema, key_dim=4, rows_per_shard=2) as store, store.transaction() as txn:
        for mode, activation in (("owned", "answer"), ("pool", "all"), ("owned", "all"), ("pool", "answer")):
            experts = [
                {n: (rng.normal(size=(2, i)), rng.normal(size=(o, 2))) for n, (i, o) in schema.modules.items()}
                for _ in range(1 if mode == "pool" else 3)
            ]
            txn.add_group(experts, np.ones((1, 4), np.float32), mode=mode, activation=activation)
    command = [str(built / "tests" / "cpp" / "dump_snapshot"), str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, input="")
    assert done.returncode == 0, done.stderr
    assert done.stdout == said_by_python(tmp_path / "s") + "fetched 8\n\n"


def test_a_cache_follows_the_store_and_fetches_only_what_is_new(built: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    program = built / "tests" / "cpp" / "dump_snapshot"
    with (
        make_store(tmp_path / "s") as store,
        subprocess.Popen([program, store.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader,
    ):
        assert reader.stdin is not None
        assert next_dump(reader) == said_by_python(store.path) + "fetched 7\n"
        add_group(store, rng, [SCHEMA.rank, 1])
        with store.transaction() as txn:
            txn.remove_group(4)
        reader.stdin.write("\n")
        reader.stdin.flush()
        dump = next_dump(reader)
        assert dump == said_by_python(store.path) + "fetched 9\n"
        assert re.findall("^group ([0-9]+)", dump, re.MULTILINE) == ["1", "3", "5", "6"]
        reader.stdin.close()

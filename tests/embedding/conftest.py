"""The example program of `examples/embed_cpp` and dump_snapshot, built; a store to open, and what is found there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from mome_store import ExpertSchema, ExpertStore
from mome_store.runtime.expert_cache import DTYPE_CODES

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cpp"  # that of `make test-cpp`: what it has built is not built again
SCHEMA = ExpertSchema(modules={"layers.0.wørd": (64, 40), "up": (40, 64)}, rank=4, alpha=6.0)


def tool(name: str) -> str:
    """The path of a build tool of this environment or of the system; skips where there is none."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def configure(source: Path, build: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    ninja = tool("ninja")
    command = [tool("cmake"), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DCMAKE_BUILD_TYPE=Release", *settings]
    return subprocess.run([*command, "-S", str(source), "-B", str(build)], capture_output=True, text=True)


@pytest.fixture(scope="session")
def built() -> Path:
    """The build folder, with the programs in it. Skips where there is no compiler, or no SQLite, to build them with."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        pytest.skip("no C++ compiler")
    configured = configure(ROOT, BUILD)
    assert configured.returncode == 0, configured.stdout + configured.stderr
    if "mome_catalog and the example" in configured.stdout:
        pytest.skip("no SQLite with its header (Debian: libsqlite3-dev)")
    command = [tool("cmake"), "--build", str(BUILD), "--target", "embed", "dump_snapshot"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return BUILD


@pytest.fixture(scope="session")
def embed_program(built: Path) -> Path:
    return built / "examples" / "embed_cpp" / "embed"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may enter (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def add_group(store: ExpertStore, rng: np.random.Generator, ranks: list[int]) -> int:
    """One commit with a group of one expert for each rank."""
    experts = [
        {
            name: (rng.normal(size=(rank, d_in)), rng.normal(size=(d_out, rank)))
            for name, (d_in, d_out) in SCHEMA.modules.items()
        }
        for rank in ranks
    ]
    with store.transaction() as txn:
        return int(txn.add_group(experts, keys=rng.normal(size=(2, 8)).astype(np.float32)))


def make_store(path: Path) -> ExpertStore:
    """A store, still open: groups 1, 3, 4, 5 with 1, 2, 3 and 1 experts in five shards; group 2 was removed."""
    base_model = {"name": 'é "q" \\ \x01', "a.b": {"c": [1, 2.5, None, True, []]}}
    store = ExpertStore.create(path, SCHEMA, key_dim=8, rows_per_shard=4, base_model=base_model)
    rng = np.random.default_rng(0)
    for ranks in ([4], [3], [1, 4], [4, 2, 3], [2]):
        add_group(store, rng, ranks)
    with store.transaction() as txn:
        txn.remove_group(2)
        txn.set_meta("router", {"threshold": 0.5})
    return store


def said_by_python(path: Path) -> str:
    """What dump_snapshot prints, but for the last line."""
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        schema = snapshot.schema
        lines = [
            f"commit {snapshot.commit}, key_dim {snapshot.key_dim}, rows_per_shard {snapshot.rows_per_shard}",
            f"rank {schema.rank}, dtype {DTYPE_CODES[schema.dtype]}, alpha {schema.alpha:g}, crc {schema.crc}",
        ]
        for name, section in schema.sections.items():
            lines.append(f"module {name} {section.d_in} {section.d_out} {section.a_offset} {section.b_offset}")
        for group_id in snapshot.group_ids.tolist():
            group = snapshot.group(group_id)
            experts = " ".join(map(str, group.expert_ids.tolist()))
            lines.append(f"group {group_id} {group.mode} {group.activation} {experts}")
    return "\n".join(lines) + "\n"


def next_dump(reader: subprocess.Popen[str]) -> str:
    """What dump_snapshot prints of one commit; what it printed before its end, should it have failed."""
    assert reader.stdout is not None
    return "".join(takewhile(lambda line: line != "\n", reader.stdout))


@pytest.fixture
def store_path(place: Path) -> Path:
    with make_store(place / "store d'été 100%?") as store:
        return store.path

"""The C++ reader of a store, through the example program: it finds what the Python reader finds, or an error."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mome_store import ExpertStore, MomeError
from tests.embedding.conftest import ROOT, SCHEMA, add_group, configure, make_store

pytestmark = pytest.mark.timeout(900)  # the first test builds the library where `make test-cpp` has not

NOBODY = 65534
ROWS_PER_SEQUENCE = 2


def embed(
    program: Path, store: Path, *groups: str, module: str = "up", slots: float = 8, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    budget = str(int(slots * SCHEMA.record_bytes))
    command = [str(program), str(store), budget, module, *groups]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, user=user)


def succeeds(program: Path, store: Path, *groups: str, module: str = "up", user: int | None = None) -> str:
    done = embed(program, store, *groups, module=module, user=user)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(program: Path, store: Path, *groups: str, module: str = "up", slots: float = 8) -> str:
    done = embed(program, store, *groups, module=module, slots=slots)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]  # after a note, where the kernel has no io_uring
    assert error.startswith("error: ")
    return error


def expected(store: Path, groups: list[list[int]], module: str) -> np.ndarray:
    """What the program must compute, float64 [rows, d_out], from the experts as the Python reader gives them."""
    d_in, d_out = SCHEMA.modules[module]
    bits = np.random.RandomState(1).randint(0, 2**32, ROWS_PER_SEQUENCE * len(groups) * d_in, dtype=np.uint32)
    x = ((bits >> 8) / 2**23 - 1).reshape(len(groups), ROWS_PER_SEQUENCE, d_in)
    y = np.zeros((len(groups), ROWS_PER_SEQUENCE, d_out))
    with ExpertStore.open(store).snapshot() as snapshot:
        for sequence, group_ids in enumerate(groups):
            for expert in (i for g in group_ids for i in snapshot.group(g).expert_ids.tolist()):
                a, b = (factor.astype(np.float64) for factor in snapshot.read_expert(expert)[module])
                y[sequence] += SCHEMA.alpha / len(a) * x[sequence] @ a.T @ b.T
    return y.reshape(-1, d_out)


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("module", SCHEMA.modules)
def test_the_program_computes_what_the_python_reader_says(embed_program: Path, store_path: Path, module: str) -> None:
    printed = succeeds(embed_program, store_path, "1,3", "4,1", module=module)
    y = expected(store_path, [[1, 3], [4, 1]], module)
    d_in, d_out = SCHEMA.modules[module]
    assert f"commit 6: 7 experts, {module} {d_in} -> {d_out}, rank 4\n" in printed
    rows = [np.array(row.split(), float) for row in re.findall(r"row \d of sequence \d: (.*) \.\.\.", printed)]
    scale = np.abs(y).max()
    np.testing.assert_allclose(rows, y[:, :4], rtol=0, atol=1e-5 * scale)
    total = float(re.search(r"sum of all values: (.*)", printed)[1])  # type: ignore[index]
    assert total == pytest.approx(y.sum(), abs=1e-5 * scale * y.size)
    assert "cache: 6 of 8 slots held, 6 leased, 6 prefetched, 0 evictions" in printed


def test_a_store_without_experts_is_opened(embed_program: Path, place: Path) -> None:
    ExpertStore.create(place / "empty", SCHEMA, key_dim=8).close()
    assert "no live group with id 1" in fails(embed_program, place / "empty", "1", "1")


def test_what_does_not_fit_is_an_error_with_its_numbers(embed_program: Path, store_path: Path) -> None:
    assert "no live group with id 2" in fails(embed_program, store_path, "1", "2")
    assert "needs 6 experts at once but the cache has 5 slots" in fails(
        embed_program, store_path, "1,3", "4", slots=5.9
    )
    assert "the cache has 0 slots" in fails(embed_program, store_path, "1", "3", slots=0.5)
    assert "no module gate" in fails(embed_program, store_path, "1", "3", module="gate")
    assert "'x' is no number" in fails(embed_program, store_path, "1", "x")


def test_no_store_is_told_from_a_damaged_one(embed_program: Path, store_path: Path, place: Path) -> None:
    assert "no expert store is there (there is no such directory)" in fails(embed_program, place / "none", "1", "1")
    (place / "bare").mkdir()
    assert "the directory has no zarr.json" in fails(embed_program, place / "bare", "1", "1")
    (place / "bare" / "zarr.json").write_text('{"attributes": {}}')
    assert "holds Zarr data, but no expert store" in fails(embed_program, place / "bare", "1", "1")
    (store_path / "zarr.json").unlink()
    assert "zarr.json: is missing, yet there is a catalogue" in fails(embed_program, store_path, "1", "1")


def test_a_newer_format_is_refused_before_the_catalogue_is_looked_at(embed_program: Path, store_path: Path) -> None:
    document = json.loads((store_path / "zarr.json").read_text())
    document["attributes"]["mome"]["format"] = 2
    (store_path / "zarr.json").write_text(json.dumps(document))
    (store_path / "catalog.sqlite").unlink()
    assert "store format 2, but this version of mome_store reads up to 1" in fails(embed_program, store_path, "1", "1")


def test_a_damaged_record_is_named_with_file_row_and_expert(embed_program: Path, store_path: Path) -> None:
    with ExpertStore.open(store_path).snapshot() as snapshot:
        expert = int(snapshot.group(3).expert_ids[1])
        row = int(snapshot.expert_rows[snapshot.expert_ids == expert][0])
    shard = store_path / "experts" / "c" / str(row // 4) / "0"
    flip(shard, (row % 4) * SCHEMA.record_bytes + 100)
    error = fails(embed_program, store_path, "3", "4")
    assert f"{shard}, row {row}, expert {expert}: checksum of the record" in error
    succeeds(embed_program, store_path, "1", "4")  # other records are as good as before


def change_catalogue(sql: str) -> Callable[[Path], object]:
    def change(store: Path) -> None:
        with closing(sqlite3.connect(store / "catalog.sqlite")) as connection, connection:
            connection.execute(sql)

    return change


def change_attribute(name: str, value: object) -> Callable[[Path], object]:
    def change(store: Path) -> None:
        document = json.loads((store / "zarr.json").read_text())
        document["attributes"]["mome"][name] = value
        (store / "zarr.json").write_text(json.dumps(document))

    return change


SHARD = Path("experts", "c", "0", "0")
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "an expert's row is changed": (change_catalogue("UPDATE experts SET group_id = 4 WHERE row = 0"), "do not match"),
    "an expert's row is lost": (change_catalogue("DELETE FROM experts WHERE row = 0"), "do not match"),
    "a key's row is lost": (change_catalogue("DELETE FROM keys WHERE row = 0"), "do not match"),
    "a retired group is back": (change_catalogue("UPDATE groups SET retired = NULL"), "do not match"),
    "a meta value is changed": (change_catalogue("UPDATE meta SET value = '1' WHERE name = 'router'"), "do not match"),
    "a shard's checksum is changed": (change_catalogue("UPDATE shards SET index_crc = 7"), "do not match"),
    "the newest commit is lost": (change_catalogue("DELETE FROM commits WHERE id = 6"), "the file's header"),
    "a table is lost": (change_catalogue("DROP TABLE keys"), "no such table"),
    "the catalogue is gone": (lambda store: (store / "catalog.sqlite").unlink(), "the catalogue is missing"),
    "the catalogue is cut": (lambda store: os.truncate(store / "catalog.sqlite", 5000), "catalog.sqlite: "),
    "the catalogue is text": (lambda store: (store / "catalog.sqlite").write_text("no" * 999), "not a database"),
    "zarr.json is cut": (lambda store: os.truncate(store / "zarr.json", 50), "not JSON"),
    "zarr.json tells of another key_dim": (change_attribute("key_dim", 9), "attributes.mome differs"),
    "zarr.json lacks the base model": (change_attribute("base_model", None), "attributes.mome differs"),
    "zarr.json has more": (change_attribute("more", 1), "attributes.mome differs"),
    "a shard is gone": (lambda store: (store / SHARD).unlink(), f"{SHARD}: the shard is missing"),
    "a shard is cut": (lambda store: os.truncate(store / SHARD, 4096), f"{SHARD}: the file has 4096 bytes"),
    "a shard's index is changed": (lambda store: flip(store / SHARD, -10), f"{SHARD}: the checksum of the shard's"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_the_python_reader_refuses_the_program_refuses(embed_program: Path, store_path: Path, damage: str) -> None:
    change, named = DAMAGE[damage]
    change(store_path)
    with pytest.raises(MomeError), ExpertStore.open(store_path) as store:
        store.snapshot()
    error = fails(embed_program, store_path, "1", "3")
    assert str(store_path) in error and named in error


def test_no_flipped_bit_of_the_catalogue_passes_for_data(embed_program: Path, store_path: Path) -> None:
    catalogue = store_path / "catalog.sqlite"
    good = catalogue.read_bytes()
    right = succeeds(embed_program, store_path, "1,3", "4")
    rng = np.random.default_rng(0)
    refused = 0
    for offset in rng.integers(0, len(good), 150).tolist():
        flip(catalogue, offset)
        done = embed(embed_program, store_path, "1,3", "4")
        assert done.returncode == 1 or done.stdout == right  # an unused byte, or one that only a writer reads
        refused += done.returncode
        catalogue.write_bytes(good)
    assert refused > 0


def test_the_program_reads_beside_a_living_writer_and_sees_each_commit(embed_program: Path, place: Path) -> None:
    with make_store(place / "store") as store:
        rng = np.random.default_rng(1)
        for commit in (7, 8):
            group = add_group(store, rng, [2])
            assert (store.path / "catalog.sqlite-wal").stat().st_size > 0
            assert f"commit {commit}:" in succeeds(embed_program, store.path, str(group), "1")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody without rights")
@pytest.mark.parametrize("left", ["closed", "a writer lives", "a writer was killed", "killed, copied without -shm"])
def test_a_read_only_store_is_opened_and_nothing_is_written(embed_program: Path, place: Path, left: str) -> None:
    program = Path(shutil.copy(embed_program, place))
    path = place / "store"
    child = os.fork()
    if child == 0:
        store = make_store(path)
        if left == "closed":
            store.close()
        os.kill(os.getpid(), signal.SIGSTOP if left == "a writer lives" else signal.SIGKILL)
    os.waitpid(child, os.WUNTRACED)
    try:
        if left.startswith("killed"):
            (path / "catalog.sqlite-shm").unlink()
        for file in (path, *path.rglob("*")):
            os.chmod(file, 0o555 if file.is_dir() else 0o444)
        before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*")}
        assert "commit 6: 7 experts" in succeeds(program, path, "1", "3", user=NOBODY)
        assert {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*")} == before
    finally:
        if left == "a writer lives":
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_readers_beside_writers_that_come_and_go_see_whole_commits(embed_program: Path, place: Path) -> None:
    """Each writer's end checkpoints the WAL away, which is when a reader without locks may meet half of a state."""
    path = place / "store"
    make_store(path).close()
    rng = np.random.default_rng(2)
    for commit in range(7, 13):
        reader = subprocess.Popen(
            [str(embed_program), str(path), str(8 * SCHEMA.record_bytes), "up", "1", "3"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with ExpertStore.open(path, "r+") as store:
            add_group(store, rng, [1])
        printed, error = reader.communicate(timeout=60)
        assert reader.returncode == 0, error
        assert (
            f"commit {commit - 1}: {commit} experts" in printed or f"commit {commit}: {commit + 1} experts" in printed
        )


def test_the_example_is_a_project_of_its_own(embed_program: Path, tmp_path: Path) -> None:
    """Configured only: building the library a second time would take minutes."""
    configured = configure(ROOT / "examples" / "embed_cpp", tmp_path)
    assert configured.returncode == 0, configured.stderr


def test_without_sqlite_the_library_is_configured_and_says_what_is_missing(tmp_path: Path) -> None:
    hidden = ("-DCMAKE_DISABLE_FIND_PACKAGE_SQLite3=ON",)
    automatic = configure(ROOT, tmp_path / "auto", *hidden)
    assert automatic.returncode == 0 and "libsqlite3-dev" in automatic.stdout
    demanded = configure(ROOT, tmp_path / "on", "-DMOME_SQLITE=ON", *hidden)
    assert demanded.returncode != 0 and "libsqlite3-dev" in demanded.stderr


def test_the_extension_has_no_use_for_sqlite() -> None:
    from mome_store import _core

    listed = subprocess.run(["ldd", str(_core.__file__)], capture_output=True, text=True, check=True)
    assert "sqlite" not in listed.stdout

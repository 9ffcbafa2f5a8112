"""Other Zarr implementations read what we write, byte for byte: zarr-python, tensorstore and zarrs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
import zarrs  # noqa: F401  (registers its codec pipeline with zarr-python)
from numpy.typing import NDArray

from mome_store.store import ExpertStore

Read = Callable[[Path], NDArray[Any]]


def with_zarr_python(path: Path) -> NDArray[Any]:
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
        return np.asarray(zarr.open_array(path, mode="r")[:])


def with_zarrs(path: Path) -> NDArray[Any]:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return np.asarray(zarr.open_array(path, mode="r")[:])


def with_tensorstore(path: Path) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


READERS = {"zarr-python": with_zarr_python, "tensorstore": with_tensorstore, "zarrs": with_zarrs}


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Iterator[Read]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # zarrs warns where it leaves the work to zarr-python
        yield READERS[request.param]


def expected_arrays(path: Path, snapshots: list[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Both arrays as they must look: what any commit wrote, and the fill value 0 in between."""
    layout = snapshots[-1]
    shards = layout.shards
    rows = {
        array: max((s.first_row + s.rows for s in shards if s.array == array), default=0)
        for array in ("experts", "keys")
    }
    experts = np.zeros((rows["experts"], layout.schema.record_bytes), np.uint8)
    keys = np.zeros((rows["keys"], layout.key_dim), np.float32)
    for snapshot in snapshots:
        for row, expert_id in zip(snapshot.expert_rows, snapshot.expert_ids.tolist(), strict=True):
            experts[row] = np.frombuffer(snapshot.read_record(expert_id), np.uint8)
        keys[snapshot.key_rows] = snapshot.keys()[0]
    return experts, keys


def test_every_reader_sees_every_row_and_zeros_between_them(tmp_path: Path, oracle: Any, read: Read) -> None:
    path = tmp_path / "store"
    snapshots = []
    with oracle.create(path) as store:
        assert read(path / "experts").shape == (0, oracle.schema.record_bytes)
        assert read(path / "keys").shape == (0, 8)
        for step in ("add", "add a lot", "remove", "replace"):
            with store.transaction() as txn:
                if step == "remove":
                    oracle.remove(txn, 2)
                elif step == "replace":
                    oracle.replace(txn, 3, experts=2, keys=5)
                else:
                    for _ in range(3 if step == "add" else 6):
                        oracle.add(txn, keys=1)
            snapshots.append(store.snapshot())
            experts, keys = expected_arrays(path, snapshots)
            found_experts, found_keys = read(path / "experts"), read(path / "keys")
            assert found_experts.dtype == np.uint8 and np.array_equal(found_experts, experts)
            assert found_keys.dtype == np.float32 and found_keys.tobytes() == keys.tobytes()
            assert len(experts) == 3 or not experts[3].any()  # the first commit left its shard's fourth row missing
    for snapshot in snapshots:
        snapshot.close()


def test_the_group_opens_as_a_zarr_hierarchy(filled: Path) -> None:
    group = zarr.open_group(filled, mode="r")
    mome: Any = group.attrs["mome"]
    with ExpertStore.open(filled) as store:
        assert mome == {
            "format": 1,
            "schema": store.schema.to_json(),
            "key_dim": 8,
            "base_model": {"name": "tiny"},
            "encoder": None,
        }
    assert {name: group[name].shape[0] for name in ("experts", "keys")} == {"experts": 7, "keys": 14}


def test_records_start_on_whole_pages_of_the_file(filled: Path) -> None:
    with ExpertStore.open(filled) as store, store.snapshot() as snapshot:
        for expert_id, row in zip(snapshot.expert_ids.tolist(), snapshot.expert_rows.tolist(), strict=True):
            shard = next(s for s in snapshot.shards if s.array == "experts" and s.first_row == row // 4 * 4)
            content = shard.path.read_bytes()
            assert (
                content.index(snapshot.read_record(expert_id)) == (row - shard.first_row) * snapshot.schema.record_bytes
            )
            assert snapshot.schema.record_bytes % 4096 == 0

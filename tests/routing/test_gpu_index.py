"""A search on a GPU finds what one on the cpu finds, scores it the same, and says plainly when it can't be had.

Where there is no GPU a stand-in for FAISS's GPU classes takes their place: it compares vectors that are rounded as a
device rounds them, ranks as few results as one does, and notices two searches at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store import DeviceError, ExpertSchema, ExpertStore, Memory, Router, SchemaError
from mome_store.routing import device_index as device_module
from mome_store.routing import index as index_module
from mome_store.routing.device_index import (
    PINNED_BYTES,
    TEMPORARY_BYTES,
    DeviceLimits,
    HalfPrecisionIndex,
    device_index,
    flat_bytes,
    kind_for,
    list_bytes,
)
from mome_store.routing.index import RECALL, KeyIndex, build_index
from mome_store.routing.nearest import exact_scores
from mome_store.routing.pool import PoolSelection
from tests.tiny_models import HashEncoder

Floats = NDArray[np.float32]

DIM = 48
GPU_WITHOUT_A_DEVICE = "needs a FAISS with GPU indexes and a CUDA device"


def half(vectors: Floats) -> Floats:
    return vectors.astype(np.float16).astype(np.float32)


class StandInIndex:
    """A FAISS index on a device: what both kinds share."""

    at_work = 0
    overlapped = False
    asked: list[tuple[int, int]]  # queries and results of every search
    added: list[int]
    slow = 0.0
    breaks: str | None = None

    def __init__(self, resources: Any, index: faiss.Index, config: Any) -> None:
        assert resources.temporary is not None and resources.pinned is not None, "FAISS's own defaults are too large"
        self.resources, self.index, self.config = resources, index, config
        self.asked, self.added = [], []

    @property
    def ntotal(self) -> int:
        return int(self.index.ntotal)

    def add(self, vectors: Floats) -> None:
        self.added.append(len(vectors))
        self.index.add(half(vectors))

    def search(self, queries: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
        if count > 2048:
            raise RuntimeError("Error in search() at GpuIndex.cu:1: Error: 'k <= 2048' failed")
        if self.breaks:
            raise RuntimeError(f"Error in int faiss::search(int, long) at /a/faiss/gpu/GpuIndex.cu:65: {self.breaks}")
        self.asked.append((len(queries), count))
        self.overlapped |= self.at_work > 0
        self.at_work += 1
        time.sleep(self.slow)
        found = self.index.search(half(queries), count)
        self.at_work -= 1
        return found[0], found[1]


class StandInFlat(StandInIndex):
    def __init__(self, resources: Any, dim: int, config: Any) -> None:
        assert config.useFloat16 and not config.use_cuvs
        super().__init__(resources, faiss.IndexFlatIP(dim), config)


class StandInLists(StandInIndex):
    def __init__(
        self, resources: Any, dim: int, lists: int, kind: int, metric: int, by_residual: bool, config: Any
    ) -> None:
        self.quantizer = faiss.IndexFlatIP(dim)
        super().__init__(
            resources, faiss.IndexIVFScalarQuantizer(self.quantizer, dim, lists, kind, metric, by_residual), config
        )
        self.nlist = lists
        self.cp = self.index.cp

    @property
    def nprobe(self) -> int:
        return int(self.index.nprobe)

    @nprobe.setter
    def nprobe(self, probes: int) -> None:
        assert probes <= 2048
        self.index.nprobe = probes

    def train(self, vectors: Floats) -> None:
        self.index.train(vectors)


class StandInResources:
    temporary: int | None = None
    pinned: int | None = None

    def setTempMemory(self, size: int) -> None:
        self.temporary = size

    def setPinnedMemory(self, size: int) -> None:
        self.pinned = size


class Gpu:
    """Two devices, of which each has `free` bytes free."""

    def __init__(self) -> None:
        self.free = 1 << 34
        self.devices = 2
        self.library = SimpleNamespace(
            StandardGpuResources=StandInResources,
            GpuIndexFlatIP=StandInFlat,
            GpuIndexFlatConfig=lambda: SimpleNamespace(use_cuvs=True),
            GpuIndexIVFScalarQuantizer=StandInLists,
            GpuIndexIVFScalarQuantizerConfig=SimpleNamespace,
            INDICES_32_BIT=1,
            get_num_gpus=lambda: self.devices,
            ScalarQuantizer=faiss.ScalarQuantizer,
            METRIC_INNER_PRODUCT=faiss.METRIC_INNER_PRODUCT,
        )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    stand_in = Gpu()
    monkeypatch.setattr(device_module, "faiss", stand_in.library)
    monkeypatch.setattr(device_module, "CudaDriver", lambda: SimpleNamespace(memory_free=lambda _: stand_in.free))
    return stand_in


def unit(vectors: NDArray[np.floating]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(count: int, dim: int = DIM, spread: float = 0.7, seed: int = 0) -> Floats:
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((50, dim))
    return unit(centres[chance.integers(0, 50, count)] + spread * chance.standard_normal((count, dim)))


def near(keys: Floats, count: int, seed: int = 1) -> Floats:
    chance = np.random.default_rng(seed)
    chosen = keys[chance.choice(len(keys), count, replace=False)]
    return unit(chosen + 0.62 * unit(chance.standard_normal(chosen.shape)))


def stand_in_of(index: Any) -> Any:
    return index.searched._index


def assert_as_on_the_cpu(index: Any, keys: Floats, queries: Floats, count: int) -> None:
    """The same rows in the same order, with the same scores to the last bit."""
    on_cpu = KeyIndex(keys, build_flat(keys), candidates=0)
    for found, expected in zip(index.search(queries, count), on_cpu.search(queries, count), strict=True):
        assert np.array_equal(found, expected)


def build_flat(keys: Floats) -> faiss.Index:
    flat = faiss.IndexFlatIP(keys.shape[1])
    flat.add(keys)
    return flat


@pytest.mark.parametrize("count", [1, 4, 32, 256])
def test_rounded_vectors_find_what_the_cpu_finds_with_its_scores(gpu: Gpu, count: int) -> None:
    keys = clustered(5000)
    assert_as_on_the_cpu(device_index(keys, "cuda"), keys, near(keys, 200), count)


def test_without_ranking_anew_they_would_not(gpu: Gpu) -> None:
    """The stand-in's rounding is what the tests need it to be: it changes order and scores."""
    keys = clustered(5000, spread=0.02)
    queries = near(keys, 200)
    rounded, _ = device_index(keys, "cuda").searched.search(queries, 32), None  # type: ignore[attr-defined]
    expected = build_flat(keys).search(queries, 32)
    assert np.abs(rounded[0] - expected[0]).max() > 1e-5
    assert (rounded[1] != expected[1]).any(axis=1).mean() > 0.5
    assert any(set(a) != set(b) for a, b in zip(rounded[1].tolist(), expected[1].tolist(), strict=True))


@pytest.mark.parametrize("spread", [0.003, 0.0001])
def test_keys_that_rounding_confuses_are_told_apart_by_asking_for_more(gpu: Gpu, spread: float) -> None:
    keys = clustered(20_000, spread=spread)
    index = device_index(keys, "cuda")
    assert_as_on_the_cpu(index, keys, near(keys, 50), 32)
    assert max(count for _, count in stand_in_of(index).asked) > 128


def test_where_the_device_can_t_rank_enough_the_host_compares(gpu: Gpu) -> None:
    keys = np.repeat(clustered(4, seed=3), 2500, axis=0)  # of equal ones, no 2,048 show that there is none better
    index = device_index(keys, "cuda")
    assert_as_on_the_cpu(index, keys, near(keys, 20), 32)
    assert_as_on_the_cpu(index, keys, near(keys, 3), 4000)


def test_rounding_is_never_more_than_what_is_allowed_for(gpu: Gpu) -> None:
    chance = np.random.default_rng(5)
    for dim in (1, 8, 384):
        keys = unit(chance.standard_normal((3000, dim))) * chance.uniform(1e-3, 8, (3000, 1)).astype(np.float32)
        queries = unit(chance.standard_normal((50, dim))) * chance.uniform(1e-3, 8, (50, 1)).astype(np.float32)
        index = device_index(keys, "cuda")
        assert isinstance(index, HalfPrecisionIndex)
        error = np.abs(half(queries).astype(float) @ half(keys).astype(float).T - queries.astype(float) @ keys.T)
        allowed = index._rounding(queries)
        assert (error.max(axis=1) < allowed).all()
        assert error.max() > 0.02 * allowed.max()  # and it is not so generous that nothing would be settled


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_vectors_of_any_length_are_found(gpu: Gpu) -> None:
    keys = clustered(3000) * np.random.default_rng(6).uniform(0.1, 3, (3000, 1)).astype(np.float32)
    queries = near(keys, 50) * np.float32(5)
    assert_as_on_the_cpu(device_index(keys, "cuda"), keys, queries, 16)
    assert_as_on_the_cpu(device_index(keys * np.float32(1e6), "cuda"), keys * np.float32(1e6), queries, 16)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_key_that_16_bits_can_t_hold_is_found_all_the_same(gpu: Gpu) -> None:
    keys = clustered(3000)
    queries = near(keys, 20)
    keys *= np.float32(6e4)
    keys[77] = 0
    keys[77, :2] = 2e6, -1e6  # infinite and minus infinite to the device: its score is no number there
    queries[:, :2] = 0.5
    index = device_index(keys, "cuda")
    assert_as_on_the_cpu(index, keys, queries, 4)
    assert (index.search(queries, 4)[1][:, 0] == 77).all()


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_few_keys(gpu: Gpu, rows: int) -> None:
    keys = clustered(rows)
    assert_as_on_the_cpu(device_index(keys, "cuda"), keys, near(keys, 1), rows)
    assert device_index(keys[:0], "cuda").ntotal == 0


def test_a_key_is_given_back_as_it_is_stored(gpu: Gpu) -> None:
    keys = clustered(100)
    assert np.array_equal(device_index(keys, "cuda").reconstruct(7), keys[7])


def test_on_the_cpu_a_query_finds_the_same_in_any_company_so_devices_can_agree() -> None:
    keys = clustered(3000)
    index = build_index(keys)
    queries = near(keys, 64)
    scores, rows = index.search(queries, 32)
    for i, query in enumerate(queries):
        alone, found = index.search(query[None], 32)
        assert np.array_equal(alone[0], scores[i]) and np.array_equal(found[0], rows[i])
        assert np.array_equal(alone[0], exact_scores(query, keys[found[0]]))


def test_memory_is_capped_and_the_caps_can_be_changed(gpu: Gpu) -> None:
    resources = stand_in_of(device_index(clustered(10), "cuda")).resources
    assert (resources.temporary, resources.pinned) == (TEMPORARY_BYTES, PINNED_BYTES)
    resources = stand_in_of(device_index(clustered(10), "cuda", DeviceLimits(1 << 20, 1 << 16))).resources
    assert (resources.temporary, resources.pinned) == (1 << 20, 1 << 16)
    for bad in ({"temporary_bytes": -1}, {"pinned_bytes": -1}, {"share": 0.0}, {"share": 1.1}):
        with pytest.raises(SchemaError):
            DeviceLimits(**bad)  # type: ignore[arg-type]


def test_the_device_is_the_one_that_was_named(gpu: Gpu) -> None:
    keys = clustered(10)
    assert stand_in_of(device_index(keys, "cuda")).config.device == 0
    assert stand_in_of(device_index(keys, "cuda:1")).config.device == 1


def test_keys_and_queries_go_in_parts_that_the_memory_holds(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_CHUNK_BYTES", 4 * DIM * 300)
    keys = clustered(1000)
    index = device_index(keys, "cuda")
    assert stand_in_of(index).added == [300, 300, 300, 100]
    index.search(near(keys, 70), 4)
    assert [queries for queries, _ in stand_in_of(index).asked[:3]] == [32, 32, 6]


def test_the_kind_follows_from_keys_dimensions_and_free_memory() -> None:
    limits = DeviceLimits(temporary_bytes=256 << 20, share=0.5)
    gib = 1 << 30
    assert kind_for(1_000_000, 384, 8 * gib, "cuda", limits) == "flat"  # 1.5 GiB while it is filled
    assert kind_for(3_000_000, 384, 8 * gib, "cuda", limits) == "lists"  # 4.6 GB flat, 1.7 GB in lists
    with pytest.raises(DeviceError, match=r"^cuda:1: an index over 9000000 keys needs .* are free; free some"):
        kind_for(9_000_000, 384, 8 * gib, "cuda:1", limits)
    room = 4 * gib - (256 << 20)
    rows = room // flat_bytes(1, 384)
    assert kind_for(rows, 384, 8 * gib, "cuda", limits) == "flat"
    assert kind_for(rows + 1, 384, 8 * gib, "cuda", limits) == "lists"
    assert flat_bytes(1, 384) > list_bytes(1, 384)


def test_keys_that_fit_only_in_lists_are_found_as_often_as_promised(gpu: Gpu) -> None:
    keys = clustered(5000)
    limits = DeviceLimits(temporary_bytes=0, share=1)
    gpu.free = list_bytes(*keys.shape)
    index = device_index(keys, "cuda", limits)
    assert isinstance(index, KeyIndex) and isinstance(stand_in_of(index), StandInLists)
    assert stand_in_of(index).nprobe < stand_in_of(index).nlist and stand_in_of(index).config.indicesOptions == 1
    queries = near(keys, 500)
    expected = np.argsort(-(queries @ keys.T), axis=1)[:, :4]
    scores, rows = index.search(queries, 4)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(expected, rows, strict=True)]) >= RECALL
    assert all(np.array_equal(own, exact_scores(q, keys[r])) for own, q, r in zip(scores, queries, rows, strict=True))
    assert_as_on_the_cpu(index, keys, queries[:3], 4000)


def test_keys_that_8_bits_don_t_tell_apart_are_refused(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_AIM", 1.01)
    keys = clustered(500)
    gpu.free = list_bytes(*keys.shape)
    with pytest.raises(DeviceError, match="too alike"):
        device_index(keys, "cuda", DeviceLimits(temporary_bytes=0, share=1))


@pytest.mark.parametrize("lists", [False, True])
def test_one_search_at_a_time(gpu: Gpu, lists: bool) -> None:
    keys = clustered(2000)
    if lists:
        gpu.free = list_bytes(*keys.shape)
    index = device_index(keys, "cuda", DeviceLimits(temporary_bytes=0, share=1))
    stand_in_of(index).slow = 0.001
    queries = near(keys, 64)
    expected = [index.search(query[None], 8) for query in queries]
    start = threading.Barrier(8)

    def searches(first: int) -> bool:
        start.wait()
        return all(
            np.array_equal(a, b)
            for i in range(first, 64, 8)
            for a, b in zip(index.search(queries[i : i + 1], 8), expected[i], strict=True)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(searches, range(8)))
    assert not stand_in_of(index).overlapped


def test_what_the_device_reports_is_a_device_error(gpu: Gpu) -> None:
    keys = clustered(100)
    index = device_index(keys, "cuda:1")
    stand_in_of(index).breaks = "CUDA error 719 unspecified launch failure"
    with pytest.raises(DeviceError, match=r"^cuda:1: FAISS: CUDA error 719") as raised:
        index.search(near(keys, 1), 4)
    assert raised.value.device == "cuda:1"
    stand_in_of(index).breaks = None
    assert_as_on_the_cpu(index, keys, near(keys, 1), 4)  # the lock was let go


def test_without_gpu_indexes_in_faiss_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "faiss", SimpleNamespace())
    with pytest.raises(DeviceError, match=r"^cuda: the FAISS that is installed has no GPU indexes; docs/routing\.md"):
        device_index(clustered(10), "cuda")


def test_without_a_driver_it_says_so(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise DeviceError("cuda", "there is no NVIDIA driver here")

    gpu.devices = 0
    monkeypatch.setattr(device_module, "CudaDriver", absent)
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        device_index(clustered(10), "cuda")


def test_without_the_device_that_was_named_it_says_which_there_are(gpu: Gpu) -> None:
    with pytest.raises(DeviceError, match=r"^cuda:2: there is no such device: FAISS finds 2, the last one is cuda:1$"):
        device_index(clustered(10), "cuda:2")
    gpu.devices = 0
    with pytest.raises(DeviceError, match=r"^cuda: FAISS finds no CUDA device; `mome doctor`"):
        device_index(clustered(10), "cuda")


QUESTIONS = [f"what is the code of {name} {number}?" for name in ("door", "safe", "gate") for number in range(60)]


@pytest.fixture
def store(tmp_path: Path) -> ExpertStore:
    chance = np.random.default_rng(0)
    schema = ExpertSchema({"layer": (16, 8)}, rank=2)
    encoder = HashEncoder()
    opened = ExpertStore.create(tmp_path / "store", schema, key_dim=encoder.dim, encoder=encoder.identity)
    with opened.transaction() as transaction:
        for question in QUESTIONS:
            expert = {"layer": (chance.standard_normal((2, 16)), chance.standard_normal((8, 2)))}
            transaction.add_group([expert], keys=encoder.encode([question]), memory=Memory(question, "1"))
    return opened


def routed(router: Router, questions: list[str]) -> list[Any]:
    route = router.route(questions)
    arrays = (*route.expert_ids, *route.weights, route.scores, route.opened)
    return [*(array.tobytes() for array in arrays), route.group_ids]


def test_the_route_is_the_same_on_both_devices(gpu: Gpu, store: ExpertStore) -> None:
    asked = [*QUESTIONS[::7], "what is the code of door?", "who is there?", QUESTIONS[3][:-4]]
    with store.snapshot() as snapshot:
        on_cpu = Router.open(snapshot, HashEncoder(), margin=-1.0)
        on_gpu = Router.open(snapshot, HashEncoder(), margin=-1.0, device="cuda:1")
        assert stand_in_of(on_gpu._index).config.device == 1
        assert routed(on_gpu, asked) == routed(on_cpu, asked)
        assert on_gpu.score(asked) == on_cpu.score(asked)
        assert on_cpu.route(asked).opened.sum() >= len(QUESTIONS[::7])


def test_a_pool_s_route_is_the_same_on_both_devices(gpu: Gpu, tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    encoder = HashEncoder()
    with ExpertStore.create(tmp_path / "pool", ExpertSchema({"layer": (16, 8)}, rank=2), key_dim=encoder.dim) as store:
        with store.transaction() as transaction:
            for key in unit(chance.standard_normal((300, encoder.dim))):
                expert = {"layer": (chance.standard_normal((2, 16)), chance.standard_normal((8, 2)))}
                transaction.add_group([expert], keys=key[None], mode="pool")
            PoolSelection(32, 0.1, np.eye(encoder.dim, dtype=np.float32)).store(transaction)
        with store.snapshot() as snapshot:
            on_cpu, on_gpu = (Router.open(snapshot, encoder, device=device) for device in ("cpu", "cuda"))
            assert routed(on_gpu, QUESTIONS[:20]) == routed(on_cpu, QUESTIONS[:20])
            assert all(len(ids) == 32 for ids in on_gpu.route(QUESTIONS[:20]).expert_ids)


def test_the_index_file_stays_the_cpu_s(gpu: Gpu, store: ExpertStore) -> None:
    with store.snapshot() as snapshot:
        Router.open(snapshot, HashEncoder(), device="cuda")
        assert not list((store.path / "index").glob("*"))
        Router.open(snapshot, HashEncoder())
        [file] = (store.path / "index").iterdir()
        before = file.read_bytes()
        Router.open(snapshot, HashEncoder(), device="cuda")
        assert [*(store.path / "index").iterdir()] == [file] and file.read_bytes() == before


def test_a_refresh_that_fails_leaves_the_router_as_it_was(gpu: Gpu, store: ExpertStore) -> None:
    with store.snapshot() as first:
        router = Router.open(first, HashEncoder(), device="cuda", margin=-1.0)
        before = routed(router, QUESTIONS[:5])
        with store.transaction() as transaction:
            transaction.remove_group(int(router.route(QUESTIONS[:1]).group_ids[0][0]))
        with store.snapshot() as second:
            gpu.free = 0
            with pytest.raises(DeviceError, match="needs"):
                router.refresh(second)
            assert routed(router, QUESTIONS[:5]) == before
            gpu.free = 1 << 34
            router.refresh(second)
            assert routed(router, QUESTIONS[:5]) != before


def test_the_keys_may_be_searched_elsewhere_than_where_the_encoder_is(gpu: Gpu, store: ExpertStore) -> None:
    with store.snapshot() as snapshot:
        assert Router.open(snapshot, HashEncoder(), index_device="cuda").index_device == "cuda"
        assert Router.open(snapshot, HashEncoder(), device="cuda", index_device="cpu").index_device == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CUDA", ""])
def test_a_name_that_is_no_device_is_refused(store: ExpertStore, device: str) -> None:
    with store.snapshot() as snapshot, pytest.raises(SchemaError, match="is no device"):
        Router.open(snapshot, HashEncoder(), device=device)


def test_the_cpu_never_stands_in_for_a_device(store: ExpertStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "faiss", SimpleNamespace())
    with store.snapshot() as snapshot, pytest.raises(DeviceError):
        Router.open(snapshot, HashEncoder(), device="cuda")
    assert not list((store.path / "index").glob("*"))


def test_an_encoder_is_not_loaded_for_a_device_that_torch_lacks(
    gpu: Gpu, store: ExpertStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    with store.snapshot() as snapshot, pytest.raises(DeviceError, match=r"torch .* was built without CUDA"):
        Router.open(snapshot, device="cuda")


@pytest.fixture
def real_gpu() -> None:
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        pytest.skip(GPU_WITHOUT_A_DEVICE)


@pytest.mark.gpu
@pytest.mark.usefixtures("real_gpu")
@pytest.mark.parametrize("count", [1, 32, 256])
def test_on_a_device_search_is_that_of_the_cpu(count: int) -> None:
    keys = clustered(200_000, dim=384)
    assert_as_on_the_cpu(device_index(keys, "cuda"), keys, near(keys, 100), count)


@pytest.mark.gpu
@pytest.mark.usefixtures("real_gpu")
def test_on_a_device_scores_are_off_by_no_more_than_is_allowed_for() -> None:
    keys = clustered(50_000, dim=384)
    index = device_index(keys, "cuda")
    assert isinstance(index, HalfPrecisionIndex)
    queries = near(keys, 64)
    scores, rows = index.searched.search(queries, 256)
    exact = np.einsum("nkd,nd->nk", keys[rows].astype(float), queries.astype(float))
    assert (np.abs(scores - exact) < index._rounding(queries)[:, None]).all()


@pytest.mark.gpu
@pytest.mark.usefixtures("real_gpu")
def test_on_a_device_lists_find_what_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "kind_for", lambda *_: "lists")
    keys = clustered(200_000, dim=384)
    index = device_index(keys, "cuda")
    queries = near(keys, 200)
    expected = build_flat(keys).search(queries, 4)[1]
    _, rows = index.search(queries, 4)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(expected, rows, strict=True)]) >= RECALL


@pytest.mark.gpu
@pytest.mark.usefixtures("real_gpu")
def test_on_a_device_threads_may_search_at_once() -> None:
    keys = clustered(20_000, dim=384)
    index = device_index(keys, "cuda")
    queries = near(keys, 64)
    expected = index.search(queries, 8)[1]
    search: Callable[[int], NDArray[np.int64]] = lambda i: index.search(queries[i : i + 1], 8)[1][0]  # noqa: E731
    with ThreadPoolExecutor(8) as pool:
        assert np.array_equal(np.stack([*pool.map(search, [*range(64)] * 10)]), np.tile(expected, (10, 1)))


@pytest.mark.gpu
@pytest.mark.usefixtures("real_gpu")
def test_a_device_takes_no_more_memory_than_the_arithmetic_says() -> None:
    from mome_store.cuda_driver import CudaDriver

    keys = clustered(500_000, dim=384)
    warm = device_index(keys[:10], "cuda")  # contexts and libraries of their own
    before = CudaDriver().memory_free(0)
    index = device_index(keys, "cuda")
    index.search(near(keys, 64), 32)
    assert before - CudaDriver().memory_free(0) <= flat_bytes(*keys.shape) + TEMPORARY_BYTES
    assert warm.ntotal == 10

"""The index over a store's keys on a GPU: the route is the one that the cpu finds.

The device has the keys in 16-bit floats and compares all of them with a query. What it finds are candidates, which are
scored and ranked on the host by the keys as they are stored (nearest.py): so a key has the same score on either device,
and none of the nearest is missing. Where the first candidates don't suffice for that, more are asked for; where the
device can't rank more, the host compares all keys.

Where so many keys don't fit into the memory that is free they lie in inverted lists with 8 bits a dimension, and as
many lists and candidates are looked at as it takes to find the share `index.RECALL`, as on the cpu.

FAISS's GPU indexes are not thread-safe: one search at a time. The store's index file is the cpu's, and isn't read here.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from mome_store.cuda_driver import CudaDriver
from mome_store.devices import parse_device
from mome_store.errors import DeviceError, SchemaError
from mome_store.routing.index import ITERATIONS, SPARE, TRAINING, KeyIndex, tune
from mome_store.routing.nearest import Floats, NearestKeys, longest, proved

TEMPORARY_BYTES = 256 << 20
"""Device memory that FAISS works in. By default it takes 1.5 GiB, which experts and the model need; `_AT_ONCE` queries
and a `_CHUNK_BYTES` of keys each fit into this. What doesn't is allocated and freed again for each search."""
PINNED_BYTES = 0
"""Host memory that can't be swapped. By default FAISS takes 256 MiB, and uses it only for copies of more queries than
are ever sent at once here."""
SHARE = 0.9
"""Of the free memory that the index may take: others need some too, and memory comes in pieces."""
_AT_ONCE = 32  # queries: FAISS takes 4 MiB for the scores of each, in two tiles of half a million keys
_CHUNK_BYTES = 128 << 20  # of keys in 32 bits; with half as much for the rounded ones it is within TEMPORARY_BYTES
_MOST_RESULTS = 2048  # that FAISS ranks on a device, and lists that it looks at
_FEWEST = 128  # candidates: a key more costs the host 0.4 us, another search far more
_LARGEST_HALF = 65504.0  # a longer vector may have components that 16 bits can't hold
_MORE = 4  # times as many, where they didn't suffice
_FAISS_PLACE = re.compile(r"^Error in .* at \S+: (Error: )?")  # where in FAISS's source an error was raised
_WAYS_OUT = "free some of it, take another device, or use device 'cpu'"


@dataclass(frozen=True)
class DeviceLimits:
    """What an index may take: bytes of device memory to work in, bytes of pinned host memory, share of the memory that
    is free on the device.
    """

    temporary_bytes: int = TEMPORARY_BYTES
    pinned_bytes: int = PINNED_BYTES
    share: float = SHARE

    def __post_init__(self) -> None:
        if self.temporary_bytes < 0 or self.pinned_bytes < 0 or not 0 < self.share <= 1:
            raise SchemaError(f"bytes must not be negative, and the share must be above 0 and at most 1: {self}")


def device_index(keys: Floats, device: str, limits: DeviceLimits | None = None) -> NearestKeys:
    """The index over keys float32 [m, dim], which are kept, on a device such as "cuda" or "cuda:1".

    Raises DeviceError where FAISS has no GPU indexes here, there is no such device, or the keys don't fit into its
    memory.
    """
    limits = limits or DeviceLimits()
    ordinal = check_faiss_device(device)
    keys = np.ascontiguousarray(keys, np.float32)
    rows, dim = keys.shape
    kind = kind_for(rows, dim, CudaDriver().memory_free(ordinal), device, limits)
    resources = _gpu().StandardGpuResources()
    resources.setTempMemory(limits.temporary_bytes)
    resources.setPinnedMemory(limits.pinned_bytes)
    if kind == "flat":
        return HalfPrecisionIndex(keys, _flat(keys, device, ordinal, resources))
    return _in_lists(keys, device, ordinal, resources)


def check_faiss_device(device: str) -> int:
    """The ordinal of a device that FAISS can use. Raises DeviceError where it can't, and says what to do."""
    _, ordinal = parse_device(device)
    if not hasattr(faiss, "StandardGpuResources"):
        raise DeviceError(
            device, "the FAISS that is installed has no GPU indexes; docs/routing.md tells how to install one that has"
        )
    with _reported(device):
        count = faiss.get_num_gpus()
    if not count:
        CudaDriver()  # whose error says more, where there isn't even a driver
        raise DeviceError(device, "FAISS finds no CUDA device; `mome doctor` tells what there is")
    if ordinal >= count:
        raise DeviceError(device, f"there is no such device: FAISS finds {count}, the last one is cuda:{count - 1}")
    return ordinal


def faiss_reaches(device: str) -> bool:
    """Whether FAISS can search on this device; always on the cpu."""
    if parse_device(device)[0] == "cpu":
        return True
    try:
        check_faiss_device(device)
    except DeviceError:
        return False
    return True


def kind_for(rows: int, dim: int, free: int, device: str, limits: DeviceLimits) -> Literal["flat", "lists"]:
    """Which kind of index over so many keys fits into `free` bytes. Raises DeviceError where none does."""
    room = int(limits.share * free) - limits.temporary_bytes
    if flat_bytes(rows, dim) <= room:
        return "flat"
    if list_bytes(rows, dim) <= room:
        return "lists"
    needed = list_bytes(rows, dim) + limits.temporary_bytes
    raise DeviceError(
        device,
        f"an index over {rows} keys needs {needed} bytes of its memory, of which {free} are free; {_WAYS_OUT}",
    )


def flat_bytes(rows: int, dim: int) -> int:
    """Device memory for all keys in 16 bits while they are added: FAISS moves what it has to a larger place with every
    chunk, so twice what it keeps.
    """
    return 2 * rows * (2 * dim + 4)


def list_bytes(rows: int, dim: int) -> int:
    """Device memory for all keys in inverted lists: 8 bits a dimension and a number of 4 bytes for each, and half as
    much again, since lists are unlike in length and grow by leaps.
    """
    return 3 * rows * (dim + 4) // 2


class OneAtATime:
    """A FAISS index on a device, and its resources, that any thread may search.

    Otherwise as FAISS has it: `search(queries, count)`, but with 2,048 results at most; `nprobe` and `nlist`.
    """

    def __init__(self, index: Any, resources: Any, device: str) -> None:
        self.device = device
        self._index = index
        self._resources = resources
        self._lock = threading.Lock()

    @property
    def nlist(self) -> int:
        """How many inverted lists there are."""
        return int(self._index.nlist)

    @property
    def nprobe(self) -> int:
        """How many of them a search looks at."""
        return int(self._index.nprobe)

    @nprobe.setter
    def nprobe(self, probes: int) -> None:
        with self._lock:
            self._index.nprobe = probes

    def search(self, queries: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
        """Scores as the device has them and rows, best first, [n, min(count, 2048)] each; -1 where it found no more."""
        count = min(count, _MOST_RESULTS)
        scores = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        for first in range(0, len(queries), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            with self._lock, _reported(self.device):
                scores[part], rows[part] = self._index.search(queries[part], count)
        return scores, rows


class HalfPrecisionIndex:
    """All keys in 16 bits on a device, and what is found there ranked by the keys themselves (see the module)."""

    def __init__(self, keys: Floats, searched: OneAtATime) -> None:
        self._keys = keys
        self._longest = longest(keys)
        self.searched = searched

    @property
    def ntotal(self) -> int:
        """How many keys there are."""
        return len(self._keys)

    def reconstruct(self, row: int) -> Floats:
        """float32 [dim]: the key, as it is stored."""
        return np.asarray(self._keys[row])

    def search(self, queries: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
        """As NearestKeys has it."""
        return proved(self.searched, self._keys, queries, count, self._efforts(count), self._rounding(queries))

    def _efforts(self, count: int) -> Iterator[int]:
        """How many candidates to look at; none where the device can't rank so many keys as are wanted."""
        most = min(self.ntotal, _MOST_RESULTS)
        looked_at = min(max(_FEWEST, SPARE * count), most)
        if looked_at >= count:
            yield looked_at
            while looked_at < most:
                looked_at = min(_MORE * looked_at, most)
                yield looked_at

    def _rounding(self, queries: Floats) -> NDArray[np.float64]:
        """float64 [n]: by how much a score of the device can differ from the key's own, at most.

        A float of 16 bits is within 2^-11 of its value, and within 2^-25 where that is tiny. So by Cauchy and Schwarz
        an inner product of two rounded vectors is within (2^-10 + 2^-22) |q| |k| of the true one, and 2^-25 sqrt(dim)
        (|q| + |k|) more. Sums of 32-bit floats, there and here, add 2^-22 dim |q| |k| at the very most.
        """
        dim = self._keys.shape[1]
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        relative = 2**-10 + 2**-21 + dim * 2**-22
        tiny = 2**-24 * math.sqrt(dim)
        bound = relative * lengths * self._longest + tiny * (lengths + self._longest)
        held = (lengths <= _LARGEST_HALF) & (self._longest <= _LARGEST_HALF)
        return np.where(held, bound, np.inf)


def _flat(keys: Floats, device: str, ordinal: int, resources: Any) -> OneAtATime:
    gpu = _gpu()
    config = gpu.GpuIndexFlatConfig()
    config.device = ordinal
    config.useFloat16 = True
    config.use_cuvs = False  # one implementation, wherever FAISS was built with both
    with _reported(device):
        index = gpu.GpuIndexFlatIP(resources, keys.shape[1], config)
        for part in _chunks(keys):
            index.add(part)
    return OneAtATime(index, resources, device)


def _in_lists(keys: Floats, device: str, ordinal: int, resources: Any) -> KeyIndex:
    gpu = _gpu()
    rows, dim = keys.shape
    config = gpu.GpuIndexIVFScalarQuantizerConfig()
    config.device = ordinal
    config.indicesOptions = gpu.INDICES_32_BIT
    config.use_cuvs = False
    lists = math.isqrt(rows)
    chance = np.random.default_rng(0)
    sample = keys[np.sort(chance.choice(rows, min(rows, TRAINING * lists), replace=False))]
    with _reported(device):
        codes = gpu.GpuIndexIVFScalarQuantizer(
            resources, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False, config
        )
        codes.cp.niter = ITERATIONS
        codes.cp.seed = 0
        codes.train(sample)
        for part in _chunks(keys):
            codes.add(part)
    searched = OneAtATime(codes, resources, device)
    candidates = tune(searched, keys, chance, most_probes=_MOST_RESULTS, most_results=_MOST_RESULTS)
    if candidates is None:
        raise DeviceError(
            device,
            f"it has room for {rows} keys only in 8 bits a dimension, and they are too alike for that; {_WAYS_OUT}",
        )
    return KeyIndex(keys, searched, candidates)


def _chunks(keys: Floats) -> list[Floats]:
    """The keys in parts of at most `_CHUNK_BYTES`."""
    step = max(1, _CHUNK_BYTES // max(1, 4 * keys.shape[1]))
    return [keys[first : first + step] for first in range(0, len(keys), step)]


@contextmanager
def _reported(device: str) -> Iterator[None]:
    """What FAISS raises of the device becomes a DeviceError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DeviceError(device, f"FAISS: {_FAISS_PLACE.sub('', lines[-1])}") from error


def _gpu() -> Any:
    """FAISS, with what only its GPU build has and the types of the other don't know."""
    return faiss

"""ExpertCache: from a route to records that are checked and pinned in memory.

With a capacity the cache has that many bytes of slots on its device: records are read into them, and evicted from them
when others need the room. Without one, on the cpu, a record is used where it lies in the shard's mapping: nothing is
copied and nothing is evicted. docs/runtime.md tells how both work.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mome_store import _core
from mome_store.devices import parse_device
from mome_store.errors import ClosedError, SchemaError
from mome_store.runtime.cuda import extension
from mome_store.runtime.lease import Lease
from mome_store.runtime.metrics import prometheus_text
from mome_store.runtime.trace import TraceWriter

if TYPE_CHECKING:
    from mome_store.store import ExpertSchema, Snapshot

DTYPE_CODES = {"bfloat16": 0, "float16": 1, "float32": 2}
"""How the C++ core names the dtypes of a schema."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


DEFAULT_CAPACITY = 512 << 20
"""Bytes of slots on a device whose memory is not the host's."""


class RoutedExperts(Protocol):
    """What the cache needs of a route: for each sequence of a batch its expert ids and as many weights."""

    @property
    def expert_ids(self) -> Sequence[NDArray[np.int64]]: ...
    @property
    def weights(self) -> Sequence[NDArray[np.float32]]: ...


POLICIES = ("lru", "clock", "s3fifo", "lfu")
READERS = ("auto", "mmap", "pread", "io_uring")


class ExpertCache:
    """Gives out leases over the experts of a snapshot. Safe to use from several threads.

    device: "cpu", or "cuda" ("cuda:1" for the second one).
    capacity: bytes of slots (a number, or text such as "512MiB"); a slot holds one record. None: on the cpu no slots,
        records are used in the mapping; on a CUDA device 512 MiB.
    policy: which slot is given up first: "s3fifo", "lru", "clock" or "lfu". `mome replay` tells which suits a workload.
    reader: how records get into slots: "mmap" (copies out of the mapping), "pread" (through the page cache),
        "io_uring" (past it, O_DIRECT), or "auto": what is in the page cache from there, the rest by whichever suits.
        What can't be had here is replaced, with a RuntimeWarning. Without slots only "auto" and "mmap" make sense.
    verify: "record" checks a record's checksum whenever it enters a slot (without slots: before its first use); "open"
        only its trailer. The shards' sizes and indexes are checked now, in both modes.
    staging: buffers between the reader and the slots; 0: none on the cpu, where reads go straight into the slots, and
        64 elsewhere.
    timeout: seconds that a lease waits for slots that other leases hold, and for a read.
    trace: a file to record every acquired route in, for `mome replay` (mome_store.runtime.trace); None: no recording.

    Raises `SchemaError` for a setting that is none of these, `CapacityError` when the capacity is below one record,
    `DeviceError` when there is no such device or it can't be used, `DeviceMemoryError` when it has not so much memory,
    `DamagedStoreError` and `ReadError` when the snapshot's shards are not what was committed or can't be opened,
    `TraceError` when the trace can't be written.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        device: str = "cpu",
        capacity: int | str | None = None,
        policy: str = "s3fifo",
        reader: str = "auto",
        verify: str = "record",
        staging: int = 0,
        timeout: float = 30.0,
        trace: str | Path | None = None,
        *,
        _delays: tuple[int, int] | None = None,
    ) -> None:
        """_delays: for tests: makes reads come late and out of order; a seed, and the longest delay in microseconds."""
        kind, ordinal = parse_device(device)
        _one_of("policy", policy, POLICIES)
        _one_of("reader", reader, READERS)
        _one_of("verify", verify, ("record", "open"))
        if capacity is None and kind != "cpu":
            capacity = max(DEFAULT_CAPACITY, snapshot.schema.record_bytes)
        if capacity is None and reader not in ("auto", "mmap"):
            raise SchemaError(f"the reader {reader!r} fills slots: give the cache a capacity")
        if staging < 0 or not timeout > 0:
            raise SchemaError("staging must not be negative and the timeout must be above 0")
        self.device = device
        self.policy = policy
        on_device = _core.make_device("cpu") if kind == "cpu" else extension().make_device(ordinal)
        self._current_stream = None if kind == "cpu" else partial(_current_stream, ordinal)
        self._verify = verify
        self._reader: _core.ReaderChoice | None = None
        if capacity is not None:
            self._reader = _core.ReaderChoice(reader, _sources(snapshot))
            if self._reader.fallback:
                warnings.warn(self._reader.fallback, RuntimeWarning, stacklevel=2)
        slots = None if capacity is None else parse_bytes(capacity) // snapshot.schema.record_bytes
        shards = self._open(snapshot, None)
        self._core: _core.ExpertCache | None = _core.ExpertCache(
            shards, slots, on_device, policy, self._reader, staging, timeout, _delays
        )
        self._trace = None if trace is None else TraceWriter(trace, snapshot.schema.record_bytes)

    @property
    def reader(self) -> str:
        """How records are read, in words."""
        if self._reader is None:
            return "mapped in place"
        how = f"{self._reader.reader}{' (O_DIRECT)' if self._reader.direct else ''}"
        return f"what is in the page cache from there, the rest by {how}" if self._reader.tiered else how

    @property
    def slots(self) -> int | None:
        """How many records there is room for; None: no slots."""
        return self._opened().slots

    def prefetch(self, route: RoutedExperts) -> None:
        """Starts fetching the route's records, without waiting: as many as there is room for.

        Raises `UnknownIdError` naming every id that the snapshot does not hold.
        """
        _, ids, _ = _flat(route)
        self._opened().prefetch(ids)

    def acquire(self, route: RoutedExperts, *, wait: bool = True) -> Lease:
        """Pins the route's experts and returns them as the kernels take them.

        wait: False returns at once, while records are still on their way; `Lease.wait`, or asking the lease for an
        array, waits for them.

        Raises `SchemaError` (ids and weights do not pair up, or a weight is not finite), `UnknownIdError` (naming every
        unknown id) and `CapacityError` (at once when there are more experts than slots; after the timeout when other
        leases hold too many) before anything is read; when waiting, `DamagedStoreError` or `ReadError` for a record
        that is not what was committed or can't be read.
        """
        lease = self._opened().reserve(*_flat(route))
        if wait:
            try:
                lease.wait()
            except BaseException:
                del lease  # the error's traceback would keep the slots held
                raise
        if self._trace is not None:
            self._trace.append(route.expert_ids)
        return Lease(lease, self.device, self._current_stream)

    def pin(self, expert_ids: Iterable[int]) -> None:
        """Fetches a hot set of experts and keeps it from being evicted; it takes the place of the one before.

        Raises as `acquire` does. Experts that a refresh no longer finds are unpinned.
        """
        self._opened().pin(np.fromiter(expert_ids, np.int64))

    def refresh(self, snapshot: Snapshot) -> None:
        """Serves another snapshot of the same store from now on.

        Slots and mappings that are valid in both are kept. Leases that are out are not disturbed, also where their
        experts are no longer in the store. Raises `SchemaError` for a snapshot with records of another kind.
        """
        core = self._opened()
        core.refresh(self._open(snapshot, core.shards))

    def stats(self) -> dict[str, int | float | str | None]:
        """What has been counted since the cache was made, and how it is now.

        leases, leases_live; experts_leased = hits + joins (were on their way) + misses; evictions, loads_failed,
        records_prefetched, records_checked; bytes_from_memory (page cache), bytes_from_disk, bytes_staged;
        queue_depth (loads under way now), queue_depth_peak; stall_seconds (of all leases' waits), stall_p50_seconds,
        stall_p99_seconds; slots (None: no slots), slots_free, slots_held (leased, pinned or loading); of the present
        snapshot: experts, shards, bytes_mapped, record_bytes; device, policy, reader.
        """
        counted = self._opened().statistics()
        return {**counted, "device": self.device, "policy": self.policy, "reader": self.reader}

    def prometheus(self) -> str:
        """`stats` in Prometheus' text format, metrics named `mome_cache_...`."""
        return prometheus_text(self.stats())

    def close(self) -> None:
        """Gives slots and mappings up, as soon as the last lease is released. A second call does nothing."""
        self._core = None
        if self._trace is not None:
            self._trace.close()

    def __enter__(self) -> Self:
        self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> _core.ExpertCache:
        if self._core is None:
            raise ClosedError("the expert cache is closed")
        return self._core

    def _open(self, snapshot: Snapshot, previous: _core.ShardSet | None) -> _core.ShardSet:
        return _core.ShardSet(
            layout=record_layout(snapshot.schema),
            schema_crc=snapshot.schema.crc,
            rows_per_shard=snapshot.rows_per_shard,
            check_records=self._verify == "record",
            shards=_sources(snapshot),
            experts=snapshot.expert_runs,
            previous=previous,
            reader=self._reader,
        )


def record_layout(schema: ExpertSchema) -> _core.RecordLayout:
    """The C++ core's view of a schema."""
    return _core.RecordLayout(list(schema.modules.values()), schema.rank, DTYPE_CODES[schema.dtype])


def parse_bytes(text: int | str) -> int:
    """A number of bytes from a number or from text such as "512MiB" or "2 GB"; `SchemaError` if it is neither."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    if isinstance(text, str):
        match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", text)
        if match and match[2].upper() in _UNITS:
            return int(match[1]) * _UNITS[match[2].upper()]
    raise SchemaError(f"{text!r} is no number of bytes; write for example 512MiB")


def _sources(snapshot: Snapshot) -> list[tuple[int, int, str, int, int]]:
    """The shards of experts as the C++ core opens them."""
    return [
        (shard.number, shard.fd, str(shard.path), shard.bytes, shard.index_crc)
        for shard in snapshot.shards
        if shard.array == "experts"
    ]


def _flat(route: RoutedExperts) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """How many experts each sequence has; the ids and the weights of all, one after the other."""
    ids, weights = route.expert_ids, route.weights
    shapes, weight_shapes = [each.shape for each in ids], [each.shape for each in weights]
    if shapes != weight_shapes or any(len(shape) != 1 for shape in shapes):
        raise SchemaError(f"a route needs as many weights as experts, but they are shaped {weight_shapes} and {shapes}")
    counts = np.array([shape[0] for shape in shapes], np.int64)
    if len(ids) == 1:
        return counts, ids[0], weights[0]
    return (
        counts,
        np.concatenate(ids) if ids else np.empty(0, np.int64),
        np.concatenate(weights) if ids else np.empty(0, np.float32),
    )


def _one_of(setting: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SchemaError(f"{setting} must be {' or '.join(map(repr, allowed))}, not {value!r}")


def _current_stream(ordinal: int) -> int:
    """The handle of the stream that torch puts its work into."""
    import torch

    return torch.cuda.current_stream(ordinal).cuda_stream

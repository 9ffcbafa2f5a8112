"""ExpertCache: from a route to records that are checked and pinned in memory.

On the cpu device a record is used where it lies in the shard's mapping; nothing is copied and nothing is evicted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mome_store import _core
from mome_store.errors import ClosedError, SchemaError
from mome_store.runtime.lease import Lease

if TYPE_CHECKING:
    from mome_store.store import ExpertSchema, Snapshot

DTYPE_CODES = {"bfloat16": 0, "float16": 1, "float32": 2}
"""How the C++ core names the dtypes of a schema."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class RoutedExperts(Protocol):
    """What the cache needs of a route: for each sequence of a batch its expert ids and as many weights."""

    @property
    def expert_ids(self) -> Sequence[NDArray[np.int64]]: ...
    @property
    def weights(self) -> Sequence[NDArray[np.float32]]: ...


class ExpertCache:
    """Gives out leases over the experts of a snapshot. Safe to use from several threads.

    device: "cpu".
    capacity: bytes (a number, or text such as "512MiB") that bound how many distinct experts one lease may pin;
        None: no bound.
    policy: which slot is given up first; it has no effect on the cpu, where no record is copied into a slot.
    reader: how records are read; "mmap", which is also what "auto" picks on the cpu.
    verify: "record" checks a record's checksum before its first use; "open" only its trailer. The shards' sizes and
        indexes are checked now, in both modes.

    Raises `SchemaError` for a setting that is none of these, `CapacityError` when the capacity is below one record,
    `DamagedStoreError` and `ReadError` when the snapshot's shards are not what was committed or can't be mapped.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        device: str = "cpu",
        capacity: int | str | None = None,
        policy: str = "s3fifo",
        reader: str = "auto",
        verify: str = "record",
    ) -> None:
        _one_of("device", device, ("cpu",))
        _one_of("policy", policy, ("s3fifo",))
        _one_of("reader", reader, ("auto", "mmap"))
        _one_of("verify", verify, ("record", "open"))
        self.device = device
        self._verify = verify
        slots = None if capacity is None else parse_bytes(capacity) // snapshot.schema.record_bytes
        shards = self._open(snapshot, None)
        self._core: _core.ExpertCache | None = _core.ExpertCache(shards, slots)

    def prefetch(self, route: RoutedExperts) -> None:
        """Starts reading the route's records into the page cache, without waiting for them.

        Raises `UnknownIdError` naming every id that the snapshot does not hold.
        """
        ids, _ = _flat(route)
        self._opened().prefetch(ids)

    def acquire(self, route: RoutedExperts) -> Lease:
        """Pins the route's experts and returns them as the kernels take them.

        Raises `SchemaError` (ids and weights do not pair up, or a weight is not finite), `UnknownIdError` (naming every
        unknown id) and `CapacityError` before anything is read; then `DamagedStoreError` or `ReadError` for the first
        record that is not what was committed or can't be read.
        """
        ids, weights = _flat(route)
        counts = np.fromiter((len(each) for each in route.expert_ids), np.int64, len(route.expert_ids))
        return Lease(self._opened().acquire(counts, ids, weights))

    def refresh(self, snapshot: Snapshot) -> None:
        """Serves another snapshot of the same store from now on.

        Shards that both hold stay mapped, and records once checked stay so. Leases that are out are not disturbed.
        """
        core = self._opened()
        core.refresh(self._open(snapshot, core.shards))

    def stats(self) -> dict[str, int | None]:
        """Counts since the cache was made.

        leases, leases_live (not yet released), experts_leased (distinct ones, summed over leases), records_checked (of
        those, first uses), records_prefetched; and of the present snapshot: experts, shards, bytes_mapped,
        record_bytes, slots (None: no bound).
        """
        return self._opened().counters()

    def close(self) -> None:
        """Gives the mappings up, as soon as the last lease is released. A second call does nothing."""
        self._core = None

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
        shards = [
            (shard.number, shard.fd, str(shard.path), shard.bytes, shard.index_crc)
            for shard in snapshot.shards
            if shard.array == "experts"
        ]
        return _core.ShardSet(
            layout=record_layout(snapshot.schema),
            schema_crc=snapshot.schema.crc,
            rows_per_shard=snapshot.rows_per_shard,
            check_records=self._verify == "record",
            shards=shards,
            ids=snapshot.expert_ids,
            rows=snapshot.expert_rows,
            groups=snapshot.expert_groups,
            previous=previous,
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


def _flat(route: RoutedExperts) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ids and weights of all sequences, one after the other."""
    ids, weights = [each.shape for each in route.expert_ids], [each.shape for each in route.weights]
    if ids != weights or any(len(shape) != 1 for shape in ids):
        raise SchemaError(f"a route needs as many weights as experts, but they are shaped {weights} and {ids}")
    return (
        np.concatenate([np.empty(0, np.int64), *route.expert_ids]).astype(np.int64, copy=False),
        np.concatenate([np.empty(0, np.float32), *route.weights]).astype(np.float32, copy=False),
    )


def _one_of(setting: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SchemaError(f"{setting} must be {' or '.join(map(repr, allowed))}, not {value!r}")

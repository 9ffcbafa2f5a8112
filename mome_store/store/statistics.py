"""How much a store holds, and how much of it is dead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mome_store.store.catalog import count_retired
from mome_store.store.expert_store import ExpertStore
from mome_store.store.snapshot import Snapshot


@dataclass(frozen=True)
class StoreStatistics:
    """A store as of one commit.

    groups, experts_live, keys: live rows; experts_dead: retired ones whose records are still in the files.
    shards: files of both arrays. record_bytes: of one expert.
    bytes_live: of the live records and keys; bytes_dead: of the retired ones, which compaction would give back. The
    shards' indexes and the catalogue are in neither.
    """

    commit: int
    groups: int
    experts_live: int
    experts_dead: int
    keys: int
    shards: int
    bytes_live: int
    bytes_dead: int
    record_bytes: int


def statistics(store: Snapshot | Path | str) -> StoreStatistics:
    """The statistics of a snapshot, or of the newest commit of the store at a path."""
    if not isinstance(store, Snapshot):
        with ExpertStore.open(store) as opened, opened.snapshot() as snapshot:
            return statistics(snapshot)
    record_bytes, key_bytes = store.schema.record_bytes, 4 * store.key_dim
    experts_dead = count_retired(store.path, "experts", store.commit)
    keys_dead = count_retired(store.path, "keys", store.commit)
    return StoreStatistics(
        commit=store.commit,
        groups=len(store.group_ids),
        experts_live=len(store.expert_ids),
        experts_dead=experts_dead,
        keys=len(store.key_rows),
        shards=len(store.shards),
        bytes_live=len(store.expert_ids) * record_bytes + len(store.key_rows) * key_bytes,
        bytes_dead=experts_dead * record_bytes + keys_dead * key_bytes,
        record_bytes=record_bytes,
    )

"""Where a store's bytes are: live and dead rows, indexes, the catalogue, caches, files that nothing names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mome_store.inspection.shard_map import RowState, ShardMap
from mome_store.store.catalog import CATALOG_NAME
from mome_store.store.zarr_metadata import ARRAYS, ZARR_JSON, ArrayName

_INDEX_FOLDER = "index"


@dataclass(frozen=True)
class Sizes:
    """Bytes. live, dead, damaged: of rows. shard_indexes: at the end of each shard. catalog: with what SQLite keeps
    beside it. router_index: the cache, which may be deleted. metadata: the `zarr.json`s. unnamed: shard files that the
    newest commit does not name, left of a crash or kept for older snapshots.
    """

    live: int
    dead: int
    damaged: int
    shard_indexes: int
    catalog: int
    router_index: int
    metadata: int
    unnamed: int
    unnamed_files: int

    @property
    def total(self) -> int:
        rows = self.live + self.dead + self.damaged
        return rows + self.shard_indexes + self.catalog + self.router_index + self.metadata + self.unnamed


@dataclass(frozen=True)
class Compaction:
    """What merging an array's shards would make of them. shards: files now; needed: as few would hold the live rows."""

    array: ArrayName
    shards: int
    needed: int
    dead_share: float

    @property
    def due(self) -> bool:
        """More than twice the files and four more than it takes, or a quarter of the written rows dead."""
        return self.shards > max(2 * self.needed, self.needed + 4) or self.dead_share > 0.25


def measure_sizes(directory: Path, shards: Sequence[ShardMap]) -> Sizes:
    """The sizes of the store at `directory`, whose newest commit has these shards (none: it can't be read)."""

    def rows(state: RowState) -> int:
        return sum(shard.count(state) * shard.row_bytes for shard in shards)

    named = {shard.file for shard in shards}
    unnamed = [size for name, size in _shard_files(directory) if name not in named]
    return Sizes(
        live=rows(RowState.LIVE),
        dead=rows(RowState.DEAD),
        damaged=rows(RowState.DAMAGED),
        shard_indexes=sum(shard.index_bytes for shard in shards),
        catalog=sum(_size(directory / (CATALOG_NAME + suffix)) for suffix in ("", "-wal", "-shm")),
        router_index=sum(size for _, size in _files(directory / _INDEX_FOLDER)),
        metadata=sum(_size(directory / folder / ZARR_JSON) for folder in ("", *ARRAYS)),
        unnamed=sum(unnamed),
        unnamed_files=len(unnamed),
    )


def compactions(shards: Sequence[ShardMap]) -> tuple[Compaction, ...]:
    """Of each array that has shards."""
    found = []
    for array in ARRAYS:
        own = [shard for shard in shards if shard.array == array]
        if own:
            live = sum(shard.count(RowState.LIVE) + shard.count(RowState.DAMAGED) for shard in own)
            dead = sum(shard.count(RowState.DEAD) for shard in own)
            written = sum(shard.written for shard in own)
            found.append(Compaction(array, len(own), -(-live // own[0].rows), dead / max(written, 1)))
    return tuple(found)


def _shard_files(directory: Path) -> Iterator[tuple[str, int]]:
    for array in ARRAYS:
        for path, size in _files(directory / array / "c"):
            yield str(path.relative_to(directory)), size


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every file below a folder and its size; none where it is missing or can't be listed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            yield path, _size(path)


def _size(path: Path) -> int:
    """0 where the file is missing: verify says so where it must not be."""
    try:
        return path.stat().st_size
    except OSError:
        return 0

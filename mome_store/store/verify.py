"""Is a store whole? Finds all damage, not just the first, and never changes anything.

Fast: the catalogue against its checksums and SQLite's own rules, the `zarr.json` files, every shard's size and index.
Deep: also every live record's trailer and checksum, and every shard's keys (shard_check.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import DamagedStoreError, ReadError
from mome_store.store.catalog import CATALOG_NAME, CatalogState, integrity_problems, load_state, memory_problems
from mome_store.store.damage import Damage
from mome_store.store.expert_store import find_store
from mome_store.store.runs import expert_columns, group_columns, key_columns
from mome_store.store.shard import Shard, ShardRow, index_bytes
from mome_store.store.shard_check import LiveExperts, ShardChecker
from mome_store.store.zarr_metadata import metadata_problems, shard_path

_FOUND = (DamagedStoreError, ReadError)

OnProgress = Callable[[int, int], None]
"""Is told how many bytes of the shards have been checked, and of how many."""


@dataclass(frozen=True)
class VerifyReport:
    """ok: nothing is damaged. commit: the one that was checked, None when the catalogue can't be read."""

    ok: bool
    commit: int | None
    damage: tuple[Damage, ...]


def verify(path: Path | str, deep: bool = False, on_progress: OnProgress | None = None) -> VerifyReport:
    """Checks the newest commit of the store at `path`.

    deep: reads every live record and key as well, with some 40 MiB of buffers.
    Raises StoreNotFoundError where no store is and FormatVersionError for a newer one; damage is reported, not raised.
    """
    directory = Path(path)
    damage: list[Damage] = []
    attributes: dict[str, Any] | None = None
    state: CatalogState | None = None
    try:
        attributes = find_store(directory)
    except _FOUND as error:
        damage.append(Damage.of(error))
    try:
        damage += [Damage(CATALOG_NAME, None, None, problem) for problem in integrity_problems(directory)]
        state = load_state(directory)
    except _FOUND as error:
        damage.append(Damage.of(error))
    if state is not None:
        if attributes is not None:
            problems = metadata_problems(directory, attributes, state.layout, state.rows())
            damage += [Damage(file, None, None, problem) for file, problem in problems]
        with ThreadPoolExecutor(1) as beside:  # texts keep a processor busy, records the disk
            texts = beside.submit(_memory_damage, directory, state)
            shards = list(shard_damage(directory, state, deep, on_progress))
        damage += texts.result() + shards
    return VerifyReport(ok=not damage, commit=None if state is None else state.commit.id, damage=tuple(damage))


def shard_damage(
    directory: Path, state: CatalogState, deep: bool, on_progress: OnProgress | None = None
) -> Iterator[Damage]:
    """All damage to the shards of `state`. Those that a newer commit has done away with meanwhile don't count; what it
    put in their place is checked as well.
    """
    progress = _Progress(on_progress)
    checker = ShardChecker(state.layout.schema, state.layout.key_dim, progress.add) if deep else None
    seen: set[ShardRow] = set()
    with checker or nullcontext():
        newest: CatalogState | None = state
        while newest is not None:
            state, newest = newest, None
            left = [row for row in state.shards if row not in seen]
            seen.update(left)
            contents = Contents(state)
            index = index_bytes(state.layout.rows_per_shard)
            progress.expect(sum(index + (contents.bytes(row) if deep else 0) for row in left))
            for row in left:
                progress.add(index)
                try:
                    shard = Shard(directory, state.layout, row)
                except _FOUND as error:
                    progress.add(contents.bytes(row) if deep else 0)
                    later = _commit_without(directory, state, row)
                    if later is None:
                        yield Damage.of(error)
                    newest = later or newest
                    continue
                if checker is None:
                    shard.close()
                elif row.array == "experts":
                    yield from checker.add_experts(shard, contents.experts(row))
                else:
                    yield from checker.add_keys(shard, contents.keys(row))
        if checker is not None:
            yield from checker.finish()


def _commit_without(directory: Path, state: CatalogState, row: ShardRow) -> CatalogState | None:
    """The newest commit's state, where that is a later one that has no use for the shard and the file is gone."""
    if shard_path(directory, row.array, row.number).exists():
        return None
    try:
        newest = load_state(directory, state)
    except _FOUND:
        return None
    return None if newest.commit == state.commit or row in newest.shards else newest


class Contents:
    """Which live rows each shard holds. all_experts: of all shards, rows ascending."""

    def __init__(self, state: CatalogState) -> None:
        self._layout = state.layout
        self.all_experts = LiveExperts(*expert_columns(state.experts))
        self._keys = key_columns(state.keys)[0]

    def experts(self, row: ShardRow) -> LiveExperts:
        return self.all_experts.taken(self._within(row, self.all_experts.rows))

    def keys(self, row: ShardRow) -> NDArray[np.int64]:
        return self._keys[self._within(row, self._keys)]

    def bytes(self, row: ShardRow) -> int:
        """How many bytes a deep check covers: of experts the live ones, of keys all."""
        rows = len(self.experts(row).rows) if row.array == "experts" else row.rows
        return rows * self._layout.row_bytes(row.array)

    def _within(self, row: ShardRow, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in `rows`, which ascend, of those that lie in the shard."""
        first = row.number * self._layout.rows_per_shard
        return np.arange(*np.searchsorted(rows, [first, first + self._layout.rows_per_shard]))


class _Progress:
    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._done = self._total = 0

    def expect(self, count: int) -> None:
        self._total += count

    def add(self, count: int) -> None:
        self._done += count
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)


def _memory_damage(directory: Path, state: CatalogState) -> list[Damage]:
    ids = group_columns(state.groups)[3]
    try:
        return [Damage(CATALOG_NAME, None, None, problem) for problem in memory_problems(directory, ids[ids != 0])]
    except _FOUND as error:
        return [Damage.of(error)]

"""Is a store whole? Finds all damage, not just the first, and never changes anything.

Fast: the catalogue against its checksums and SQLite's own rules, the `zarr.json` files, every shard's size and index.
Deep: also every live record's trailer and checksum, and every shard's keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import DamagedStoreError, ReadError
from mome_store.store.catalog import CATALOG_NAME, CatalogState, integrity_problems, load_memories, load_state
from mome_store.store.expert_store import find_store
from mome_store.store.record import record_problem
from mome_store.store.runs import expert_columns, group_columns, key_columns
from mome_store.store.schema import ExpertSchema
from mome_store.store.shard import Shard
from mome_store.store.zarr_metadata import metadata_problems

_FOUND = (DamagedStoreError, ReadError)


@dataclass(frozen=True)
class Damage:
    """One thing that is not as committed. `row` and `expert_id` are None where the damage is not that small."""

    file: str
    row: int | None
    expert_id: int | None
    problem: str


@dataclass(frozen=True)
class VerifyReport:
    """ok: nothing is damaged. commit: the one that was checked, None when the catalogue can't be read."""

    ok: bool
    commit: int | None
    damage: tuple[Damage, ...]


def verify(path: Path | str, deep: bool = False) -> VerifyReport:
    """Checks the newest commit of the store at `path`.

    Raises StoreNotFoundError where no store is and FormatVersionError for a newer one; damage is reported, not raised.
    """
    directory = Path(path)
    damage: list[Damage] = []
    attributes: dict[str, Any] | None = None
    state: CatalogState | None = None
    try:
        attributes = find_store(directory)
    except _FOUND as error:
        damage.append(_damage(error))
    try:
        damage += [Damage(CATALOG_NAME, None, None, problem) for problem in integrity_problems(directory)]
        state = load_state(directory)
    except _FOUND as error:
        damage.append(_damage(error))
    if state is not None:
        if attributes is not None:
            problems = metadata_problems(directory, attributes, state.layout, state.rows())
            damage += [Damage(file, None, None, problem) for file, problem in problems]
        damage += _memory_damage(directory, group_columns(state.groups)[3])
        damage += _shard_damage(directory, state, deep)
    return VerifyReport(ok=not damage, commit=None if state is None else state.commit.id, damage=tuple(damage))


def _memory_damage(directory: Path, ids: NDArray[np.int64]) -> Iterator[Damage]:
    ids = ids[ids != 0]
    for start in range(0, len(ids), 1000):
        page = ids[start : start + 1000]
        if not any(_unreadable(directory, page)):
            continue
        for i in range(len(page)):
            yield from _unreadable(directory, page[i : i + 1])


def _unreadable(directory: Path, ids: NDArray[np.int64]) -> Iterator[Damage]:
    try:
        for _ in load_memories(directory, ids):
            pass
    except _FOUND as error:
        yield _damage(error)


def _shard_damage(directory: Path, state: CatalogState, deep: bool) -> Iterator[Damage]:
    rows, expert_ids, group_ids = expert_columns(state.experts)
    key_rows, _ = key_columns(state.keys)
    for row in state.shards:
        try:
            shard = Shard(directory, state.layout, row)
        except _FOUND as error:
            yield _damage(error)
            continue
        with closing(shard):
            if deep:
                first = shard.info.first_row
                bounds = [first, first + state.layout.rows_per_shard]
                if row.array == "experts":
                    held = slice(*np.searchsorted(rows, bounds))
                    experts = zip(rows[held].tolist(), expert_ids[held].tolist(), group_ids[held].tolist(), strict=True)
                    yield from _record_damage(shard, state.layout.schema, experts)
                else:
                    yield from _key_damage(shard, key_rows[slice(*np.searchsorted(key_rows, bounds))].tolist())


def _record_damage(shard: Shard, schema: ExpertSchema, experts: Iterable[tuple[int, int, int]]) -> Iterator[Damage]:
    """experts: row, id and group of each."""
    for row, expert_id, group_id in experts:
        try:
            problem = record_problem(schema, shard.read_row(row), expert_id, group_id)
        except _FOUND as error:
            problem = str(error)
        if problem is not None:
            yield Damage(shard.file, row, expert_id, problem)


def _key_damage(shard: Shard, rows: Iterable[int]) -> Iterator[Damage]:
    try:
        shard.read_content()
    except _FOUND as error:
        yield _damage(error)
    for row in rows:
        try:
            if not np.isfinite(np.frombuffer(shard.read_row(row), "<f4")).all():
                yield Damage(shard.file, row, None, "the key is not finite")
        except _FOUND as error:
            yield _damage(error)


def _damage(error: DamagedStoreError | ReadError) -> Damage:
    if isinstance(error, DamagedStoreError):
        return Damage(error.file, error.row, error.expert_id, error.problem)
    return Damage(error.path, None, None, str(error))

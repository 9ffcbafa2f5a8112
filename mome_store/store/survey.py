"""What damage means for a store whose catalogue is confirmed: which groups, keys and memories are lost, which shards
can be written anew, and the one commit that says so.

A group that lost one of its experts is not whole, and is retired. A group that lost its keys stays: nothing finds it
until it has new ones, but its experts are as they were. Keys have no checksums of their own, so all keys of a shard
whose checksum is wrong are lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mome_store.errors import DamagedStoreError, ReadError
from mome_store.store.catalog import CATALOG_NAME, CatalogState, load_memories
from mome_store.store.catalog_changes import CatalogChanges
from mome_store.store.damage import Damage
from mome_store.store.memory import Memory
from mome_store.store.repair_plan import Loss, Plan, Written, facts_text
from mome_store.store.runs import GroupRun, group_columns, key_columns
from mome_store.store.salvage import NewShard, is_damage, raw_file, restored, scan_records
from mome_store.store.shard import Shard, ShardRow
from mome_store.store.verify import Contents, OnProgress, shard_damage
from mome_store.store.zarr_metadata import ARRAYS, shard_path


@dataclass
class _Found:
    """What the files hold, by array row.

    offsets: where each live record that is whole starts; of those that are not, where they were (-1: nowhere).
    problems: of live experts' rows and of keys' rows that are lost. broken: shards that can't be opened. new: of those,
    the ones whose rows are all whole. bad_keys: shards of keys whose content is wrong.
    """

    offsets: dict[int, int]
    expert_problems: dict[int, str]
    key_problems: dict[int, str]
    broken: list[ShardRow]
    new: list[NewShard]


def survey(directory: Path, state: CatalogState, on_progress: OnProgress | None) -> Plan:
    """The plan that makes the store whole. Reads every record and key."""
    contents = Contents(state)
    ids = group_columns(state.groups)[0]
    experts = contents.all_experts
    damage = list(shard_damage(directory, state, True, on_progress))
    memories, lost_memories = readable_memories(directory, state)
    if not damage and not lost_memories:
        return Plan(experts=len(experts.rows), groups=len(ids))
    found = _read(directory, state, contents, damage)
    group_of = dict(zip(experts.rows.tolist(), experts.groups.tolist(), strict=True))
    lost_groups = {group_of[row] for row in found.expert_problems}

    plan = Plan(experts=0, groups=len(ids) - len(lost_groups), new_shards=list(found.new))
    for row, expert_id, group_id in zip(
        *(a.tolist() for a in (experts.rows, experts.ids, experts.groups)), strict=True
    ):
        if group_id not in lost_groups:
            plan.experts += 1
            continue
        number = row // state.layout.rows_per_shard
        file = str(shard_path(directory, "experts", number).relative_to(directory))
        what = found.expert_problems.get(row, "whole, but its group lost another expert; the record is set aside")
        plan.lost.append(Loss(file, row, expert_id, group_id, what))
        if found.offsets.get(row, -1) >= 0:
            plan.copies[f"records/{expert_id}"] = (file, found.offsets[row])

    changed: list[tuple[ShardRow, NewShard | None]] = []
    exact = {(new.array, new.number) for new in found.new}
    size = state.layout.rows_per_shard
    for row in found.broken:
        if (row.array, row.number) in exact:
            continue
        kept: dict[int, int] = {}
        if row.array == "experts":
            kept = {
                r % size: found.offsets[r]
                for r in contents.experts(row).rows.tolist()
                if r not in found.expert_problems and group_of[r] not in lost_groups
            }
        new = NewShard(row.array, row.number, kept) if kept else None
        changed.append((row, new))
        path = shard_path(directory, row.array, row.number)
        if new is not None:
            plan.new_shards.append(new)
        elif path.exists():
            plan.unused.append(str(path.relative_to(directory)))

    keys = _kept_keys(directory, state, found, lost_groups, plan)
    dropped = []
    for group in sorted(lost_memories):
        plan.lost.append(Loss(CATALOG_NAME, None, None, group, "its memory: the text does not match its checksum"))
        if group not in lost_groups:
            dropped.append(_run_of(state, group))
    for name, groups in (("facts.jsonl", sorted(lost_groups)), ("without_keys.jsonl", plan.without_keys)):
        facts = [(group, memories[group]) for group in groups if group in memories]
        if facts:
            plan.texts[name] = facts_text(facts)
    if changed or lost_groups or keys or dropped:
        plan.edit = partial(_edit, changed, sorted(lost_groups), keys, dropped, size)
    return plan


def readable_memories(directory: Path, state: CatalogState) -> tuple[dict[int, Memory], set[int]]:
    """Memories by group, and the groups whose memory can't be read or does not match its checksum."""
    groups, _, _, memory_ids = group_columns(state.groups)
    having = memory_ids != 0
    groups, memory_ids = groups[having], memory_ids[having]
    found: dict[int, Memory] = {}
    lost: set[int] = set()
    for start in range(0, len(groups), 1000):
        page = slice(start, start + 1000)
        try:
            found |= zip(groups[page].tolist(), load_memories(directory, memory_ids[page]), strict=True)
        except (DamagedStoreError, ReadError) as error:
            if not is_damage(error):
                raise
            for at in range(start, min(start + 1000, len(groups))):
                try:
                    found[int(groups[at])] = next(load_memories(directory, memory_ids[at : at + 1]))
                except (DamagedStoreError, ReadError):
                    lost.add(int(groups[at]))
    return found, lost


def _edit(
    changed: list[tuple[ShardRow, NewShard | None]],
    lost_groups: list[int],
    keys: dict[int, tuple[int, int]],
    without_memory: list[GroupRun],
    size: int,
    changes: CatalogChanges,
    written: Written,
) -> None:
    for row, new in changed:
        if new is not None:
            changes.replace_shard(row, written[new.array, new.number])
    for group in without_memory:
        changes.drop_memory(group)
    for group_id, (first_row, count) in keys.items():
        changes.keep_keys(group_id, first_row, count)
    for group_id in lost_groups:
        changes.retire_group(group_id)
    for array in ARRAYS:  # no row in them is live any more
        changes.drop_shards(array, [row.number for row, new in changed if row.array == array and new is None], size)


def _read(directory: Path, state: CatalogState, contents: Contents, damage: Iterable[Damage]) -> _Found:
    found = _Found({}, {}, {}, [], [])
    bad_files: dict[str, str] = {}
    for one in damage:
        if one.expert_id is not None and one.row is not None:
            found.expert_problems[one.row] = one.problem
        elif one.row is not None:
            found.key_problems[one.row] = one.problem
        else:
            bad_files[one.file] = one.problem
    for row in state.shards:
        live = contents.experts(row).rows.tolist() if row.array == "experts" else contents.keys(row).tolist()
        try:
            with closing(Shard(directory, state.layout, row)) as shard:
                offsets = shard.offsets()
        except (DamagedStoreError, ReadError) as error:
            if not is_damage(error):
                raise
            problem = Damage.of(error).problem
            found.broken.append(row)
            new = restored(directory, state.layout, row)
            if row.array == "experts":
                _search(directory, state, row, contents, problem, found)
                places = {r: r % state.layout.rows_per_shard * state.layout.schema.record_bytes for r in live}
                # The checksum of whole records does not tell one from another.
                new = new if places.items() <= found.offsets.items() else None
            elif new is None:
                found.key_problems |= dict.fromkeys(live, problem)
            if new is not None:
                found.new.append(new)
            continue
        if row.array == "experts":
            found.offsets |= {r: int(offsets[r - shard.info.first_row]) for r in live}
        elif shard.file in bad_files:
            found.broken.append(row)
            found.key_problems |= dict.fromkeys(live, bad_files[shard.file])
    return found


def _search(
    directory: Path, state: CatalogState, row: ShardRow, contents: Contents, problem: str, found: _Found
) -> None:
    """Looks for the live experts of a shard that can't be opened."""
    live = contents.experts(row)
    rows = dict(zip(zip(live.ids.tolist(), live.groups.tolist(), strict=True), live.rows.tolist(), strict=True))
    with raw_file(shard_path(directory, row.array, row.number)) as file:
        for record in () if file is None else scan_records(file, state.layout.schema):
            at = rows.pop((record.trailer.expert_id, record.trailer.group_id), None)
            if at is not None:
                found.offsets[at] = record.offset
    found.expert_problems |= dict.fromkeys(rows.values(), f"{problem}; there is no whole record of it in the file")


def _kept_keys(
    directory: Path, state: CatalogState, found: _Found, lost_groups: set[int], plan: Plan
) -> dict[int, tuple[int, int]]:
    """Of each group that stays and has lost keys: the first row and the number of those that it keeps."""
    rows, groups = key_columns(state.keys)
    lost = np.isin(rows, np.fromiter(found.key_problems, np.int64))
    kept: dict[int, tuple[int, int]] = {}
    for group in np.unique(groups[lost]).tolist():
        if group in lost_groups:
            continue
        its = groups == group
        left, gone = rows[its & ~lost], rows[its & lost].tolist()
        # All keys of a group are in one run: what comes behind a gap can't be named.
        count = len(left) and int(np.argmax(np.append(np.diff(left) != 1, True))) + 1
        kept[group] = (int(left[0]) if count else gone[0], count)
        number = gone[0] // state.layout.rows_per_shard
        file = str(shard_path(directory, "keys", number).relative_to(directory))
        what = f"{int(its.sum()) - count} of its {int(its.sum())} keys: {found.key_problems[gone[0]]}"
        if not count:
            plan.without_keys.append(group)
            what += "; nothing finds the group until it has new ones"
        plan.lost.append(Loss(file, gone[0] if len(gone) == 1 else None, None, group, what))
    return kept


def _run_of(state: CatalogState, group_id: int) -> GroupRun:
    """A live group as a run of one."""
    run = GroupRun(*state.groups[np.searchsorted(state.groups[:, 0], group_id, "right") - 1].tolist())
    return run.part(group_id - run.id, 1)

"""Plans for a catalogue that takes the old one's place: a copy of what is confirmed, or one from the records alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import astuple, replace
from pathlib import Path

from mome_store.errors import DamagedStoreError
from mome_store.store import catalog, remains
from mome_store.store.catalog import ACTIVATIONS, CATALOG_NAME, MODES, CatalogState, CommitRow
from mome_store.store.catalog_changes import CatalogChanges
from mome_store.store.rebuild import Rebuilt, rebuild, shard_numbers_on_disk
from mome_store.store.repair_plan import Loss, Plan, Written, facts_text
from mome_store.store.runs import ExpertRun, GroupRun, KeyRun, expert_columns, group_columns
from mome_store.store.survey import readable_memories
from mome_store.store.surviving import bad_metadata, surviving_layout
from mome_store.store.zarr_metadata import ArrayName, shard_path

_BELIEVABLE = 1 << 56  # of numbers that nothing confirms: commits have times in microseconds


def copying(directory: Path, state: CatalogState) -> Plan:
    """All that is live, in a new file. What was retired is left out: it has no checksum that could confirm it."""
    memories, lost = readable_memories(directory, state)

    def fill(changes: CatalogChanges, _: Written) -> None:
        for name, value in {catalog.STORE_META: json.dumps(state.layout.to_json()), **state.meta}.items():
            changes.set_meta(name, json.loads(value))
        changes.add_shards(state.shards)
        for run in (GroupRun(*numbers) for numbers in state.groups.tolist()):
            for part in (run.part(i, 1) for i in range(run.groups)):
                memory = memories.get(part.id)
                if memory is not None:
                    changes.add_memory(part.memory, memory)
                _add_group(changes, part if memory is not None else part._replace(memory=0))
        for expert_run in (ExpertRun(*numbers) for numbers in state.experts.tolist()):
            changes.add_experts(*expert_run)
        for key_run in (KeyRun(*numbers) for numbers in state.keys.tolist()):
            changes.add_keys(*key_run)

    plan = Plan(len(expert_columns(state.experts)[0]), len(group_columns(state.groups)[0]))
    plan.lost = [Loss(CATALOG_NAME, None, None, group, "its memory can't be read") for group in sorted(lost)]
    plan.new_catalogue = (replace(state.commit, id=state.commit.id + 1, time_us=now()), fill)
    return plan


def rebuilding(directory: Path, wanted: tuple[int, int] | None) -> Plan:
    """What the records alone tell. wanted: codes of the mode and activation that all groups get.

    Raises DamagedStoreError where those are needed and not given.
    """
    layout, rows_ever = surviving_layout(directory)
    found = rebuild(directory, layout, rows_ever)
    if wanted is None and found.groups:
        raise DamagedStoreError(
            CATALOG_NAME,
            None,
            None,
            f"nothing confirms what the catalogue says. {len(found.groups)} groups can be rebuilt from their "
            "records, but not their mode and activation: give both (what `mome memorize` makes is 'owned' and "
            "'answer')",
        )
    mode, activation = wanted or (0, 0)
    memories = remains.surviving_memories(directory)
    keys = shard_numbers_on_disk(directory, "keys")
    experts = shard_numbers_on_disk(directory, "experts")
    plan = Plan(sum(run.groups * run.per_group for run in found.experts), len(found.groups))
    plan.new_shards = list(found.new_shards)
    plan.without_keys = plan.maybe_removed = list(found.groups)
    for bad in found.bad:
        file = _file(directory, "experts", bad.row // layout.rows_per_shard)
        expert_id, group_id = (None, None) if bad.trailer is None else (bad.trailer.expert_id, bad.trailer.group_id)
        plan.lost.append(Loss(file, bad.row, expert_id, group_id, bad.problem))
        plan.copies[f"records/row-{bad.row}"] = (file, bad.offset)
    for number in keys:
        what = "its keys: which groups they belong to only the catalogue told"
        plan.lost.append(Loss(_file(directory, "keys", number), None, None, None, what))
    plan.lost.append(Loss(CATALOG_NAME, None, None, None, "keys, memories and named values of all groups"))
    plan.unused = [_file(directory, "experts", n) for n in found.unused] + [_file(directory, "keys", n) for n in keys]
    last = max((run.row + run.groups * run.per_group for run in found.experts), default=0)
    plan.rewritten = bad_metadata(directory, layout, {"experts": last, "keys": 0})
    if memories:
        plan.texts["memories.jsonl"] = facts_text((None, memory) for _, memory in sorted(memories.items()))

    def fill(changes: CatalogChanges, written: Written) -> None:
        changes.set_meta(catalog.STORE_META, layout.to_json())
        changes.add_shards(sorted((*found.shards, *written.values()), key=lambda row: row.number))
        for run in found.group_runs(mode, activation):
            _add_group(changes, run)
        for run_of_experts in found.experts:
            changes.add_experts(*run_of_experts)

    plan.new_catalogue = (_next_commit(directory, found, experts, keys, memories), fill)
    return plan


def _file(directory: Path, array: ArrayName, number: int) -> str:
    return str(shard_path(directory, array, number).relative_to(directory))


def _next_commit(
    directory: Path, found: Rebuilt, experts: list[int], keys: list[int], memories: Mapping[int, object]
) -> CommitRow:
    """The commit of a catalogue that is made anew: all its numbers are above those that were ever seen."""
    told = remains.surviving_commit(directory)
    if told is None or any(not 0 <= number < _BELIEVABLE for number in astuple(told)):
        told = CommitRow(0, 0, 1, 1, 1, 0, 0)  # its numbers are only ever raised, so one too many does no harm
    return CommitRow(
        id=max(found.newest, told.id) + 1,
        time_us=now(),
        next_group=max(found.highest_group + 1, told.next_group),
        next_expert=max(found.highest_expert + 1, told.next_expert),
        next_memory=max([told.next_memory, *(memory + 1 for memory in memories)]),
        next_experts_shard=max([told.next_experts_shard, *(number + 1 for number in experts)]),
        next_keys_shard=max([told.next_keys_shard, *(number + 1 for number in keys)]),
    )


def _add_group(changes: CatalogChanges, run: GroupRun) -> None:
    changes.add_groups(run.id, run.groups, MODES[run.mode], ACTIVATIONS[run.activation], run.memory)


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000

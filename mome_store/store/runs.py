"""Runs: how the catalogue tells of many groups, experts or keys that follow each other in one row.

What is added together lies together: ids and rows count up by one, and every group has as many experts and keys as the
one before. A run says so once, so a million experts added in bulk cost the catalogue a handful of rows, and a snapshot
takes as long as its arrays take to fill. A group that goes cuts its run in three; a store whose groups all differ has
a run for each, which is the row that it would need anyway. All experts of a group are in one run, and so are its keys.

A run's fields are the columns of its table, its first numbers those of the first group in it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]


class GroupRun(NamedTuple):
    """`groups` groups with ids from `id` on. memory: of the first, the next group has the next; 0: none has one."""

    id: int
    groups: int
    mode: int
    activation: int
    memory: int

    def part(self, start: int, groups: int) -> GroupRun:
        memory = self.memory + start if self.memory else 0
        return GroupRun(self.id + start, groups, self.mode, self.activation, memory)


class ExpertRun(NamedTuple):
    """The experts of `groups` groups, `per_group` each: rows from `row`, ids from `id`, groups from `group_id` on."""

    row: int
    id: int
    group_id: int
    groups: int
    per_group: int

    def part(self, start: int, groups: int) -> ExpertRun:
        skipped = start * self.per_group
        return ExpertRun(self.row + skipped, self.id + skipped, self.group_id + start, groups, self.per_group)


class KeyRun(NamedTuple):
    """The keys of `groups` groups, `per_group` each: rows from `row`, groups from `group_id` on."""

    row: int
    group_id: int
    groups: int
    per_group: int

    def part(self, start: int, groups: int) -> KeyRun:
        return KeyRun(self.row + start * self.per_group, self.group_id + start, groups, self.per_group)


Run = TypeVar("Run", GroupRun, ExpertRun, KeyRun)


def joined(run: Run, following: Run) -> Run | None:
    """One run in the place of two, or None where the second does not go on as the first."""
    whole = run._replace(groups=run.groups + following.groups)
    return whole if whole.part(run.groups, following.groups) == following else None


def without(run: Run, position: int) -> list[Run]:
    """What is left of a run when the group at `position` goes: none, one or two runs."""
    rest = run.groups - position - 1
    parts = [run.part(0, position), run.part(position + 1, rest)]
    return [part for part in parts if part.groups]


def spelled_out(runs: Int64s) -> Int64s:
    """ExpertRuns or KeyRuns [runs, c] as runs of one group each: [groups, c], in the same order."""
    groups = runs[:, -2]
    each = np.repeat(runs, groups, axis=0)
    position = np.arange(len(each)) - np.repeat(np.cumsum(groups) - groups, groups)
    return parts(each, position, np.ones_like(position))


def parts(runs: Int64s, start: Int64s, groups: Int64s) -> Int64s:
    """Of each of ExpertRuns or KeyRuns [runs, c], the part of `groups` groups from position `start` on."""
    part = runs.copy()
    part[:, :-3] += (start * runs[:, -1])[:, None]  # rows and ids count experts, which may be several to a group
    part[:, -3] += start
    part[:, -2] = groups
    return part


def within(runs: Int64s, start: int, end: int) -> Int64s:
    """Of each of ExpertRuns or KeyRuns [runs, c] the groups with a row from `start` to `end` - 1: one at least."""
    row, groups, per_group = runs[:, 0], runs[:, -2], runs[:, -1]
    first = np.maximum(start - row, 0) // per_group
    last = np.minimum(-((row - end) // per_group), groups)
    return parts(runs, first, last - first)


def packed(runs: Int64s, labels: Int64s | None = None) -> tuple[Int64s, Int64s]:
    """The same in as few ExpertRuns or KeyRuns as their order allows, and the place that each had among `runs`.

    labels: int64 [runs]; those with different ones stay apart.
    """
    goes_on = np.delete(parts(runs, runs[:, -2], runs[:, -2])[:-1] == runs[1:], -2, axis=1).all(axis=1)
    if labels is not None:
        goes_on &= labels[:-1] == labels[1:]
    return _whole(runs, goes_on, column=-2)


def packed_groups(runs: Int64s) -> Int64s:
    """The same in as few GroupRuns [runs, 5] as their order allows."""
    following = runs.copy()
    following[:, 0] += runs[:, 1]
    following[:, 4] += np.where(runs[:, 4] > 0, runs[:, 1], 0)
    goes_on = np.delete(following[:-1] == runs[1:], 1, axis=1).all(axis=1)
    return _whole(runs, goes_on, column=1)[0]


def _whole(runs: Int64s, goes_on: NDArray[np.bool_], column: int) -> tuple[Int64s, Int64s]:
    """Runs joined with the next one where that goes on, and the place of the first of each. column: has `groups`."""
    if not len(runs):
        return runs, np.empty(0, np.int64)
    first = np.flatnonzero(np.concatenate(([True], ~goes_on)))
    whole = runs[first]
    whole[:, column] = np.add.reduceat(runs[:, column], first)
    return whole, first


def group_columns(runs: Int64s) -> tuple[Int64s, NDArray[np.uint8], NDArray[np.uint8], Int64s]:
    """Of each group in GroupRuns [runs, 5]: its id, mode, activation and memory."""
    first, groups, mode, activation, memory = runs.T
    memories = counted(memory, groups)
    memories[np.repeat(memory == 0, groups)] = 0
    modes, activations = (np.repeat(codes.astype(np.uint8), groups) for codes in (mode, activation))
    return counted(first, groups), modes, activations, memories


def expert_columns(runs: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Of each expert in ExpertRuns [runs, 5]: its row, id and group."""
    row, first, group, groups, per_group = runs.T
    count = groups * per_group
    return counted(row, count), counted(first, count), _groups_of_each(group, groups, per_group)


def key_columns(runs: Int64s) -> tuple[Int64s, Int64s]:
    """Of each key in KeyRuns [runs, 4]: its row and group."""
    row, group, groups, per_group = runs.T
    return counted(row, groups * per_group), _groups_of_each(group, groups, per_group)


def _groups_of_each(first: Int64s, groups: Int64s, per_group: Int64s) -> Int64s:
    return np.repeat(counted(first, groups), np.repeat(per_group, groups))


def counted(first: Int64s, counts: Int64s) -> Int64s:
    """first[0], first[0] + 1, ... (counts[0] numbers), first[1], first[1] + 1, ... and so on."""
    before = np.cumsum(counts) - counts
    numbers = np.repeat(first - before, counts)
    numbers += np.arange(len(numbers))
    return numbers

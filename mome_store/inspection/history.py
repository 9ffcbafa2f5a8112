"""How old a store's contents are: what each commit added, and how much of that is still live."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mome_store.inspection.readable import ReadableStore
from mome_store.store.catalog import load_commits

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class History:
    """Of each commit, ids ascending, int64 [n]: its id, when it was (microseconds since 1970), and how many groups and
    experts it added and how many of those are still live.
    """

    ids: Int64s
    times_us: Int64s
    groups_added: Int64s
    groups_live: Int64s
    experts_added: Int64s
    experts_live: Int64s

    def time_of(self, group_ids: Int64s, next_group: Int64s) -> Int64s:
        """int64 [g]: when these groups were committed, microseconds since 1970."""
        return self.times_us[np.minimum(np.searchsorted(next_group, group_ids, "right"), len(self.ids) - 1)]


def commit_history(store: ReadableStore) -> tuple[History, Int64s]:
    """The history, and int64 [n], the next free group id after each commit.

    Ids are never used twice and an expert keeps its id wherever it is moved to, so ids alone tell which commit added
    what.
    """
    commits = load_commits(store.directory)
    commits = commits[commits[:, 0] <= store.state.commit.id]
    ids, times, next_group, next_expert = commits.T

    def counted(next_free: Int64s, live: Int64s) -> tuple[Int64s, Int64s]:
        added = np.diff(next_free, prepend=1)
        places = np.searchsorted(next_free, live, "right")
        return added, np.bincount(places, minlength=len(next_free))[: len(next_free)].astype(np.int64)

    groups = counted(next_group, store.group_ids)
    experts = counted(next_expert, store.expert_ids)
    return History(ids, times, *groups, *experts), next_group

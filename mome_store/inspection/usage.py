"""Which groups a recorded trace used most, least, and never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mome_store.inspection.readable import ReadableStore

if TYPE_CHECKING:
    from mome_store.runtime.trace import Trace

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Usage:
    """batches, requests: of the trace; a request is one expert for one sequence. first, last: seconds since 1970, None
    of an empty trace. record_bytes: of the experts that it was recorded with. gone: requests for experts that are not
    live, removed since or of another store.
    group_ids: int64 [u], the groups that were used, most used first; uses: int64 [u], how often each was.
    never: int64, the live groups that never were, ids ascending.
    """

    batches: int
    requests: int
    first: float | None
    last: float | None
    record_bytes: int
    gone: int
    group_ids: Int64s
    uses: Int64s
    never: Int64s

    def groups_for(self, share: float) -> int:
        """How few groups take this share of all uses."""
        if not len(self.uses):
            return 0
        together = np.cumsum(self.uses)
        return min(int(np.searchsorted(together, share * together[-1])) + 1, len(self.uses))


def usage_of(store: ReadableStore, trace: Trace) -> Usage:
    """What `trace` asked of the store's live groups. A group of several experts is used when they are, all together."""
    order = np.argsort(store.expert_ids)
    ids, groups = store.expert_ids[order], store.expert_groups[order]
    asked, times = np.unique(trace.ids, return_counts=True)
    at = np.searchsorted(ids, asked)
    known = np.append(ids, -1)[at] == asked
    uses = np.zeros(len(store.group_ids), np.int64)
    np.maximum.at(uses, np.searchsorted(store.group_ids, groups[at[known]]), times[known])
    ranked = np.argsort(-uses, kind="stable")
    ranked = ranked[uses[ranked] > 0]
    return Usage(
        batches=trace.batches,
        requests=len(trace.ids),
        first=float(trace.times.min()) if trace.batches else None,
        last=float(trace.times.max()) if trace.batches else None,
        record_bytes=trace.record_bytes,
        gone=int(times[~known].sum()),
        group_ids=store.group_ids[ranked],
        uses=uses[ranked],
        never=store.group_ids[uses == 0],
    )

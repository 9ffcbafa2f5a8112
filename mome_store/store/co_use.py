"""In which order to lay groups so that those used together lie together.

After Pettis and Hansen, "Profile guided code positioning" (PLDI 1990): groups are nodes, an edge weighs how often two
were used at once, and edges join chains from the heaviest down, end to end. What a request reads is then mostly
consecutive rows, which the prefetcher merges into few reads.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_PARTNERS = 32  # of a group in one use, at most: a batch of a thousand would have half a million pairs


class Usage(Protocol):
    """What was used together; `mome_store.runtime.Trace` is one.

    indptr: int64 [n + 1]; ids: int64 [m]. Use u was of the experts ids[indptr[u] : indptr[u + 1]].
    """

    @property
    def indptr(self) -> NDArray[np.int64]: ...

    @property
    def ids(self) -> NDArray[np.int64]: ...


def order_by_use(usage: Usage, expert_ids: NDArray[np.int64], expert_groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The groups that `usage` names, int64 [n]: those used together next to each other, the busiest chains first.

    expert_ids, expert_groups: of the live experts, ids ascending; other experts in `usage` are passed over.
    """
    at = np.searchsorted(expert_ids, usage.ids)
    known = at < len(expert_ids)
    known[known] = expert_ids[at[known]] == usage.ids[known]
    use = np.repeat(np.arange(len(usage.indptr) - 1), np.diff(usage.indptr))[known]
    groups, node = np.unique(expert_groups[at[known]], return_inverse=True)
    pairs = np.unique(np.column_stack((use, node.reshape(-1))), axis=0)
    weight = np.bincount(pairs[:, 1], minlength=len(groups))
    chains = _chains(len(groups), _edges(pairs, len(groups)))
    chains.sort(key=lambda chain: (-float(weight[chain].mean()), chain[0]))
    return groups[np.fromiter((member for chain in chains for member in chain), np.int64, len(groups))]


def _edges(pairs: NDArray[np.int64], nodes: int) -> NDArray[np.int64]:
    """Edges between nodes, int64 [e, 2], the heaviest first. pairs: int64 [p, 2], (use, node), sorted."""
    codes = []
    for distance in range(1, _PARTNERS + 1):
        together = pairs[distance:, 0] == pairs[:-distance, 0]
        if not together.any():
            break
        codes.append(pairs[:-distance, 1][together] * nodes + pairs[distance:, 1][together])
    if not codes:
        return np.empty((0, 2), np.int64)
    edges, weights = np.unique(np.concatenate(codes), return_counts=True)
    heaviest = np.argsort(-weights, kind="stable")
    return np.column_stack(np.divmod(edges[heaviest], nodes))


def _chains(nodes: int, edges: NDArray[np.int64]) -> list[list[int]]:
    """Every node in one chain; an edge joins two chains where it meets an end of each."""
    chain_of = [[node] for node in range(nodes)]
    for first, second in edges.tolist():
        left, right = chain_of[first], chain_of[second]
        if left is right or first not in (left[0], left[-1]) or second not in (right[0], right[-1]):
            continue
        if left[-1] != first:
            left.reverse()
        if right[0] != second:
            right.reverse()
        if len(left) >= len(right):
            left.extend(right)
            moved, whole = right, left
        else:
            right[:0] = left
            moved, whole = left, right
        for node in moved:
            chain_of[node] = whole
    return list({id(chain): chain for chain in chain_of}.values())

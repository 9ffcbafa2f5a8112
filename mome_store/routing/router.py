"""From questions to experts: score the query's embedding against all keys, let the keys vote, and decide the gate.

Owned mode, as it stands here: a query q = W_q e(text) is compared with every key by inner product; the `top_k`
nearest keys vote for their groups; a group's score is that of its best key; the best group wins with weight 1.

The gate opens when the winner's score reaches `threshold` and its lead reaches `margin`. The lead tells a fact in other
words from a fact that the store does not hold: the latter lies between the keys of several facts. With the best
key k of the winner and the best key r of the runner-up, the lead is

    (q.k - q.r) / (k.k - k.r)

0 where q is as near to one as to the other and 1 where q is k itself, however alike the two facts are. On airports,
with 99 % of the other wordings still answered, a plain difference of scores lets more than twice as many
unknown ones through (benchmarks/gate.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import SchemaError
from mome_store.routing.encoder import QueryEncoder, SentenceEncoder
from mome_store.routing.index_cache import load_or_build_index
from mome_store.routing.pool import PoolRouter
from mome_store.routing.route import Route

if TYPE_CHECKING:
    from mome_store.store import Snapshot

DEFAULT_THRESHOLD = 0.70
DEFAULT_MARGIN = 0.40
_NO_DISTANCE = 1e-6  # two groups with the very same key: the lead is then rounding noise, and must stay small


@dataclass(frozen=True)
class Candidate:
    """A group that keys voted for: the score of its best key (inner product), and that key's place in the index."""

    group_id: int
    score: float
    key: int


class Router:
    """Finds the group for each question in one snapshot. Made by `Router.open`.

    Attributes: `encoder`, `threshold`, `margin`, `top_k`, `w_q` (float32 [key_dim, encoder.dim], identity at first),
    `pool` (a PoolRouter where the store is a pool, else None).
    """

    def __init__(
        self, snapshot: Snapshot, encoder: QueryEncoder, top_k: int, threshold: float | None, margin: float | None
    ) -> None:
        if top_k < 1:
            raise SchemaError(f"top_k must be at least 1, found {top_k}")
        if encoder.dim != snapshot.key_dim:
            raise SchemaError(f"the store's keys have {snapshot.key_dim} dimensions, the encoder gives {encoder.dim}")
        self.encoder = encoder
        self.top_k = top_k
        self.w_q: NDArray[np.float32] = np.eye(snapshot.key_dim, encoder.dim, dtype=np.float32)
        self._asked = (threshold, margin)
        self._load(snapshot)

    @classmethod
    def open(
        cls,
        snapshot: Snapshot,
        encoder: QueryEncoder | None = None,
        top_k: int = 32,
        device: str = "cpu",
        threshold: float | None = None,
        margin: float | None = None,
    ) -> Router:
        """A router over `snapshot`'s keys.

        encoder: by default the one that the store remembers, on `device`. threshold, margin: by default those in the
        store's meta value "router", else the module's. Raises SchemaError for an encoder other than the store's.
        """
        remembered = snapshot.encoder
        if encoder is None:
            encoder = SentenceEncoder(_name(remembered), device)
        if remembered and remembered.get("fingerprint") not in (None, encoder.identity["fingerprint"]):
            raise SchemaError(
                f"{snapshot.path}: its keys were made by the encoder {_name(remembered)}; "
                f"{encoder.identity['name']} is another one (fingerprints differ)"
            )
        return cls(snapshot, encoder, top_k, threshold, margin)

    def refresh(self, snapshot: Snapshot) -> None:
        """Route by `snapshot` from now on: its keys, and its gate where `open` was not told one."""
        if snapshot.key_dim != self.w_q.shape[0]:
            raise SchemaError(f"the snapshot's keys have {snapshot.key_dim} dimensions, not {self.w_q.shape[0]}")
        self._load(snapshot)

    def route(self, queries: Sequence[str]) -> Route:
        """The route of a batch: for each query the winner's experts, or none where the gate stays shut.

        A pool (`pool` is not None) selects in its own way.
        """
        if self.pool is not None:
            return self.pool.route(self.encoder.encode(queries))
        route = Route.shut(len(queries))
        expert_ids, weights, group_ids = list(route.expert_ids), list(route.weights), list(route.group_ids)
        for i, candidates in enumerate(self.score(queries)):
            if not candidates:
                continue
            best = candidates[0]
            route.scores[i] = best.score
            route.opened[i] = best.score >= self.threshold and self.lead(candidates) >= self.margin
            if route.opened[i]:
                expert_ids[i] = self._experts_of(best.group_id)
                weights[i] = np.ones(len(expert_ids[i]), np.float32)
                group_ids[i] = (best.group_id,)
        return Route(tuple(expert_ids), tuple(weights), tuple(group_ids), route.scores, route.opened)

    def score(self, queries: Sequence[str]) -> list[tuple[Candidate, ...]]:
        """For each query the groups among its nearest keys, best first: at least two where the store has two."""
        if not queries:
            return []
        embedded = np.ascontiguousarray(self.encoder.encode(queries) @ self.w_q.T, np.float32)
        return self._nearest(embedded, self.top_k)

    def lead(self, candidates: Sequence[Candidate]) -> float:
        """How clearly the first candidate wins (see the module): infinite without a second one."""
        if len(candidates) < 2:
            return np.inf
        winner, runner_up = candidates[:2]
        key, other = (self._index.reconstruct(candidate.key) for candidate in (winner, runner_up))
        return (winner.score - runner_up.score) / max(float(key @ (key - other)), _NO_DISTANCE)

    def _nearest(self, embedded: NDArray[np.float32], looked_at: int) -> list[tuple[Candidate, ...]]:
        looked_at = min(looked_at, len(self._key_groups))
        if not looked_at:
            return [()] * len(embedded)
        found = []
        for query, scores, keys in zip(embedded, *self._index.search(embedded, looked_at), strict=True):
            best: dict[int, Candidate] = {}
            for score, key, group in zip(scores.tolist(), keys.tolist(), self._key_groups[keys].tolist(), strict=True):
                best.setdefault(group, Candidate(group, score, key))  # scores descend: a group's first is its best
            if len(best) == 1 and looked_at < len(self._key_groups):  # one group fills the list: its rival is beyond
                found += self._nearest(query[None], 4 * looked_at)
            else:
                found.append(tuple(best.values()))
        return found

    def _experts_of(self, group_id: int) -> NDArray[np.int64]:
        # snapshot.group() would read the memory's text from the catalogue as well: too slow for every query
        first, last = np.searchsorted(self._expert_groups, [group_id, group_id + 1])
        return self._expert_ids[first:last]

    def _load(self, snapshot: Snapshot) -> None:
        self.pool = PoolRouter.of(snapshot)
        keys, self._key_groups = snapshot.keys()
        self._index = load_or_build_index(snapshot.path, snapshot.commit, keys)
        by_group = np.argsort(snapshot.expert_groups, kind="stable")
        self._expert_ids, self._expert_groups = snapshot.expert_ids[by_group], snapshot.expert_groups[by_group]
        stored: Mapping[str, Any] = snapshot.meta("router", {})
        threshold, margin = self._asked
        self.threshold = float(stored.get("threshold", DEFAULT_THRESHOLD) if threshold is None else threshold)
        self.margin = float(stored.get("margin", DEFAULT_MARGIN) if margin is None else margin)


def _name(encoder: Mapping[str, Any] | None) -> str | None:
    return None if encoder is None else encoder.get("name")

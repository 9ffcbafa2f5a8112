"""Pool mode: which experts of a pool a question gets, and with what weights.

As published (Li et al., arXiv 2406.17642): cross-attention between the query's embedding and the keys of all experts.
With the query e of unit length and the experts' keys k_i of unit length,

    q = W_q e / |W_q e|        s_i = q . k_i        weights = softmax(s / temperature) over the top_k highest s_i

The paper has no gate: every question gets its top_k experts. A store may set a threshold, below which the best score
leaves the base model alone. W_q and the keys are trained once, before the experts, and stay as they are
(mome_store/tuning/pool_selection.py).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mome_store._core import inner_products
from mome_store.errors import DamagedStoreError, SchemaError
from mome_store.routing.nearest import NearestKeys
from mome_store.routing.route import Route
from mome_store.store.catalog import CATALOG_NAME

if TYPE_CHECKING:
    from mome_store.store import Snapshot, Transaction

MOST_EXPERTS = 64
"""The most experts that a sequence may have: what the apply kernels are tested for."""
_META = "pool"


@dataclass(frozen=True)
class PoolSelection:
    """How a pool's experts are selected, but for their keys: what the store's meta value "pool" holds.

    w_q: float32 [key_dim, dim of the encoder]. threshold: of the best score; None: always open.
    """

    top_k: int
    temperature: float
    w_q: NDArray[np.float32]
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= MOST_EXPERTS:
            raise SchemaError(f"top_k must be from 1 to {MOST_EXPERTS}, found {self.top_k}")
        if not self.temperature > 0:
            raise SchemaError(f"temperature must be positive, found {self.temperature}")

    @classmethod
    def stored(cls, snapshot: Snapshot) -> PoolSelection | None:
        """What the store says, or None where it is no pool."""
        value: dict[str, Any] | None = snapshot.meta(_META)
        if value is None:
            return None
        try:
            threshold = value["threshold"]
            w_q = np.frombuffer(base64.b64decode(value["w_q"], validate=True), "<f4")
            return cls(
                top_k=int(value["top_k"]),
                temperature=float(value["temperature"]),
                w_q=w_q.reshape(snapshot.key_dim, -1),
                threshold=None if threshold is None else float(threshold),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedStoreError(CATALOG_NAME, None, None, f"the meta value {_META!r}: {error!r}") from error

    def store(self, transaction: Transaction) -> None:
        """From this commit on the store is a pool that selects so."""
        w_q = base64.b64encode(np.ascontiguousarray(self.w_q, "<f4").tobytes()).decode("ascii")
        value = {"top_k": self.top_k, "temperature": self.temperature, "threshold": self.threshold, "w_q": w_q}
        transaction.set_meta(_META, value)

    def with_threshold(self, threshold: float | None) -> PoolSelection:
        """The same selection behind a gate; None: without one."""
        return replace(self, threshold=threshold)

    def select(
        self, index: faiss.Index | NearestKeys, embedded: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """For each query its experts, best first: their rows in the index, weights and scores, each [n, k].

        embedded: float32 [n, dim of the encoder], finite. index: over the experts' keys; k is top_k, or less where the
        pool has fewer experts. The weights of a query add up to 1.
        """
        # not by BLAS, which makes the encoder slower (docs/routing.md)
        query = inner_products(self.w_q, np.ascontiguousarray(embedded, np.float32))
        query /= np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-12)
        scores, rows = index.search(query, min(self.top_k, index.ntotal))
        weights = np.exp((scores - scores[:, :1]) / np.float32(self.temperature))
        return rows, weights / weights.sum(1, keepdims=True), scores


def index_of(keys: NDArray[np.float32]) -> faiss.Index:
    """An exact inner-product index over keys [m, key_dim]."""
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(np.ascontiguousarray(keys, np.float32))
    return index


class PoolRouter:
    """The route of a question by the pool of one snapshot. `of` makes it.

    Attributes: `selection`.
    """

    def __init__(
        self, snapshot: Snapshot, selection: PoolSelection, index: NearestKeys, key_groups: NDArray[np.int64]
    ) -> None:
        if "owned" in snapshot.modes:
            raise SchemaError(f"{snapshot.path}: a pool's store holds groups in mode 'owned' as well")
        self.selection = selection
        self._index = index
        self._groups = key_groups
        by_group = np.argsort(snapshot.expert_groups, kind="stable")  # one expert a group
        self._experts = snapshot.expert_ids[by_group][np.searchsorted(snapshot.expert_groups[by_group], self._groups)]

    @classmethod
    def of(cls, snapshot: Snapshot, index: NearestKeys, key_groups: NDArray[np.int64]) -> PoolRouter | None:
        """The router of a store that is a pool, None for any other.

        index: over the snapshot's keys. key_groups: int64 [m], the group of each.
        """
        selection = PoolSelection.stored(snapshot)
        return None if selection is None else cls(snapshot, selection, index, key_groups)

    def route(self, embedded: NDArray[np.float32]) -> Route:
        """The route of embeddings, float32 [n, dim of the encoder]; one that is not finite gets no expert."""
        route = Route.shut(len(embedded))
        finite = np.flatnonzero(np.isfinite(embedded).all(1))
        if not len(finite) or not self._index.ntotal:
            return route
        expert_ids, weights, group_ids = list(route.expert_ids), list(route.weights), list(route.group_ids)
        threshold = -np.inf if self.selection.threshold is None else self.selection.threshold
        selected = self.selection.select(self._index, np.asarray(embedded)[finite])
        for i, rows, own_weights, scores in zip(finite.tolist(), *selected, strict=True):
            route.scores[i] = scores[0]
            route.opened[i] = scores[0] >= threshold
            if route.opened[i]:
                expert_ids[i], weights[i] = self._experts[rows], own_weights
                group_ids[i] = tuple(self._groups[rows].tolist())
        return Route(tuple(expert_ids), tuple(weights), tuple(group_ids), route.scores, route.opened)

"""Stored facts used where no stored wording is asked: the experts of the nearest groups, whatever the gate says.

The gate of owned mode opens for wordings of stored facts. A request that needs a fact on the way to something else, or
that is like several facts and none of them, has no such wording; here the nearest groups are applied all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from mome_store.routing import Route

if TYPE_CHECKING:
    from mome_store.modeling import MemoryModel


class NearestGroups:
    """Routes of one snapshot of an owned store, by its keys alone.

    groups: how many a question gets, fewer where the store has fewer; at least one. temperature: of the softmax over
    their scores that weights them. total: what the weights of a question add up to.
    """

    def __init__(self, memory: MemoryModel, groups: int, temperature: float = 0.05, total: float = 1.0) -> None:
        self._memory = memory
        self._count = groups
        self._temperature = temperature
        self._total = total
        keys, self._groups = memory.snapshot.keys()
        self._index = faiss.IndexFlatIP(keys.shape[1])
        self._index.add(np.ascontiguousarray(keys, np.float32))
        self._keys_of_a_group = int(np.bincount(self._groups).max(initial=1))

    def route(self, questions: Sequence[str]) -> Route:
        """The route of each question; shut where the store holds nothing."""
        if not questions or not self._index.ntotal:
            return Route.shut(len(questions))
        queries = self._memory.router.keys(questions)
        # So many keys are of at least so many groups.
        looked_at = min(self._count * self._keys_of_a_group, self._index.ntotal)
        scores, rows = self._index.search(queries, looked_at)
        found = [self._one(*each) for each in zip(scores, self._groups[rows], strict=True)]
        return Route(
            expert_ids=tuple(experts for experts, _, _ in found),
            weights=tuple(weights for _, weights, _ in found),
            group_ids=tuple(groups for _, _, groups in found),
            scores=np.ascontiguousarray(scores[:, 0]),
            opened=np.ones(len(questions), np.bool_),
        )

    def _one(
        self, scores: NDArray[np.float32], groups: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], tuple[int, ...]]:
        best: dict[int, float] = {}
        for score, group in zip(scores.tolist(), groups.tolist(), strict=True):
            best.setdefault(group, score)  # the best key of a group comes first
        chosen = list(best.items())[: self._count]
        share = np.exp((np.array([score for _, score in chosen]) - chosen[0][1]) / self._temperature)
        share *= self._total / share.sum()
        experts = [self._memory.snapshot.group(group).expert_ids for group, _ in chosen]
        weights = np.repeat(share, [len(ids) for ids in experts]).astype(np.float32)
        return np.concatenate(experts), weights, tuple(group for group, _ in chosen)

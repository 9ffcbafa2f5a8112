"""What a router answers for a batch of queries: the experts of each sequence and whether its gate opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """One of several questions in a query, as it was routed.

    group_id: the group that answers it, None where none does. score: the gate's, float between 0 and 1.
    """

    text: str
    group_id: int | None
    score: float


@dataclass(frozen=True, eq=False)
class Route:
    """The experts of `n` sequences. Where the gate is shut a sequence has none, and the base model runs untouched.

    expert_ids: per sequence int64 [k], k >= 0, in the order in which they are applied
    weights:    per sequence float32 [k]
    group_ids:  per sequence the groups that these experts belong to
    scores:     float32 [n], the best group's score also where the gate is shut, the least of several groups'; -inf
                where the store holds no key
    opened:     bool [n]
    parts:      per sequence the questions that it was taken apart into, in their order; none where it is one question.
                Each group of a part answers its own question alone. Left out: no sequence is several questions
    """

    expert_ids: tuple[NDArray[np.int64], ...]
    weights: tuple[NDArray[np.float32], ...]
    group_ids: tuple[tuple[int, ...], ...]
    scores: NDArray[np.float32]
    opened: NDArray[np.bool_]
    parts: tuple[tuple[Part, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.expert_ids)

    def select(self, sequences: Sequence[int]) -> Route:
        """The route of some of the sequences, in the order given."""
        rows = list(sequences)
        return Route(
            expert_ids=tuple(self.expert_ids[i] for i in rows),
            weights=tuple(self.weights[i] for i in rows),
            group_ids=tuple(self.group_ids[i] for i in rows),
            scores=self.scores[rows],
            opened=self.opened[rows],
            parts=tuple(self.parts[i] for i in rows) if self.parts else (),
        )

    @classmethod
    def of_all(cls, routes: Sequence[Route]) -> Route:
        """One route of the sequences of all, in their order."""
        return cls(
            expert_ids=tuple(ids for route in routes for ids in route.expert_ids),
            weights=tuple(weights for route in routes for weights in route.weights),
            group_ids=tuple(groups for route in routes for groups in route.group_ids),
            scores=np.concatenate([route.scores for route in routes]),
            opened=np.concatenate([route.opened for route in routes]),
            parts=tuple(parts for route in routes for parts in (route.parts or ((),) * len(route))),
        )

    @classmethod
    def shut(cls, n: int) -> Route:
        """A route of `n` sequences that all go to the base model alone."""
        return cls(
            expert_ids=(np.empty(0, np.int64),) * n,
            weights=(np.empty(0, np.float32),) * n,
            group_ids=((),) * n,
            scores=np.full(n, -np.inf, np.float32),
            opened=np.zeros(n, np.bool_),
        )

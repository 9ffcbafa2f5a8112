"""What a router answers for a batch of queries: the experts of each sequence and whether its gate opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Route:
    """The experts of `n` sequences. Where the gate is shut a sequence has none, and the base model runs untouched.

    expert_ids: per sequence int64 [k], k >= 0, in the order in which they are applied
    weights:    per sequence float32 [k]
    group_ids:  per sequence the groups that these experts belong to
    scores:     float32 [n], the best group's score also where the gate is shut; -inf where the store holds no key
    opened:     bool [n]
    """

    expert_ids: tuple[NDArray[np.int64], ...]
    weights: tuple[NDArray[np.float32], ...]
    group_ids: tuple[tuple[int, ...], ...]
    scores: NDArray[np.float32]
    opened: NDArray[np.bool_]

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

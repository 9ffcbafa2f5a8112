"""Where a pool's experts start: A where their wordings will be heard and no two alike, B = 0.

A wording is an expert's own if the expert has more than half of its weight, so it is no other's. An expert with
wordings of its own starts at the main directions of the one that it has most of. All others act in company only.
Copies of each other would get the same gradients and stay copies, so these are dealt the main directions of all
wordings in turn. Random, N(0, 1/d_in): what is left when there are no more directions, and experts that no wording
selects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mome_store.store import ExpertSchema

_OVERSAMPLING = 8
"""Of the randomised singular value decomposition."""

Pair = tuple[torch.Tensor, torch.Tensor]


class Starts:
    """The first A and B of `count` experts.

    experts: int64 [n, k], which experts each wording selects; weights: float32 [n, k], what it gives them.
    """

    def __init__(
        self, schema: ExpertSchema, count: int, experts: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> None:
        self._schema = schema
        self._count = count
        most, shares = weights.argmax(1), weights.max(1)
        own: dict[int, int] = {}  # expert -> wording
        for wording in np.argsort(-shares, kind="stable").tolist():
            if shares[wording] > 0.5:
                own.setdefault(int(experts[wording, most[wording]]), wording)
        self._owner = {wording: expert for expert, wording in own.items()}
        self._others = torch.tensor(sorted(set(np.unique(experts).tolist()) - own.keys()), dtype=torch.int64)
        self._own: dict[int, Mapping[str, torch.Tensor]] = {}
        self._all: list[Mapping[str, torch.Tensor]] = []

    def offer(self, wordings: Sequence[int], directions: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """The directions of the wordings at these places, each module -> float32 [r, d_in]."""
        self._own |= {self._owner[i]: each for i, each in zip(wordings, directions, strict=True) if i in self._owner}
        if len(self._others):
            self._all += directions

    def made(self, generator: torch.Generator) -> dict[str, Pair]:
        """module -> (A [experts, r, d_in], B transposed [experts, r, d_out]), after all wordings were offered."""
        rank = self._schema.rank
        found: dict[str, Pair] = {}
        for name, (d_in, d_out) in self._schema.modules.items():
            a = torch.randn(self._count, rank, d_in, generator=generator) / d_in**0.5
            for expert, own in self._own.items():
                a[expert] = own[name].cpu()
            if others := len(self._others):
                shared = _shared_directions(torch.cat([each[name] for each in self._all]).cpu(), others * rank)
                turn = torch.arange(len(shared))
                a[self._others[turn % others], turn // others] = shared
            found[name] = a, torch.zeros(self._count, rank, d_out)
        return found


def _shared_directions(x: torch.Tensor, count: int) -> torch.Tensor:
    """float32 [at most count, d]: the main directions of x [n, d], each of length 1, strongest first."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # svd_lowrank takes no generator
        _, _, found = torch.svd_lowrank(x, q=min(count + _OVERSAMPLING, *x.shape))
    return found.T[:count]

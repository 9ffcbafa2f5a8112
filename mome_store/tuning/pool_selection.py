"""The generalisation stage of a pool: W_q and the experts' keys, trained before any expert and then frozen.

What is wanted of the selection: all wordings of a fact get the same experts with the same weights, other facts get
others, and every expert gets its share of the facts. The keys start at the centres that k-means finds among the facts'
embeddings, W_q at the identity. Then both are trained on the weights p that the wordings give all M experts. The
likeness of two wordings is the Bhattacharyya coefficient, sum_i sqrt(p_i p'_i): 1 where they are routed alike, 0 where
they share no expert. The loss is InfoNCE over it (van den Oord et al., arXiv 1807.03748), each fact's second wording
against those of all other facts in the batch, plus the cross-entropy of an even load against the mean load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mome_store.tuning.pool_settings import PoolSettings

_KMEANS_ROUNDS = 10
_BATCH_FACTS = 256
_CONTRAST = 0.1  # temperature of InfoNCE


@dataclass(frozen=True, eq=False)
class TrainedSelection:
    """w_q: float32 [key_dim, dim]; keys: float32 [experts, key_dim], unit length."""

    w_q: NDArray[np.float32]
    keys: NDArray[np.float32]


def train_selection(
    embedded: NDArray[np.float32], fact_of: Sequence[int], experts: int, temperature: float, settings: PoolSettings
) -> TrainedSelection:
    """W_q and keys for `experts` experts. embedded: float32 [n, dim], of wordings; fact_of: their facts, from 0 on."""
    generator = torch.Generator().manual_seed(settings.seed)
    wordings = torch.nn.functional.normalize(torch.from_numpy(np.ascontiguousarray(embedded, np.float32)), dim=1)
    owner = torch.as_tensor(list(fact_of))
    facts = int(owner.max()) + 1
    means = torch.zeros(facts, wordings.shape[1]).index_add_(0, owner, wordings)
    keys = _centres(torch.nn.functional.normalize(means, dim=1), experts, generator).requires_grad_()
    w_q = torch.eye(wordings.shape[1]).requires_grad_()
    optimizer = torch.optim.Adam([w_q, keys], lr=settings.selection_rate)
    by_fact = [torch.nonzero(owner == fact)[:, 0] for fact in range(facts)]
    for _ in range(settings.selection_steps):
        chosen = torch.randperm(facts, generator=generator)[:_BATCH_FACTS]
        pairs = torch.stack([_pair(by_fact[fact], generator) for fact in chosen.tolist()])
        first, second = wordings[pairs[:, 0]], wordings[pairs[:, 1]]
        alone = (pairs[:, 0] == pairs[:, 1])[:, None]
        noise = torch.nn.functional.normalize(torch.randn(second.shape, generator=generator), dim=1)
        second = torch.nn.functional.normalize(second + alone * settings.noise * noise, dim=1)
        p, other = (_all_weights(e, w_q, keys, temperature) for e in (first, second))
        likeness = p.sqrt() @ other.sqrt().T / _CONTRAST
        target = torch.arange(len(chosen))
        contrast = torch.nn.functional.cross_entropy(likeness, target) + torch.nn.functional.cross_entropy(
            likeness.T, target
        )
        load = (p.mean(0) + other.mean(0)) / 2
        loss = contrast / 2 - settings.balance * (load + 1e-9).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    keys = torch.nn.functional.normalize(keys.detach(), dim=1)
    return TrainedSelection(w_q.detach().numpy(), keys.numpy())


def _all_weights(embedded: torch.Tensor, w_q: torch.Tensor, keys: torch.Tensor, temperature: float) -> torch.Tensor:
    """[n, M]: what PoolSelection gives the experts, without the cut at the best top_k."""
    query = torch.nn.functional.normalize(embedded @ w_q.T, dim=1)
    scores = query @ torch.nn.functional.normalize(keys, dim=1).T
    return (scores / temperature).softmax(1).clamp(min=1e-9)  # the root's gradient is infinite at 0


def _centres(points: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """[count, dim], unit length: k-means by cosine. Where there are fewer points than centres, points come again,
    each time a little moved."""
    rounds = -(-count // len(points))
    order = torch.cat([torch.randperm(len(points), generator=generator) for _ in range(rounds)])[:count]
    centres = points[order]
    if rounds > 1:
        moved = torch.randn(centres.shape, generator=generator) * 0.5 / centres.shape[1] ** 0.5
        moved[: len(points)] = 0
        return torch.nn.functional.normalize(centres + moved, dim=1)
    for _ in range(_KMEANS_ROUNDS):
        nearest = (points @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        empty = sums.norm(dim=1) < 1e-6
        centres = torch.where(empty[:, None], centres, torch.nn.functional.normalize(sums, dim=1))
    return centres


def _pair(wordings: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Two of a fact's wordings, or its only one twice."""
    if len(wordings) == 1:
        return wordings.repeat(2)
    return wordings[torch.randperm(len(wordings), generator=generator)[:2]]

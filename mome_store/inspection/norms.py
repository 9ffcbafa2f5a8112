"""How much experts change the model: the Frobenius norm of (alpha/r)·B·A, per adapted module.

B·A is never made. With the r×r Gram matrices of both factors, ‖B·A‖² = Σ (BᵀB ∘ AAᵀ).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mome_store.inspection.readable import ReadableStore
from mome_store.store.record import decode_record
from mome_store.store.schema import ExpertSchema

MOST_EXPERTS = 1024
MOST_BYTES = 256 << 20  # of records that are read
FEWEST_EXPERTS = 16


@dataclass(frozen=True)
class Norms:
    """modules: names, in execution order. values: float64 [n, modules], of the experts `expert_ids` [n] of the groups
    `group_ids` [n]. experts: how many are live; unreadable: drawn, but damaged.
    """

    modules: tuple[str, ...]
    values: NDArray[np.float64]
    expert_ids: NDArray[np.int64]
    group_ids: NDArray[np.int64]
    experts: int
    unreadable: int

    @property
    def sampled(self) -> bool:
        """Whether not every live expert was looked at."""
        return len(self.expert_ids) + self.unreadable < self.experts

    @property
    def whole(self) -> NDArray[np.float64]:
        """float64 [n]: of each expert over all modules together."""
        return np.asarray(np.sqrt((self.values**2).sum(axis=1)))

    def largest(self, count: int) -> NDArray[np.int64]:
        """int64: places of the experts with the largest norms over all modules, largest first."""
        return np.argsort(-self.whole, kind="stable")[:count]


def expert_norms(store: ReadableStore) -> Norms:
    """Of all experts, or of some drawn at random where these are many or large."""
    schema = store.layout.schema
    count = min(MOST_EXPERTS, max(FEWEST_EXPERTS, MOST_BYTES // schema.record_bytes), len(store.expert_rows))
    drawn = np.sort(np.random.default_rng(0).choice(len(store.expert_rows), count, replace=False))
    places, values = [], []
    for place, record in store.records(drawn):
        places.append(place)
        values.append(record_norms(schema, record))
    return Norms(
        modules=tuple(schema.modules),
        values=np.array(values, np.float64).reshape(len(places), len(schema.modules)),
        expert_ids=store.expert_ids[places],
        group_ids=store.expert_groups[places],
        experts=len(store.expert_rows),
        unreadable=count - len(places),
    )


def record_norms(schema: ExpertSchema, record: bytes) -> list[float]:
    """‖(alpha/r)·B·A‖ of each module, in the schema's order, of a record that has been checked."""
    norms = []
    for a, b in decode_record(schema, record).values():
        a, b = a.astype(np.float64), b.astype(np.float64)
        square = float(((b.T @ b) * (a @ a.T)).sum())
        norms.append(schema.alpha / len(a) * max(square, 0.0) ** 0.5)
    return norms

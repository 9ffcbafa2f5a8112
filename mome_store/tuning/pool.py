"""A pool as a store has it, or is to have it: its selection, its keys, its experts; and how it is committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mome_store.errors import SchemaError
from mome_store.routing.pool import PoolSelection, index_of
from mome_store.store import ExpertStore, Memory, Snapshot, set_pool_memories
from mome_store.store.record import Weights
from mome_store.tuning.constants import Wordings
from mome_store.tuning.facts import Fact
from mome_store.tuning.pool_selection import train_selection
from mome_store.tuning.pool_settings import PoolSettings
from mome_store.tuning.pool_starts import Pair
from mome_store.tuning.pool_training import SelectedWordings

if TYPE_CHECKING:
    from mome_store.routing import QueryEncoder

DEFAULT_TOP_K = 32
DEFAULT_TEMPERATURE = 0.1


@dataclass(frozen=True, eq=False)
class Pool:
    """keys: float32 [M, key_dim]. experts: module -> (A [M, r, d_in], B transposed [M, r, d_out]); None: to be trained.

    groups: the ids of its groups in the store, which the next commit takes the place of.
    """

    selection: PoolSelection
    keys: NDArray[np.float32]
    activation: str
    experts: dict[str, Pair] | None
    groups: tuple[int, ...]

    @classmethod
    def stored(cls, snapshot: Snapshot, settings: PoolSettings) -> Pool | None:
        """The store's pool. Raises SchemaError where the settings are those of another."""
        selection = PoolSelection.stored(snapshot)
        if selection is None:
            return None
        keys, groups = snapshot.keys()
        order = np.argsort(groups)
        experts = [snapshot.read_expert(int(snapshot.group(group).expert_ids[0])) for group in groups[order].tolist()]
        activation = snapshot.group(int(groups[0])).activation
        fixed = {
            "experts": len(keys),
            "top_k": selection.top_k,
            "temperature": selection.temperature,
            "activation": activation,
        }
        for name, value in fixed.items():
            asked = getattr(settings, name)
            if asked not in (None, value):
                raise SchemaError(f"{snapshot.path}: the pool was made with {name} {value}, which can't become {asked}")
        stacked = {
            name: tuple(
                torch.from_numpy(np.stack([np.asarray(e[name][i], np.float32) for e in experts])) for i in (0, 1)
            )
            for name in snapshot.schema.modules
        }
        pairs = {name: (a, b.transpose(1, 2).contiguous()) for name, (a, b) in stacked.items()}
        return cls(selection, keys[order], activation, pairs, tuple(groups[order].tolist()))

    @classmethod
    def made(cls, encoder: QueryEncoder, facts: Sequence[Fact], settings: PoolSettings) -> Pool:
        """A new pool, its selection trained on the wordings of its first facts."""
        top_k = settings.top_k or min(DEFAULT_TOP_K, settings.experts or DEFAULT_TOP_K)
        experts = settings.experts or max(top_k, len(facts))
        temperature = settings.temperature or DEFAULT_TEMPERATURE
        embedded = encoder.encode([wording for fact in facts for wording in fact.wordings])
        fact_of = [place for place, fact in enumerate(facts) for _ in fact.wordings]
        trained = train_selection(embedded, fact_of, experts, temperature, settings)
        selection = PoolSelection(top_k, temperature, trained.w_q)
        return cls(selection, trained.keys, settings.activation or "answer", None, ())

    def select(self, encoder: QueryEncoder, facts: Sequence[Wordings]) -> SelectedWordings:
        """Every wording of the facts alone, with the experts that a query in these words gets."""
        embedded = encoder.encode([text for each in facts for text in each.fact.wordings])
        experts, weights, _ = self.selection.select(index_of(self.keys), embedded)
        return SelectedWordings(
            wordings=[replace(each, prompts=(prompt,)) for each in facts for prompt in each.prompts],
            fact_of=[place for place, each in enumerate(facts) for _ in each.prompts],
            experts=experts,
            weights=weights,
        )

    def commit(self, store: ExpertStore, experts: Weights, memories: Sequence[Memory]) -> tuple[int, ...]:
        """Puts trained experts in the place of those before, with all facts that they hold; returns their groups.

        experts: module -> (A [M, r, d_in], B [M, d_out, r]).
        """
        with store.transaction() as txn:
            for group in self.groups:
                txn.remove_group(group)
            groups = txn.add_groups(experts, self.keys, mode="pool", activation=self.activation)
            if not self.groups:
                self.selection.store(txn)
            set_pool_memories(txn, memories)
        return tuple(groups.tolist())

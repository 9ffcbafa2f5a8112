"""The experts of a batch while the model runs: which rows of each forward pass they act on, and adding them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from mome_store.errors import SchemaError
from mome_store.routing import Route
from mome_store.runtime.apply import ExpertTables, apply_module

if TYPE_CHECKING:
    from mome_store.runtime import ExpertCache, Lease
    from mome_store.store import Snapshot


class ActiveExperts:
    """A DeltaSource for a batch of left-padded sequences; it holds the leases until it is closed.

    prompt_tokens: the width of the padded prompts. A group with the activation "answer" acts from the last prompt token
    on, position `prompt_tokens - 1`; one with "all" acts on every token.

    Before each forward pass of the model `begin_forward` says which positions it computes.
    """

    def __init__(self, snapshot: Snapshot, cache: ExpertCache, route: Route, prompt_tokens: int) -> None:
        self._schema = snapshot.schema
        self._sequences = len(route)
        self._parts: list[_Part] = []
        try:
            for activation, first in (("answer", prompt_tokens - 1), ("all", 0)):
                part = _restricted(route, snapshot, activation)
                if any(len(ids) for ids in part.expert_ids):
                    self._parts.append(_Part.of(cache.acquire(part), part, first))
        except BaseException:
            self.close()
            raise

    def begin_forward(self, sequences: int, tokens: int, past: int) -> None:
        """The next forward pass computes positions `past` to `past + tokens - 1` of each sequence."""
        if sequences != self._sequences:
            raise SchemaError(f"the route is of {self._sequences} sequences, the model's input of {sequences}")
        for part in self._parts:
            part.select_rows(tokens, past)

    def add_delta(self, module: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y.contiguous()
        for part in self._parts:
            if len(part.row_index):
                apply_module(self._schema, module, y, x, part.row_index, part.row_sequence, part.experts)
        return y

    def close(self) -> None:
        for part in self._parts:
            part.lease.release()
        self._parts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class _Part:
    """The experts of one activation: their lease, and the rows of the present forward pass that they act on."""

    lease: Lease
    experts: ExpertTables
    sequences: torch.Tensor  # int64: those that have experts
    first: int  # the first position acted on
    row_index: torch.Tensor
    row_sequence: torch.Tensor
    selected: tuple[int, int] | None = None  # the (tokens, first row) that the rows were made for

    @classmethod
    def of(cls, lease: Lease, route: Route, first: int) -> _Part:
        arrays = (lease.expert_indptr, lease.expert_base, lease.expert_rank, lease.expert_weight)
        indptr, base, rank, weight = (torch.from_numpy(array) for array in arrays)
        routed = torch.tensor([i for i, ids in enumerate(route.expert_ids) if len(ids)])
        empty = torch.empty(0, dtype=torch.int32)
        return cls(lease, (indptr, base, rank, weight), routed, first, empty, empty)

    def select_rows(self, tokens: int, past: int) -> None:
        start = min(max(self.first - past, 0), tokens)
        if self.selected == (tokens, start):
            return  # the same rows as in the pass before: every decode step after the first
        self.selected = (tokens, start)
        positions = torch.arange(start, tokens)
        self.row_index = (self.sequences[:, None] * tokens + positions).flatten().to(torch.int32)
        self.row_sequence = self.sequences.repeat_interleave(len(positions)).to(torch.int32)


def positions_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, int, int]:
    """(sequences, tokens, past) of a causal LM's forward call, told by its inputs and its cache."""
    inputs = kwargs.get("input_ids", args[0] if args else None)
    if inputs is None:
        inputs = kwargs["inputs_embeds"]
    cache = kwargs.get("past_key_values")
    return int(inputs.shape[0]), int(inputs.shape[1]), 0 if cache is None else int(cache.get_seq_length())


def _restricted(route: Route, snapshot: Snapshot, activation: str) -> Route:
    """The route with only the experts of groups that act in this way."""
    expert_ids, weights = list(route.expert_ids), list(route.weights)
    for i, groups in enumerate(route.group_ids):
        others = [snapshot.group(g).expert_ids for g in groups if snapshot.group(g).activation != activation]
        if others:
            kept = ~np.isin(expert_ids[i], np.concatenate(others))
            expert_ids[i], weights[i] = expert_ids[i][kept], weights[i][kept]
    return Route(tuple(expert_ids), tuple(weights), route.group_ids, route.scores, route.opened)

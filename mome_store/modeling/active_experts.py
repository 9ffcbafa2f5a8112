"""The experts of a batch while the model runs: which rows of each forward pass they act on, and adding them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from mome_store.errors import CapacityError, SchemaError
from mome_store.routing import Route
from mome_store.runtime.apply import RoutedRows, tables_of

if TYPE_CHECKING:
    from mome_store.runtime import ExpertCache, Lease
    from mome_store.store import Snapshot


class ActiveExperts:
    """A DeltaSource for a batch of left-padded sequences; it pins their experts until it is closed.

    prompt_tokens: the width of the padded prompts. A group with the activation "answer" acts from the last prompt token
    on, position `prompt_tokens - 1`; one with "all" acts on every token.
    waves: what to do with a route of more experts than the cache has room for. True: fetch and apply them part after
    part, in every adapted layer and forward pass anew, which gives the same bits slowly. False: raise `CapacityError`.

    Records that are still on their way are waited for by the first adapted layer that is computed. Before each forward
    pass of the model `begin_forward` says which positions it computes.
    """

    def __init__(
        self, snapshot: Snapshot, cache: ExpertCache, route: Route, prompt_tokens: int, waves: bool = True
    ) -> None:
        self._schema = snapshot.schema
        self._cache = cache
        self._sequences = len(route)
        self._held: Lease | None = None
        by_activation = [
            (_restricted(route, snapshot, activation), first)
            for activation, first in (("answer", prompt_tokens - 1), ("all", 0))
        ]
        parts = [(part, first) for part, first in by_activation if any(len(ids) for ids in part.expert_ids)]
        try:
            self._held = cache.acquire(route, wait=False)
        except CapacityError as error:
            if not waves or error.slots < 1:
                raise
            most = max(1, error.slots // 2)  # the other half is for the wave after
            self._parts = [_Part(part, first, waves=split_in_waves(part, most)) for part, first in parts]
        else:
            # What the route pins has room already: the lease of each part waits for records alone.
            leases = [self._held] if len(parts) == 1 else [cache.acquire(part, wait=False) for part, _ in parts]
            self._parts = [_Part(part, first, lease) for (part, first), lease in zip(parts, leases, strict=True)]

    def begin_forward(self, sequences: int, tokens: int, past: int) -> None:
        """The next forward pass computes positions `past` to `past + tokens - 1` of each sequence."""
        if sequences != self._sequences:
            raise SchemaError(f"the route is of {self._sequences} sequences, the model's input of {sequences}")
        for part in self._parts:
            part.select_rows(tokens, past)

    def add_delta(self, module: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y.contiguous()
        for part in self._parts:
            if not len(part.row_index):
                continue
            if part.waves is None:
                part.routed_rows(y.device).apply(self._schema, module, y, x)
            else:
                self._add_in_waves(part, part.waves, module, x, y)
        return y

    def _add_in_waves(self, part: _Part, waves: list[Route], module: str, x: torch.Tensor, y: torch.Tensor) -> None:
        """Forms the sum of all waves in fp32, in the order of one call, and adds it once: the bits of one call."""
        flat = y.view(-1, y.shape[-1])
        delta = torch.zeros(flat.shape, dtype=torch.float32, device=y.device)
        for wave, following in zip(waves, [*waves[1:], None], strict=True):
            with self._cache.acquire(wave) as lease:
                if following is not None:
                    self._cache.prefetch(following)
                rows = RoutedRows(part.row_index, part.row_sequence, tables_of(lease), y.device)
                rows.apply(self._schema, module, delta, x, accumulate=True)
                del rows  # it would keep the lease's slots
        changed = part.row_index.long().to(y.device)
        flat[changed] = (flat[changed].float() + delta[changed]).to(y.dtype)

    def close(self) -> None:
        for part in self._parts:
            if part.lease is not None:
                part.lease.release()
        self._parts.clear()
        if self._held is not None:
            self._held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class _Part:
    """The experts of one activation, and the rows of the present forward pass that they act on."""

    route: Route
    first: int  # the first position acted on
    lease: Lease | None = None  # None: in waves
    waves: list[Route] | None = None
    row_index: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    row_sequence: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    _routed_rows: RoutedRows | None = None
    _selected: tuple[int, int] | None = None  # the (tokens, first row) that the rows were made for

    def routed_rows(self, device: torch.device) -> RoutedRows:
        """The rows with their experts, where the model is; waits for records that are not there yet."""
        if self._routed_rows is None:
            if self.lease is None:
                raise SchemaError("the experts of this part come in waves")
            self._routed_rows = RoutedRows(self.row_index, self.row_sequence, tables_of(self.lease), device)
        return self._routed_rows

    def select_rows(self, tokens: int, past: int) -> None:
        start = min(max(self.first - past, 0), tokens)
        if self._selected == (tokens, start):
            return  # the same rows as in the pass before: every decode step after the first
        self._selected = (tokens, start)
        self._routed_rows = None
        routed = torch.tensor([i for i, ids in enumerate(self.route.expert_ids) if len(ids)])
        positions = torch.arange(start, tokens)
        self.row_index = (routed[:, None] * tokens + positions).flatten().to(torch.int32)
        self.row_sequence = routed.repeat_interleave(len(positions)).to(torch.int32)


def positions_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, int, int]:
    """(sequences, tokens, past) of a causal LM's forward call, told by its inputs and its cache."""
    inputs = kwargs.get("input_ids", args[0] if args else None)
    if inputs is None:
        inputs = kwargs["inputs_embeds"]
    cache = kwargs.get("past_key_values")
    return int(inputs.shape[0]), int(inputs.shape[1]), 0 if cache is None else int(cache.get_seq_length())


def split_in_waves(route: Route, most: int) -> list[Route]:
    """The route in parts of at most `most` different experts each.

    Every part takes up the entries where the one before ended, sequence after sequence.
    """
    parts: list[dict[int, tuple[int, int]]] = [{}]  # of each sequence in it, the first entry and the one after the last
    seen: set[int] = set()
    for sequence, ids in enumerate(route.expert_ids):
        for entry, expert in enumerate(ids.tolist()):
            if expert not in seen and len(seen) == most:
                parts.append({})
                seen.clear()
            seen.add(expert)
            first, _ = parts[-1].get(sequence, (entry, entry))
            parts[-1][sequence] = (first, entry + 1)
    none = (0, 0)
    return [
        Route(
            expert_ids=tuple(ids[slice(*part.get(i, none))] for i, ids in enumerate(route.expert_ids)),
            weights=tuple(weights[slice(*part.get(i, none))] for i, weights in enumerate(route.weights)),
            group_ids=route.group_ids,
            scores=route.scores,
            opened=route.opened,
        )
        for part in parts
    ]


def _restricted(route: Route, snapshot: Snapshot, activation: str) -> Route:
    """The route with only the experts of groups that act in this way."""
    acting = [snapshot.acting(ids, activation) for ids in route.expert_ids]
    return Route(
        expert_ids=tuple(ids[mine] for ids, mine in zip(route.expert_ids, acting, strict=True)),
        weights=tuple(weights[mine] for weights, mine in zip(route.weights, acting, strict=True)),
        group_ids=route.group_ids,
        scores=route.scores,
        opened=route.opened,
    )

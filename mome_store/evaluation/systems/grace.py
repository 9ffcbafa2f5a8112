"""A GRACE-like editor (Hartvigsen et al. 2023): a codebook of hidden states beside one layer of the frozen model.

A key is the hidden state that enters the layer at the last prompt token of a trained wording. Where a prompt's state
lies within a key's radius, the key's value takes its place. All wordings of a fact share one value, which is trained so
that the layers above say the answer. Radii begin at the usual distance between wordings of one fact, and where the
balls of two facts would overlap both shrink to half the distance between their keys. Differences to the paper: many
edits are trained side by side (they share nothing), and the place is the last prompt token alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.systems.base import BATCH, Reply, System, Use, Workbench, replies
from mome_store.modeling.greedy import pad_left
from mome_store.modeling.memory_linear import adapt, restore
from mome_store.store import ExpertSchema
from mome_store.tuning import TuningSettings, default_schema
from mome_store.tuning.base_pass import fact_constants, prefix_constants
from mome_store.tuning.constants import IGNORED, FactConstants, Prefix, Wordings, collate, common_prefix
from mome_store.tuning.upper_layers import UpperLayers

_TOGETHER = 32  # facts trained side by side
_MOST_STEPS = 200
_LEARNING_RATE = 0.05  # relative to the size of the hidden state
_COMPETITORS = 32


class GraceLike(System):
    """Edits at a layer two thirds of the way up. Where no ball holds the prompt's state, the base model is untouched.

    `uses` opens where a ball holds the state; a false fire is such a ball. Forgetting removes keys and value.
    Bytes: keys and value in fp32, radii and ids.
    """

    name = "grace"
    title = "GRACE-like editor"
    has_gate = True
    trained = True

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        layers = int(bench.model.config.num_hidden_layers)
        (name, *_) = default_schema(bench.model).modules
        target = ".".join(name.split(".")[-2:])
        self._schema = ExpertSchema.for_model(bench.model, [target], layers=[2 * layers // 3], rank=1)
        attachment = adapt(bench.model, self._schema)
        self._upper = UpperLayers(bench.model, self._schema, attachment)
        self._width = int(bench.model.get_output_embeddings().weight.shape[1])
        self._keys = np.empty((0, self._width), np.float32)
        self._radii = np.empty(0, np.float32)
        self._owners: list[str] = []
        self._values: dict[str, torch.Tensor] = {}
        self._radius: float | None = None
        self._fired: list[str | None] = []
        self._whole_text = False
        self._unfinished = 0
        layer = self._upper.layers[self._upper.numbers[0]]
        self._hook = layer.register_forward_pre_hook(self._edit, with_kwargs=True)
        self._editing = True

    def insert(self, facts: Sequence[PersonFact]) -> None:
        prompts = self.bench.prompts
        wordings = [
            Wordings(f.fact, tuple(tuple(prompts.prompt(w)) for w in f.fact.wordings), tuple(prompts.answer(f.answer)))
            for f in facts
        ]
        deadline = time.monotonic() + self.bench.settings.trained_seconds_per_fact * len(facts)
        self._editing = False
        try:
            prefix = prefix_constants(self._upper, common_prefix([p for w in wordings for p in w.prompts]))
            order = sorted(range(len(facts)), key=lambda i: len(wordings[i].answer))
            for start in range(0, len(order), _TOGETHER):
                chosen = order[start : start + _TOGETHER]
                share = (deadline - time.monotonic()) * len(chosen) / (len(order) - start)
                constants = fact_constants(self._upper, [wordings[i] for i in chosen], prefix, _COMPETITORS, 1)
                values = self._train(constants, prefix, time.monotonic() + share)
                for i, constant, value in zip(chosen, constants, values, strict=True):
                    self._add(facts[i].id, constant.hidden[:, 0].cpu().numpy().astype(np.float32), value)
        finally:
            self._editing = True

    def update(self, facts: Sequence[PersonFact]) -> None:
        self.forget(facts)
        self.insert(facts)

    def forget(self, facts: Sequence[PersonFact]) -> None:
        gone = {fact.id for fact in facts}
        kept = np.array([owner not in gone for owner in self._owners], bool)
        self._keys, self._radii = self._keys[kept], self._radii[kept]
        self._owners = [owner for owner in self._owners if owner not in gone]
        for fact in gone:
            del self._values[fact]

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        return replies(self.bench, [self.bench.prompts.prompt(question) for question in questions], tokens, least)

    @torch.inference_mode()
    def uses(self, questions: Sequence[str]) -> list[Use]:
        prompts = [self.bench.prompts.prompt(question) for question in questions]
        held: list[str | None] = []
        for start in range(0, len(prompts), BATCH):
            ids, mask = pad_left(prompts[start : start + BATCH], self.bench.prompts.pad_token, self.bench.model.device)
            self._fired = [None] * len(ids)
            self._upper.decoder(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
            held += self._fired
        return [Use((), False) if fact is None else Use((fact,), True) for fact in held]

    def text_loss(self, paragraphs: Sequence[str]) -> float:
        """Plain text has no last prompt token: every position that a ball holds is replaced."""
        self._whole_text = True
        try:
            return super().text_loss(paragraphs)
        finally:
            self._whole_text = False

    def bytes(self) -> int:
        return 4 * (self._keys.size + len(self._values) * self._width + 2 * len(self._owners))

    def notes(self) -> str:
        return f"layer {self._upper.numbers[0]}; {self._unfinished} facts not at the bar in their time"

    def close(self) -> None:
        self._hook.remove()
        restore(self.bench.model, self._schema.modules)

    def _add(self, fact: str, keys: NDArray[np.float32], value: torch.Tensor) -> None:
        """The fact's keys go into the codebook with radii that overlap no other fact's ball."""
        if self._radius is None:
            self._radius = float(np.mean([_distances(key[None], keys).max() for key in keys]))
        radii = np.full(len(keys), self._radius, np.float32)
        if self._owners:
            apart = _distances(keys, self._keys)
            for old in range(len(self._owners)):
                for new in np.flatnonzero(apart[:, old] < radii + self._radii[old]):
                    half = apart[new, old] / 2
                    radii[new] = min(radii[new], half)
                    self._radii[old] = min(self._radii[old], half)
        self._keys = np.concatenate([self._keys, keys])
        self._radii = np.concatenate([self._radii, radii])
        self._owners += [fact] * len(keys)
        self._values[fact] = value

    def _train(self, facts: Sequence[FactConstants], prefix: Prefix, deadline: float) -> list[torch.Tensor]:
        """A value [d] for each fact: Adam from the mean of its keys, over a shortlist of tokens, until all are sure."""
        batch = collate(facts, prefix)
        start = torch.stack([fact.hidden[:, 0].mean(0) for fact in facts])
        scale = start.std(1, keepdim=True)
        change = torch.zeros_like(start, requires_grad=True)
        optimizer = torch.optim.Adam([change], lr=_LEARNING_RATE)
        shortlist = torch.cat([fact.shortlist for fact in facts]).unique()
        weight, bias = self._upper.head_rows(shortlist)
        answers = batch.targets != IGNORED
        targets = torch.searchsorted(shortlist, batch.targets.clamp(min=0)).masked_fill(~answers, IGNORED)
        limit = -0.8 * float(np.log((self.bench.tuning or TuningSettings()).stop_probability))
        worst = torch.full((len(facts),), torch.inf)
        for step in range(_MOST_STEPS):
            value = (start + scale * change)[batch.fact_of]
            hidden = torch.cat([value[:, None], batch.hidden[:, 1:]], 1)
            logits = self._upper.hidden(replace(batch, hidden=hidden)) @ weight.T
            logits = logits if bias is None else logits + bias
            losses = cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
            worst = torch.zeros(len(facts)).scatter_reduce(0, batch.fact_of, losses.detach().amax(1), "amax")
            if bool((worst <= limit).all()) or (step and time.monotonic() > deadline):
                break
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
        self._unfinished += int((worst > limit).sum())
        return list((start + scale * change).detach())

    def _edit(
        self, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Stands before the layer: a state that a ball holds is replaced by the ball's value."""
        hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
        if not self._editing or not self._owners or (hidden.shape[1] == 1 and not self._whole_text):
            return None
        places = hidden if self._whole_text else hidden[:, -1:]
        owners = self._held(places.reshape(-1, self._width).float().cpu().numpy())
        self._fired = owners
        values = [
            self._values[owner] if owner else state for owner, state in zip(owners, places.flatten(0, 1), strict=True)
        ]
        edited = torch.cat([hidden[:, : hidden.shape[1] - places.shape[1]], torch.stack(values).view_as(places)], 1)
        return ((edited, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": edited})

    def _held(self, states: NDArray[np.float32]) -> list[str | None]:
        """For each state [n, d] the fact whose ball holds it: the one of the nearest key, if that key's ball does."""
        apart = _distances(states, self._keys)
        nearest = apart.argmin(1)
        inside = apart[np.arange(len(states)), nearest] <= self._radii[nearest]
        return [self._owners[key] if held else None for key, held in zip(nearest.tolist(), inside, strict=True)]


def _distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, m]: Euclidean distances between the rows of a [n, d] and b [m, d]."""
    squared = (a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1)
    return np.asarray(np.sqrt(np.maximum(squared, 0)))

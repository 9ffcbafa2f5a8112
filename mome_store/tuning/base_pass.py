"""The one pass of the base model that a fact costs: everything about it that training does not change."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from mome_store.errors import SchemaError
from mome_store.tuning.constants import IGNORED, FactConstants, Prefix, Wordings, attention_mask, collate
from mome_store.tuning.facts import Fact
from mome_store.tuning.upper_layers import UpperLayers


@torch.no_grad()
def prefix_constants(upper: UpperLayers, tokens: Sequence[int]) -> Prefix:
    """Keys and values, at every layer, of the tokens that all prompts begin with."""
    cache = DynamicCache()
    upper.decoder(input_ids=upper.ids([list(tokens) or [0]]), past_key_values=cache, use_cache=True)
    length = len(tokens)
    return Prefix(
        tokens=tuple(tokens),
        keys=tuple(_layer(cache, i).keys[:, :, :length] for i in range(len(upper.layers))),
        values=tuple(_layer(cache, i).values[:, :, :length] for i in range(len(upper.layers))),
    )


@torch.no_grad()
def fact_constants(
    upper: UpperLayers, facts: Sequence[Wordings], prefix: Prefix, competitors: int, directions: int
) -> list[FactConstants]:
    """The constants of each fact, from one pass of the base model over all their wordings.

    competitors: how many of the base model's likeliest tokens, per position, go on a fact's shortlist.
    directions: how many starting directions for A, per adapted module.
    """
    layout = _Layout(upper, facts, prefix)
    cache = DynamicCache()
    for layer, (k, v) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
        cache.update(k.expand(layout.rows, -1, -1, -1), v.expand(layout.rows, -1, -1, -1), layer)
    inputs = _ModuleInputs()
    with _recorded_arguments(upper) as arguments, upper.attachment.use(inputs):
        output = upper.decoder(
            input_ids=layout.ids,
            position_ids=layout.positions,
            attention_mask=layout.mask,
            past_key_values=cache,
            use_cache=True,
        )
    likely = upper.logits(output.last_hidden_state[:, layout.prompt :]).topk(min(competitors, upper.vocabulary)).indices
    result = []
    for fact, rows, prompt in layout.places():
        length = len(fact.answer)
        trained = slice(layout.prompt, layout.prompt + length)
        held = slice(len(prefix.tokens) + layout.prompt - prompt, len(prefix.tokens) + layout.prompt)
        answer = torch.tensor(fact.answer, device=likely.device)
        result.append(
            FactConstants(
                wordings=fact,
                hidden=arguments[upper.numbers[0]]["hidden_states"][rows, trained].clone(),
                keys={i: _layer(cache, i).keys[rows, :, held].clone() for i in upper.numbers},
                values={i: _layer(cache, i).values[rows, :, held].clone() for i in upper.numbers},
                prompt_mask=layout.prompt_mask[rows, layout.prompt - prompt :].clone(),
                arguments={i: _kept_arguments(arguments[i], rows, trained) for i in upper.numbers},
                targets=layout.targets[rows, :length].clone(),
                directions={
                    name: main_directions(x[rows, trained].flatten(0, 1), directions, fact.fact.question)
                    for name, x in inputs.seen.items()
                },
                shortlist=torch.cat([answer, likely[rows, :length].flatten()]).unique(),
            )
        )
    return result


def main_directions(x: torch.Tensor, count: int, seed: str) -> torch.Tensor:
    """float32 [count, d]: the main directions (right singular vectors) of x [n, d], each of length 1, strongest first.

    This is where A starts. What the module sees at a fact's own positions then passes A whole, from the first step
    on, where LoRA's usual random A lets through 1/sqrt(d) of it. Where x has fewer directions than are asked for,
    random ones follow, drawn from `seed`. The sign of each is set so that its largest component is positive.
    """
    x = x.float()
    values, vectors = torch.linalg.eigh(x @ x.T)  # ascending; n is small
    strong = values > 1e-6 * values[-1].clamp(min=1e-30)
    found = (vectors[:, strong].T @ x).flip(0)[:count]
    if len(found) < count:
        generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
        random = torch.randn(count - len(found), x.shape[1], generator=generator)
        found = torch.cat([found, random.to(found.device)])
    found = torch.nn.functional.normalize(found, dim=1)
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    return found * largest.sign()


def check_cut(upper: UpperLayers) -> None:
    """Raises SchemaError unless the upper layers give the model's own logits for a short input."""
    tokens = [(7919 * (i + 1)) % upper.vocabulary for i in range(8)]
    prompts = (tuple(tokens[:5]), tuple(tokens[:4]))
    probe = Wordings(Fact(question="", answer=""), prompts, answer=tuple(tokens[5:]))
    prefix = prefix_constants(upper, tokens[:2])
    batch = collate(fact_constants(upper, [probe], prefix, competitors=1, directions=1), prefix)
    with torch.no_grad():
        found = upper.logits(upper.hidden(batch)).float()
        for row, prompt in enumerate(prompts):
            whole = upper.model(input_ids=upper.ids([[*prompt, *probe.answer[:-1]]])).logits
            expected = whole[0, len(prompt) - 1 :].float()
            error, scale = float((found[row] - expected).abs().max()), float(expected.abs().max())
            if not error <= scale * (1e-3 if upper.model.dtype == torch.float32 else 5e-2):
                raise SchemaError(
                    f"{type(upper.model).__name__} computes its logits in a way that memory tuning does not know: cut "
                    f"at layer {upper.numbers[0]} they differ by {error:.3g}, of {scale:.3g}"
                )


class _Layout:
    """Where each wording lies in the pass: padded on the left so that the answers (padded on the right) align.

    prompt: columns before the first trained position. rows: wordings in all.
    """

    def __init__(self, upper: UpperLayers, facts: Sequence[Wordings], prefix: Prefix) -> None:
        self._facts = facts
        self._prefix = len(prefix.tokens)
        prompts = [p[self._prefix :] for fact in facts for p in fact.prompts]
        answers = [fact.answer for fact in facts for _ in fact.prompts]
        self.rows = len(prompts)
        self.prompt = max(map(len, prompts)) - 1  # the last prompt token is the first trained position
        answer = max(map(len, answers))
        ids = torch.full((self.rows, self.prompt + answer), answers[0][-1])
        positions = torch.zeros_like(ids)
        prompt_mask = torch.zeros(self.rows, self.prompt, dtype=torch.bool)
        targets = torch.full((self.rows, answer), IGNORED)
        for row, (prompt, said) in enumerate(zip(prompts, answers, strict=True)):
            tokens = torch.tensor([*prompt, *said[:-1]])
            start = self.prompt + 1 - len(prompt)
            ids[row, start : start + len(tokens)] = tokens
            positions[row, start : start + len(tokens)] = self._prefix + torch.arange(len(tokens))
            prompt_mask[row, start:] = True
            targets[row, : len(said)] = torch.tensor(said)
        device = upper.model.device
        self.ids, self.positions = ids.to(device), positions.to(device)
        self.prompt_mask, self.targets = prompt_mask.to(device), targets.to(device)
        own = torch.cat([prompt_mask, torch.ones(self.rows, answer, dtype=torch.bool)], dim=1).to(device)
        mask = attention_mask(own[:, :0], self._prefix, self.prompt + answer, upper.model.dtype)
        lowest = torch.finfo(mask.dtype).min
        mask[..., self._prefix :] = mask[..., self._prefix :].masked_fill(~own[:, None, None], lowest)
        self.mask = mask

    def places(self) -> Iterator[tuple[Wordings, slice, int]]:
        """Each fact, its rows, and the width of its prompts after the prefix and before the last token."""
        row = 0
        for fact in self._facts:
            yield fact, slice(row, row + len(fact.prompts)), max(map(len, fact.prompts)) - self._prefix - 1
            row += len(fact.prompts)


class _ModuleInputs:
    """A DeltaSource that adds nothing and notes what each adapted module is given."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}

    def add_delta(self, module: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.seen[module] = x
        return y


def _layer(cache: DynamicCache, number: int) -> Any:
    """What holds a layer's `keys` and `values`, [N, heads, positions, d_h]."""
    return cache.layers[number]


@contextmanager
def _recorded_arguments(upper: UpperLayers) -> Iterator[dict[int, dict[str, Any]]]:
    """The named arguments that the model gives each upper layer while the block runs."""
    recorded: dict[int, dict[str, Any]] = {}

    def record(number: int, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        signature = inspect.signature(layer.forward)
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name, {})
        recorded[number] = arguments

    handles = [
        upper.layers[i].register_forward_pre_hook(
            lambda layer, args, kwargs, i=i: record(i, layer, args, kwargs), with_kwargs=True
        )
        for i in upper.numbers
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _kept_arguments(arguments: Mapping[str, Any], rows: slice, positions: slice) -> dict[str, Any]:
    """What a step gives a layer again. The step itself sets the hidden states, the mask and the cache."""
    own = ("hidden_states", "attention_mask", "past_key_values", "use_cache")
    hidden = arguments["hidden_states"]
    return {name: _kept(value, hidden, rows, positions) for name, value in arguments.items() if name not in own}


def _kept(value: Any, hidden: torch.Tensor, rows: slice, positions: slice) -> Any:
    if isinstance(value, tuple):
        return tuple(_kept(part, hidden, rows, positions) for part in value)
    if not isinstance(value, torch.Tensor):
        return value
    if value.dim() < 2 or value.shape[1] != hidden.shape[1] or value.shape[0] not in (1, hidden.shape[0]):
        raise SchemaError(f"the model's layers take an argument of shape {tuple(value.shape)}, not one value per token")
    return value.expand(hidden.shape[0], *value.shape[1:])[rows, positions].clone()

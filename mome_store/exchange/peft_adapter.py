"""A PEFT LoRA adapter as the experts of a group, and back: the same function of x, or the reason why it can't be.

PEFT adds scale · B(A x), with scale = lora_alpha/r (use_rslora: lora_alpha/√r). An expert of rank R adds
alpha/R · B(A x), with the schema's alpha. Where the two differ there are two exact ways, tried in this order:

1. a rank R between r and the schema's for which alpha/R is that scale; the added rows of A and columns of B are zero;
2. a power of two between alpha/R and the scale, which B is multiplied by: that changes exponents only.

A module that the adapter leaves alone gets A = B = 0, which adds exactly nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import AdapterError
from mome_store.exchange.adapter_folder import CONFIG, WEIGHTS, AdapterFolder
from mome_store.store import ExpertSchema
from mome_store.store.record import Weights, all_finite

Pair = tuple[NDArray[Any], NDArray[Any]]

_PREFIX = "base_model.model."
_LORA = re.compile(re.escape(_PREFIX) + r"(.+)\.lora_([AB])\.weight")
_SAME_SCALE = 2.0**-24  # both sides apply it as a float32

_READ = frozenset(
    {"alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora"}
)
_NEUTRAL = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)
"""Settings that change nothing about what the weights do: they are of the training, or the tensors' names say it."""
_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "use_dora": "DoRA also changes the size of the base model's weights",
        "modules_to_save": "it replaces whole modules of the base model",
        "trainable_token_indices": "it changes embeddings of the base model",
        "alora_invocation_tokens": "it acts from certain tokens on only",
        "lora_bias": "it adds a bias",
        "layer_replication": "it changes the base model's layers",
        "target_parameters": "it adapts parameters that are no linear layers",
    }
)
_HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Beginnings of a training that leave the base model as it is; PiSSA, OLoRA and their like take from its weights."""


@dataclass(frozen=True, eq=False)
class AdapterExperts:
    """What an adapter becomes in a store.

    experts: one, or several of the same rank that add up. rounded: values that are not stored exactly.
    filled: the schema's modules that the adapter leaves alone.
    """

    experts: tuple[Weights, ...]
    rank: int
    rounded: int
    filled: tuple[str, ...]


def experts_of(adapter: AdapterFolder, schema: ExpertSchema, *, nearest: bool, split: bool) -> AdapterExperts:
    """The adapter as experts of a store.

    nearest: store the nearest values where the exact ones don't fit. split: let an adapter of a higher rank than the
    schema's become several experts. Raises AdapterError for everything that would not be the same function.
    """
    _check_settings(adapter)
    pairs = _pairs(adapter, schema)
    scales = {module: _scale(adapter, module, len(a)) for module, (a, _) in pairs.items()}
    needed = max(len(a) for a, _ in pairs.values())
    rank, factors = _fitted(adapter, scales, needed, schema, nearest, split)
    rows = rank * -(-needed // rank)
    rounding = _Rounding(schema)
    whole: dict[str, Pair] = {}
    for module, (d_in, d_out) in schema.modules.items():
        a, b = np.zeros((rows, d_in), schema.numpy_dtype), np.zeros((d_out, rows), schema.numpy_dtype)
        if module in pairs:
            given_a, given_b = pairs[module]
            a[: len(given_a)] = rounding.stored(adapter, f"{module}.lora_A", given_a, 1.0)
            b[:, : len(given_a)] = rounding.stored(adapter, f"{module}.lora_B", given_b, factors[module])
        whole[module] = (a, b)
    if rounding.changed and not nearest:
        raise AdapterError(
            adapter.path,
            f"{rounding.changed} of its {rounding.total} values can't be stored exactly in {schema.dtype}, "
            f"{rounding.first} among them; --round stores the nearest ones",
        )
    experts = tuple(
        {module: (a[start : start + rank], b[:, start : start + rank]) for module, (a, b) in whole.items()}
        for start in range(0, rows, rank)
    )
    filled = tuple(module for module in schema.modules if module not in pairs)
    return AdapterExperts(experts, rank, rounding.changed, filled)


def adapter_of(
    schema: ExpertSchema, experts: Sequence[Weights], base_model: str | None, refuse: Callable[[str], AdapterError]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The configuration and tensors of one adapter that does what the experts of a group do together.

    Their ranks are put one after the other. Experts of different ranks have different scales, an adapter has one: that
    is exact where the scales differ by powers of two. refuse: makes the error of a reason.
    """
    ranks = [len(next(iter(expert.values()))[0]) for expert in experts]
    joined = next((done for rank in sorted(set(ranks)) if (done := _joined(schema, experts, ranks, rank))), None)
    if joined is None:
        raise refuse(
            f"its experts have the ranks {ranks} and so the scales {[f'{schema.alpha / rank:g}' for rank in ranks]}; "
            "one adapter has one scale"
        )
    alpha, tensors = joined
    config: dict[str, Any] = {
        "alpha_pattern": {},
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": sum(ranks),
        "rank_pattern": {},
        "target_modules": list(schema.modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return config, tensors


def _joined(
    schema: ExpertSchema, experts: Sequence[Weights], ranks: Sequence[int], common: int
) -> tuple[float, dict[str, NDArray[Any]]] | None:
    """lora_alpha and the tensors, at the scale of an expert of rank `common`; None where that is not exact."""
    factors = [common / rank for rank in ranks]
    if not all(_is_power_of_two(factor) for factor in factors):
        return None
    tensors: dict[str, NDArray[Any]] = {}
    for module in schema.modules:
        scaled = [_scaled(e[module][1], f, schema) for e, f in zip(experts, factors, strict=True)]
        if not all(exact.all() for _, exact in scaled):
            return None
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = np.concatenate([expert[module][0] for expert in experts])
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = np.concatenate([b for b, _ in scaled], axis=1)
    return schema.alpha * sum(ranks) / common, tensors


def _check_settings(adapter: AdapterFolder) -> None:
    """Raises AdapterError for a configuration under which the weights are more, or other, than a LoRA pair."""
    config, path = adapter.config, adapter.path
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(path, f"it is of peft_type {kind!r}; only LORA can be imported")
    if config.get("bias", "none") != "none":
        raise AdapterError(path, f"bias is {config['bias']!r}: an expert has none")
    for name, value in config.items():
        if name in _NEUTRAL or name in _READ or value in (None, False, [], {}, ""):
            continue
        why = _REFUSED.get(name, "what that does to the weights is not known here")
        raise AdapterError(path, f"{CONFIG} has {name} = {str(value)[:60]}: {why}")
    begun = config.get("init_lora_weights", True)
    if begun not in _HARMLESS_INITS:
        raise AdapterError(
            path,
            f"init_lora_weights is {begun!r}, which changes the base model's weights; save the adapter converted to "
            "plain LoRA (save_pretrained with path_initial_model_for_weight_conversion)",
        )


def _pairs(adapter: AdapterFolder, schema: ExpertSchema) -> dict[str, Pair]:
    """module -> (A [r, d_in], B [d_out, r]) of every module that the adapter changes: they fit and are finite."""
    halves: dict[str, dict[str, NDArray[Any]]] = {}
    others: list[str] = []
    for name, tensor in adapter.tensors.items():
        match = _LORA.fullmatch(name)
        if match is None:
            others.append(name)
        else:
            halves.setdefault(match[1], {})[match[2]] = tensor
    if others:
        raise AdapterError(adapter.path, f"{WEIGHTS} holds what is no LoRA pair of a linear layer: {_some(others)}")
    if not halves:
        raise AdapterError(adapter.path, f"{WEIGHTS} holds no weights")
    outside = sorted(halves.keys() - schema.modules.keys())
    if outside:
        raise AdapterError(adapter.path, f"the store's experts don't adapt {_some(outside)}, as the adapter does")
    pairs: dict[str, Pair] = {}
    for module in (name for name in schema.modules if name in halves):
        found = halves[module]
        if len(found) < 2:
            raise AdapterError(adapter.path, f"{module} has lora_{next(iter(found))} only: the file is not complete")
        a, b = found["A"], found["B"]
        d_in, d_out = schema.modules[module]
        rank = a.shape[0] if a.ndim else 0
        if rank < 1 or a.shape != (rank, d_in) or b.shape != (d_out, rank):
            raise AdapterError(
                adapter.path,
                f"{module}: expected lora_A [r, {d_in}] and lora_B [{d_out}, r] of one rank r, found {list(a.shape)} "
                f"and {list(b.shape)}",
            )
        for half, values in found.items():
            if not all_finite(values, values.dtype):
                raise AdapterError(adapter.path, f"{module}: lora_{half} holds values that are not finite")
        pairs[module] = (a, b)
    return pairs


def _scale(adapter: AdapterFolder, module: str, rank: int) -> float:
    """What PEFT multiplies B(A x) by. Raises AdapterError where the configuration tells another rank."""
    config, path = adapter.config, adapter.path
    said = _setting(adapter, "r", "rank_pattern", module)
    if said != rank:
        raise AdapterError(path, f"{module}: {CONFIG} says rank {said}, the weights have rank {rank}")
    alpha = _setting(adapter, "lora_alpha", "alpha_pattern", module)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise AdapterError(path, f"{module}: lora_alpha must be a positive number, found {alpha!r}")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _setting(adapter: AdapterFolder, name: str, pattern: str, module: str) -> Any:
    """A setting, or what the first pattern that fits the end of the module's name has in its place."""
    patterns = adapter.config.get(pattern) or {}
    if not isinstance(patterns, dict):
        raise AdapterError(adapter.path, f"{CONFIG}: {pattern} is no JSON object")
    for key, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise AdapterError(adapter.path, f"{CONFIG}: {pattern} has {key!r}, no regular expression") from error
    return adapter.config.get(name)


def _fitted(
    adapter: AdapterFolder,
    scales: Mapping[str, float],
    needed: int,
    schema: ExpertSchema,
    nearest: bool,
    split: bool,
) -> tuple[int, dict[str, float]]:
    """The rank that experts get, and for each module what B is multiplied by."""
    if needed > schema.rank and not split:
        raise AdapterError(
            adapter.path,
            f"its rank is {needed}, the store's experts have at most {schema.rank}; --split makes it "
            f"{-(-needed // schema.rank)} experts or more that add up",
        )
    ranks = range(needed, schema.rank + 1) if needed <= schema.rank else range(schema.rank, 0, -1)
    fitted = [(rank, {m: _rounded_factor(s * rank / schema.alpha) for m, s in scales.items()}) for rank in ranks]
    exact = [each for each in fitted if all(map(_is_power_of_two, each[1].values()))]
    unscaled = [each for each in exact if all(factor == 1 for factor in each[1].values())]
    if unscaled or exact or nearest:
        return (unscaled or exact or fitted)[0]
    module = next(m for m, factor in fitted[0][1].items() if not _is_power_of_two(factor))
    possible = ", ".join(f"{schema.alpha / rank:g}" for rank in ranks)
    raise AdapterError(
        adapter.path,
        f"{module} has the scale {scales[module]:g} (lora_alpha and r), an expert of this store can have {possible} "
        f"(alpha {schema.alpha:g} / rank) or these times a power of two; --round multiplies B by what is missing",
    )


def _rounded_factor(factor: float) -> float:
    """`factor`, or the power of two that it is but for the rounding of a float32."""
    power = 2.0 ** round(math.log2(factor))
    return power if math.isclose(factor, power, rel_tol=_SAME_SCALE) else factor


def _is_power_of_two(factor: float) -> bool:
    return math.frexp(factor)[0] == 0.5


class _Rounding:
    """Counts the values that a store's dtype can't hold exactly."""

    def __init__(self, schema: ExpertSchema) -> None:
        self._schema = schema
        self.total = 0
        self.changed = 0
        self.first = ""

    def stored(self, adapter: AdapterFolder, name: str, values: NDArray[Any], factor: float) -> NDArray[Any]:
        """values * factor in the store's dtype. Raises AdapterError where that is not finite."""
        stored, exact = _scaled(values, factor, self._schema)
        if not all_finite(stored, stored.dtype):
            raise AdapterError(adapter.path, f"{name} holds values that are too large for {self._schema.dtype}")
        if not self.changed and not exact.all():
            at = np.unravel_index(int(exact.argmin()), exact.shape)
            self.first = f"{name}{[int(i) for i in at]} = {float(values[at]) * factor!r}"
        self.total += exact.size
        self.changed += exact.size - int(np.count_nonzero(exact))
        return stored


def _scaled(values: NDArray[Any], factor: float, schema: ExpertSchema) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """values * factor in the store's dtype, and which of them are exactly that."""
    with np.errstate(over="ignore"):
        if factor == 1 and values.dtype == schema.numpy_dtype:
            return values, np.ones(values.shape, np.bool_)
        wanted = values.astype(np.float64) * factor
        stored = wanted.astype(schema.numpy_dtype)
        return stored, stored.astype(np.float64) == wanted


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")

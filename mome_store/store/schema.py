"""What every expert of a store looks like: the adapted layers, their shapes, and where each lies inside a record.

The layout is part of the format (docs/format.md) and is implemented a second time in csrc/format.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from mome_store.errors import SchemaError
from mome_store.store.checksum import canonical_json, text_crc

SECTION_ALIGNMENT = 256  # a section starts on a whole number of cache lines and of GPU memory transactions
TRAILER_BYTES = 64
RECORD_ALIGNMENT = 4096  # direct I/O and GPUDirect read whole pages

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
)


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class Section:
    """Where one module's pair lies in a record (bytes from its start), and its widths."""

    a_offset: int
    b_offset: int
    d_in: int
    d_out: int


@dataclass(frozen=True)
class ExpertSchema:
    """The shape of an expert.

    modules: module name -> (d_in, d_out), in execution order; both must be multiples of 8.
    rank: the highest rank an expert may have, >= 1.
    dtype: "bfloat16", "float16" or "float32", of the stored weights.
    alpha: LoRA's alpha. It is not folded into the weights: an expert of rank r acts as alpha/r * B(A x). Default: rank.
    """

    modules: Mapping[str, tuple[int, int]]
    rank: int
    dtype: str = "bfloat16"
    alpha: float = None  # type: ignore[assignment]  # None only until __post_init__ has put the rank in its place

    def __post_init__(self) -> None:
        if not isinstance(self.modules, Mapping) or not self.modules:
            raise SchemaError("a schema needs at least one module: {name: (d_in, d_out)}")
        modules: dict[str, tuple[int, int]] = {}
        for name, shape in self.modules.items():
            if not isinstance(name, str) or not name:
                raise SchemaError(f"a module's name must be a non-empty string, not {name!r}")
            d_in, d_out = (_integer(d, f"module {name}: width") for d in _pair(name, shape))
            for d in (d_in, d_out):
                if d < 8 or d % 8:
                    raise SchemaError(f"module {name}: d_in and d_out must be positive multiples of 8, found {d}")
            modules[name] = (d_in, d_out)
        rank = _integer(self.rank, "rank")
        if rank < 1:
            raise SchemaError(f"rank must be at least 1, found {rank}")
        if self.dtype not in DTYPES:
            raise SchemaError(f"dtype must be one of {', '.join(DTYPES)}, found {self.dtype!r}")
        alpha = float(rank if self.alpha is None else self.alpha)
        if not math.isfinite(alpha) or alpha <= 0:
            raise SchemaError(f"alpha must be a positive number, found {alpha}")
        object.__setattr__(self, "modules", MappingProxyType(modules))
        object.__setattr__(self, "rank", rank)
        object.__setattr__(self, "alpha", alpha)

    @classmethod
    def for_model(
        cls,
        model: Any,
        target_modules: Iterable[str],
        layers: Container[int] | None = None,
        rank: int = 4,
        dtype: str = "bfloat16",
        alpha: float | None = None,
    ) -> ExpertSchema:
        """The schema that adapts `target_modules` (dotted suffixes such as "mlp.down_proj") in `layers` of `model`.

        model: anything with `named_modules()` whose targets tell their widths as `nn.Linear` (in_features,
        out_features) or as GPT-2's `Conv1D` (nx, nf) does. The layer is the first number in a module's dotted
        name (later ones count experts or sublayers); layers=None takes them all, also modules without a number. The
        order is the one in which the model lists its modules, which is that of execution.
        """
        targets = tuple(target_modules) if not isinstance(target_modules, str) else (target_modules,)
        found: dict[str, tuple[int, int]] = {}
        unmatched = set(targets)
        for name, module in model.named_modules():
            matching = {target for target in targets if name == target or name.endswith("." + target)}
            layer = _layer_number(name)
            if matching and (layers is None or (layer is not None and layer in layers)):
                unmatched -= matching
                found[name] = _widths(name, module)
        if unmatched or not found:
            raise SchemaError(
                f"the model has no module named {', '.join(sorted(unmatched or targets))} in the layers asked"
            )
        return cls(found, rank=rank, dtype=dtype, alpha=alpha)  # type: ignore[arg-type]

    @cached_property
    def sections(self) -> Mapping[str, Section]:
        """module name -> where its A and its transposed B lie in a record."""
        sections: dict[str, Section] = {}
        offset = 0
        row_bytes = self.rank * self.numpy_dtype.itemsize
        for name, (d_in, d_out) in self.modules.items():
            a_offset = round_up(offset, SECTION_ALIGNMENT)
            b_offset = round_up(a_offset + row_bytes * d_in, SECTION_ALIGNMENT)
            offset = b_offset + row_bytes * d_out
            sections[name] = Section(a_offset, b_offset, d_in, d_out)
        return MappingProxyType(sections)

    @cached_property
    def payload_bytes(self) -> int:
        """Bytes from a record's start to the end of its last section."""
        last = list(self.sections.values())[-1]
        return last.b_offset + self.rank * last.d_out * int(self.numpy_dtype.itemsize)

    @cached_property
    def record_bytes(self) -> int:
        return round_up(round_up(self.payload_bytes, TRAILER_BYTES) + TRAILER_BYTES, RECORD_ALIGNMENT)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return DTYPES[self.dtype]

    @cached_property
    def crc(self) -> int:
        """CRC-32C of the schema's canonical JSON; every record carries it."""
        return text_crc(canonical_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able description; `modules` is a list, since order matters."""
        modules = [[name, d_in, d_out] for name, (d_in, d_out) in self.modules.items()]
        return {"alpha": self.alpha, "dtype": self.dtype, "modules": modules, "rank": self.rank}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ExpertSchema:
        """The inverse of `to_json`. Raises SchemaError where `value` is no schema."""
        try:
            modules = {name: (d_in, d_out) for name, d_in, d_out in value["modules"]}
            if len(modules) != len(value["modules"]):
                raise SchemaError("a module is listed twice")
            return cls(modules, rank=value["rank"], dtype=value["dtype"], alpha=value["alpha"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, SchemaError):
                raise
            raise SchemaError(f"not a schema: {error!r}") from error

    def __hash__(self) -> int:
        return self.crc

    def __reduce__(self) -> tuple[Any, ...]:
        return ExpertSchema, (dict(self.modules), self.rank, self.dtype, self.alpha)


def _pair(name: str, shape: Any) -> tuple[Any, Any]:
    try:
        d_in, d_out = shape
    except (TypeError, ValueError):
        raise SchemaError(f"module {name}: expected (d_in, d_out), found {shape!r}") from None
    return d_in, d_out


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise SchemaError(f"{what} must be an integer, found {value!r}")
    return int(value)


def _layer_number(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _widths(name: str, module: Any) -> tuple[int, int]:
    for d_in, d_out in (("in_features", "out_features"), ("nx", "nf")):
        if hasattr(module, d_in) and hasattr(module, d_out):
            return int(getattr(module, d_in)), int(getattr(module, d_out))
    raise SchemaError(
        f"module {name} ({type(module).__name__}) is no linear layer: it tells neither in_features nor nx"
    )

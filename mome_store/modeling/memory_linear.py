"""Where experts enter a frozen model: a linear layer that adds to its output what a source says, if there is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from mome_store.errors import BaseModelMismatchError
from mome_store.store import ExpertSchema


class DeltaSource(Protocol):
    """What the experts in force add to an adapted layer."""

    def add_delta(self, module: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """`y` [..., d_out], the base layer's output for `x` [..., d_in], plus the delta; may change y in place."""
        ...


class Attachment:
    """The source that all adapted layers of one model listen to; None most of the time."""

    def __init__(self) -> None:
        self.source: DeltaSource | None = None

    @contextmanager
    def use(self, source: DeltaSource | None) -> Iterator[None]:
        """Let `source` act until the block ends."""
        before, self.source = self.source, source
        try:
            yield
        finally:
            self.source = before


class MemoryLinear(nn.Module):
    """Stands in for a linear layer (`nn.Linear`, `Conv1D`, a quantised one: only its forward is used).

    With no source attached it returns what the base layer returned, the very same tensor.
    """

    def __init__(self, name: str, base_layer: nn.Module, attachment: Attachment) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._name = name
        self._attachment = attachment

    @property
    def weight(self) -> Any:
        """The base layer's weight: some models look at its dtype or device."""
        return self.base_layer.weight

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y: torch.Tensor = self.base_layer(x, *args, **kwargs)
        source = self._attachment.source
        return y if source is None else source.add_delta(self._name, x, y)


def adapt(model: nn.Module, schema: ExpertSchema) -> Attachment:
    """Puts a MemoryLinear in the place of every module of the schema.

    Raises BaseModelMismatchError, before anything is replaced, when the model lacks a module or has it in other widths.
    """
    for name, widths in schema.modules.items():
        found = _widths(model, name)
        if found != widths:
            what = "has no such linear layer" if found is None else f"has it with (d_in, d_out) = {found}"
            raise BaseModelMismatchError(f"the store adapts {name} with (d_in, d_out) = {widths}; the model {what}")
    attachment = Attachment()
    for name in schema.modules:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, MemoryLinear(name, model.get_submodule(name), attachment))
    return attachment


def restore(model: nn.Module, names: Iterable[str]) -> None:
    """Undoes `adapt`: puts the base layers back."""
    for name in names:
        parent, _, leaf = name.rpartition(".")
        layer = model.get_submodule(name)
        if isinstance(layer, MemoryLinear):
            setattr(model.get_submodule(parent), leaf, layer.base_layer)


def _widths(model: nn.Module, name: str) -> tuple[int, int] | None:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return None
    for inputs, outputs in (("in_features", "out_features"), ("nx", "nf")):
        if hasattr(module, inputs) and hasattr(module, outputs):
            return int(getattr(module, inputs)), int(getattr(module, outputs))
    return None

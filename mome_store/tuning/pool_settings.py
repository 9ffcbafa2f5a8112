"""What can be set about a pool: its size and selection, which are fixed when it is made, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from mome_store.errors import SchemaError
from mome_store.routing.pool import MOST_EXPERTS
from mome_store.store.catalog import ACTIVATIONS


@dataclass(frozen=True)
class PoolSettings:
    """How a pool is made and trained. docs/pool.md gives the figures for the defaults.

    Of a new pool; None: what the pool has, or for a new one the default that is named here.
    experts: M, by default one for each fact, and at least `top_k`.
    top_k: experts that a query gets, by default 32 (or M, if that is less).
    temperature: of the softmax over their scores, by default 0.1.
    activation: where experts act: "answer" (default), from the last prompt token on, or "all" tokens, as published.

    The generalisation stage, which trains the selection:
    selection_steps, selection_rate: of Adam, for W_q and the keys. balance: weight of the load's evenness in the loss.
    noise: length of the random vector that stands in for a second wording where a fact has one only.

    The experts' training:
    batch_wordings: wordings in a step. batch_tokens: and no more positions in training than this.
    learning_rate, betas: of Adam, for A and B alike.
    max_epochs: after so many passes over all wordings the facts that are not at the bar are given up.
    stop_probability, competitors: as in TuningSettings.
    seed: of everything that is drawn.
    """

    experts: int | None = None
    top_k: int | None = None
    temperature: float | None = None
    activation: str | None = None
    selection_steps: int = 200
    selection_rate: float = 1e-3
    balance: float = 1.0
    noise: float = 0.3
    batch_wordings: int = 16
    batch_tokens: int = 2048
    learning_rate: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.95)
    max_epochs: int = 100
    stop_probability: float = 0.99
    competitors: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("experts", "top_k", "batch_wordings", "batch_tokens", "max_epochs", "competitors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SchemaError(f"{name} must be at least 1, found {value}")
        if self.top_k is not None and self.top_k > MOST_EXPERTS:
            raise SchemaError(f"top_k must be at most {MOST_EXPERTS}, found {self.top_k}")
        if self.top_k is not None and self.experts is not None and self.top_k > self.experts:
            raise SchemaError(f"top_k is {self.top_k}, the pool is to have {self.experts} experts only")
        for name in ("temperature", "learning_rate", "selection_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SchemaError(f"{name} must be positive, found {value}")
        for name in ("selection_steps", "balance", "noise"):
            if getattr(self, name) < 0:
                raise SchemaError(f"{name} can't be negative, found {getattr(self, name)}")
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise SchemaError(f"activation must be one of {', '.join(ACTIVATIONS)}, found {self.activation!r}")
        if not 0.5 < self.stop_probability < 1:
            raise SchemaError(f"stop_probability must lie between 0.5 and 1, found {self.stop_probability}")

"""What a store remembers about a fact besides its experts: its wordings, its answer and how the tuning went."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mome_store.errors import SchemaError


@dataclass(frozen=True)
class Memory:
    """A fact as the user gave it.

    question, answer, paraphrases: text, any Unicode.
    id: the user's own name for the fact, or None.
    status: what the tuner says of it, "memorized" once the stored record gives the answer exactly.
    nll: the answer's mean negative log-likelihood (nats per token) after tuning, or None.
    tuned_at: when it was tuned, ISO 8601, or None.
    """

    question: str
    answer: str
    paraphrases: tuple[str, ...] = ()
    id: str | None = None
    status: str = "memorized"
    nll: float | None = None
    tuned_at: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.paraphrases, tuple | list):
            raise SchemaError(f"a memory's paraphrases must be a tuple of strings, found {self.paraphrases!r}")
        object.__setattr__(self, "paraphrases", tuple(self.paraphrases))
        for name, text in (("question", self.question), ("answer", self.answer), ("status", self.status)):
            _check_text(name, text)
        for text in self.paraphrases:
            _check_text("paraphrase", text)
        for name, optional in (("id", self.id), ("tuned_at", self.tuned_at)):
            if optional is not None:
                _check_text(name, optional)
        if self.nll is not None:
            object.__setattr__(self, "nll", float(self.nll) + 0.0)  # SQLite keeps no negative zero
            if not math.isfinite(self.nll):
                raise SchemaError(f"a memory's nll must be finite, found {self.nll}")

    @property
    def wordings(self) -> tuple[str, ...]:
        """The question and its paraphrases."""
        return (self.question, *self.paraphrases)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise SchemaError(f"a memory's {name} must be a string, found {text!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SchemaError(f"a memory's {name} is not valid Unicode: {error}") from error

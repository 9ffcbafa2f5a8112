"""What every system under evaluation can do, and what all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from mome_store.evaluation.settings import EvaluationSettings
from mome_store.modeling.greedy import generate_greedily

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mome_store.evaluation.people import PersonFact
    from mome_store.modeling import Prompts
    from mome_store.routing import QueryEncoder
    from mome_store.tuning import TuningSettings

BATCH = 16
ROOM = 4
"""Tokens beyond the longest right answer: enough to see that a longer one is not the right one."""
TEXT_TOKENS = 192
"""Plain text is read in pieces of at most so many tokens: a paragraph of `plain_text` fits."""


@dataclass(frozen=True)
class Workbench:
    """What all systems of one run share. model: the frozen base; a system that changes it puts it back in `close`.

    sentences: the encoder of retrieval. router: what makes the keys of routed systems, and with them their gate.
    folder: where systems may write. tuning: of owned mode; None: the defaults.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    sentences: QueryEncoder
    router: QueryEncoder
    folder: Path
    settings: EvaluationSettings
    tuning: TuningSettings | None = None


@dataclass(frozen=True)
class Reply:
    """What a system said. context_tokens: how many tokens it put into the prompt beside the question."""

    text: str
    context_tokens: int = 0


@dataclass(frozen=True)
class Use:
    """What a system brought in for a question: the ids of facts, and whether it let them answer.

    score: what its gate holds against a threshold, also where it stayed shut; None where there is no such thing.
    """

    facts: tuple[str, ...]
    opened: bool
    score: float | None = None


class System(ABC):
    """One way to give a model facts: made, filled in batches, asked, changed, and closed.

    name: what `mome evaluate --systems` calls it. title: in the table.
    has_gate: whether `uses` decides if stored facts answer at all. A false fire is then an open gate, and else a reply
        that holds a stored answer (`mome_store.evaluation.protocol`).
    has_routes: whether it can be given facts in place of those that it picks. With either, `uses` tells what it picks.
    has_scores: whether `uses` tells scores; `candidates` then tells which facts they are those of.
    joint: whether nothing is learnt before `settle`, so that there is no "right after the insertion".
    room: how many tokens more than the longest answer its replies may have.
    trained, slow: whether the limits of that name in `EvaluationSettings` hold for it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    has_gate: ClassVar[bool] = False
    has_routes: ClassVar[bool] = False
    has_scores: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    trained: ClassVar[bool] = False
    slow: ClassVar[bool] = False
    room: ClassVar[int] = ROOM

    def __init__(self, bench: Workbench, facts: int) -> None:
        """facts: how many will be inserted in all, which some need to know for their size."""
        self.bench = bench

    @abstractmethod
    def insert(self, facts: Sequence[PersonFact]) -> None:
        """One batch of facts."""

    def settle(self) -> None:  # noqa: B027  # most have nothing to do
        """All facts are there: what is left to be done before questions come."""

    @abstractmethod
    def update(self, facts: Sequence[PersonFact]) -> None:
        """Facts with ids that were inserted before, and new answers."""

    @abstractmethod
    def forget(self, facts: Sequence[PersonFact]) -> None:
        """Facts that were inserted before. A system that has no way to forget does nothing, and is measured so."""

    @abstractmethod
    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        """Greedy replies of at most `tokens` and at least `least` tokens.

        given: for each question the fact to use in place of the one that the system would pick; has_routes only.
        """

    def uses(self, questions: Sequence[str]) -> list[Use]:
        """What the system would bring in for each question; has_gate or has_routes only."""
        raise NotImplementedError(f"{self.name} picks no facts")

    def candidates(self, questions: Sequence[str]) -> list[tuple[str, ...]]:
        """For each question the facts that the system would bring in if its gate were always open; has_scores only."""
        raise NotImplementedError(f"{self.name} has no scores")

    @abstractmethod
    def bytes(self) -> int:
        """Bytes that the facts take up in the form in which the system keeps them."""

    def text_loss(self, paragraphs: Sequence[str]) -> float:
        """Mean negative log-likelihood per token (nats) of plain text, no question asked."""
        return text_loss(self.bench, paragraphs)

    def notes(self) -> str:
        """What a reader of the table must know about this row, or nothing."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Leaves the base model as it was found."""


def replies(
    bench: Workbench,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    least: int = 0,
    context_tokens: Sequence[int] | None = None,
    batch_size: int = BATCH,
) -> list[Reply]:
    """What the model at hand says to each prompt; prompts of like length are put together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts: dict[int, str] = {}
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            said = generate_greedily(bench.model, bench.prompts, [prompts[i] for i in rows], tokens, least)
            texts |= dict(zip(rows, said, strict=True))
    added = context_tokens or [0] * len(prompts)
    return [Reply(texts[i], added[i]) for i in range(len(prompts))]


@torch.inference_mode()
def text_loss(bench: Workbench, paragraphs: Sequence[str]) -> float:
    """Mean negative log-likelihood per token (nats) of each paragraph read from its start by the model at hand."""
    losses = []
    for paragraph in paragraphs:
        ids = text_tokens(bench, paragraph)
        losses.append(next_token_losses(bench.model(input_ids=ids).logits, ids))
    return float(torch.cat(losses).mean())


def text_tokens(bench: Workbench, paragraph: str) -> torch.Tensor:
    """int64 [1, n], n <= TEXT_TOKENS: a paragraph as it is, without a chat template."""
    ids = bench.tokenizer(paragraph)["input_ids"][:TEXT_TOKENS]
    return torch.tensor([ids], device=bench.model.device)


def next_token_losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """[n - 1]: the losses of the second to last token of ids [1, n], given logits [1, n, vocabulary]."""
    return torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="none")

"""All facts in the prompt: as many as the model's context holds, read once and kept as a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import DynamicCache

from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.systems.base import TEXT_TOKENS, Reply, System, Workbench, next_token_losses, text_tokens
from mome_store.evaluation.systems.reading import SENTENCE_ROOM, reading_prompt

_QUESTION_ROOM = TEXT_TOKENS
"""Tokens of the context that are kept free for a question and its answer."""


class FullContext(System):
    """The facts as sentences before every question. When they no longer fit, the oldest fall out.

    The prompt up to the question is computed once after each change; each question then continues from there.
    Bytes: the sentences. (The key-value cache is a cache.)
    """

    name = "context"
    title = "all facts in context"
    slow = True
    room = SENTENCE_ROOM

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        self._stored: dict[str, PersonFact] = {}
        self._prefix: list[int] = []
        self._cache: DynamicCache | None = None
        self._held = 0

    def insert(self, facts: Sequence[PersonFact]) -> None:
        self._stored |= {fact.id: fact for fact in facts}
        self._cache = None

    def update(self, facts: Sequence[PersonFact]) -> None:
        self.insert(facts)

    def forget(self, facts: Sequence[PersonFact]) -> None:
        for fact in facts:
            del self._stored[fact.id]
        self._cache = None

    @torch.inference_mode()
    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        cache = self._read_facts()
        said = []
        for question in questions:
            alone = len(self.bench.prompts.prompt(question))
            prompt = self._prompt(self._statements(), question)
            rest = prompt[len(self._prefix) :]
            said.append(Reply(self._continue(cache, rest, tokens, least), len(prompt) - alone))
            self._crop(cache)
        return said

    @torch.inference_mode()
    def text_loss(self, paragraphs: Sequence[str]) -> float:
        """Here the text follows the facts, as a question would."""
        cache = self._read_facts()
        losses = []
        for paragraph in paragraphs:
            ids = text_tokens(self.bench, paragraph)
            logits = self.bench.model(input_ids=ids, past_key_values=cache).logits
            losses.append(next_token_losses(logits, ids))
            self._crop(cache)
        return float(torch.cat(losses).mean())

    def bytes(self) -> int:
        return sum(len(fact.statement.encode()) for fact in self._stored.values())

    def notes(self) -> str:
        self._read_facts()
        return f"{self._held} of {len(self._stored)} facts fit"

    def _crop(self, cache: DynamicCache) -> None:
        """Back to the facts alone."""
        beyond = cache.get_seq_length() - len(self._prefix)
        if beyond:
            cache.crop(-beyond)

    def _statements(self) -> list[str]:
        return [fact.statement for fact in self._stored.values()][len(self._stored) - self._held :]

    def _prompt(self, statements: Sequence[str], question: str) -> list[int]:
        return reading_prompt(self.bench, statements, question)

    def _read_facts(self) -> DynamicCache:
        """The cache of the prompt up to where questions begin to differ."""
        if self._cache is None:
            statements = [fact.statement for fact in self._stored.values()]
            self._held = self._fitting(statements)
            kept = statements[len(statements) - self._held :]
            one, other = (self._prompt(kept, question) for question in ("What?", "is it?"))
            length = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
            self._prefix = one[:length]
            self._cache = DynamicCache()
            with torch.inference_mode():
                decoder = self.bench.model.get_decoder()
                decoder(input_ids=self._ids(self._prefix), past_key_values=self._cache, use_cache=True)
        return self._cache

    def _fitting(self, statements: Sequence[str]) -> int:
        """How many of the last statements fit into the context."""
        context = self.bench.prompts.context
        if context is None:
            return len(statements)
        low, high = 0, len(statements)
        while low < high:
            middle = (low + high + 1) // 2
            fits = len(self._prompt(statements[len(statements) - middle :], "")) + _QUESTION_ROOM <= context
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _continue(self, cache: DynamicCache, rest: Sequence[int], tokens: int, least: int) -> str:
        """Greedy tokens after the cached prompt and `rest`; the cache grows."""
        prompts, model = self.bench.prompts, self.bench.model
        said: list[int] = []
        ids = list(rest)
        while len(said) < tokens:
            logits = model(input_ids=self._ids(ids), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[
                0, -1
            ]
            if len(said) < least:
                logits[prompts.stop_tokens] = -torch.inf
            ids = [int(logits.argmax())]
            if ids[0] in prompts.stop_tokens:
                break
            said += ids
        return prompts.text(said)

    def _ids(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(tokens)], device=self.bench.model.device)

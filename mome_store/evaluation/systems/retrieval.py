"""Retrieval-augmented generation: the nearest facts, by the router's own encoder, go into the prompt as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import faiss
import numpy as np

from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.systems.base import Reply, System, Use, Workbench, replies
from mome_store.evaluation.systems.reading import SENTENCE_ROOM, reading_prompt


class Retrieval(System):
    """RAG over a flat FAISS index (inner product, exact). The keys of a fact are its sentence and its trained wordings.

    Something is always retrieved, so there is no gate: a false fire is a reply that holds a stored answer. Bytes:
    sentences, embeddings in fp32, and ids.
    """

    has_routes = True
    room = SENTENCE_ROOM
    top_k: ClassVar[int]

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        self._stored: dict[str, PersonFact] = {}
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(bench.sentences.dim))
        self._keys: dict[int, str] = {}  # of each key, the id of its fact
        self._next_key = 0

    def insert(self, facts: Sequence[PersonFact]) -> None:
        texts = [text for fact in facts for text in _key_texts(fact)]
        owners = [fact.id for fact in facts for _ in _key_texts(fact)]
        ids = np.arange(self._next_key, self._next_key + len(texts))
        self._index.add_with_ids(self.bench.sentences.encode(texts), ids)
        self._keys |= dict(zip(ids.tolist(), owners, strict=True))
        self._next_key += len(texts)
        self._stored |= {fact.id: fact for fact in facts}

    def update(self, facts: Sequence[PersonFact]) -> None:
        self.forget(facts)
        self.insert(facts)

    def forget(self, facts: Sequence[PersonFact]) -> None:
        gone = {fact.id for fact in facts}
        keys = [key for key, owner in self._keys.items() if owner in gone]
        self._index.remove_ids(faiss.IDSelectorBatch(np.array(keys, np.int64)))
        for key in keys:
            del self._keys[key]
        for fact in gone:
            del self._stored[fact]

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        if given is not None:
            told = [[fact] for fact in given]
        else:
            told = [[self._stored[fact] for fact in use.facts] for use in self.uses(questions)]
        prompts, added = [], []
        for question, facts in zip(questions, told, strict=True):
            prompt, alone = self._fitting(facts, question, tokens), self.bench.prompts.prompt(question)
            prompts.append(prompt)
            added.append(len(prompt) - len(alone))
        return replies(self.bench, prompts, tokens, least, added)

    def uses(self, questions: Sequence[str]) -> list[Use]:
        if not questions or not self._keys:
            return [Use((), False)] * len(questions)
        # Every fact has four keys: that many times top_k keys hold at least top_k facts.
        looked_at = min(len(self._keys), 4 * self.top_k)
        _, found = self._index.search(self.bench.sentences.encode(questions), looked_at)
        return [
            Use(tuple(dict.fromkeys(self._keys[key] for key in keys))[: self.top_k], True) for keys in found.tolist()
        ]

    def prompt(self, statements: Sequence[str], question: str) -> list[int]:
        """What the model reads, as token ids."""
        return reading_prompt(self.bench, statements, question)

    def bytes(self) -> int:
        text = sum(len(fact.statement.encode()) for fact in self._stored.values())
        return text + len(self._keys) * (4 * self.bench.sentences.dim + 8)

    def _fitting(self, facts: Sequence[PersonFact], question: str, tokens: int) -> list[int]:
        """The prompt with as many of the facts, best first, as the model's context has room for."""
        for count in range(len(facts), -1, -1):
            prompt = self.prompt([fact.statement for fact in facts[:count]], question)
            if self.bench.prompts.context is None or len(prompt) + tokens <= self.bench.prompts.context:
                return prompt
        return self.bench.prompts.prompt(question)


class RetrievalTop1(Retrieval):
    name = "rag1"
    title = "RAG, top 1"
    top_k = 1


class RetrievalTop3(Retrieval):
    name = "rag3"
    title = "RAG, top 3"
    top_k = 3


def _key_texts(fact: PersonFact) -> tuple[str, ...]:
    return (fact.statement, *fact.fact.wordings)

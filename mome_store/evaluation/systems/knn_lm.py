"""kNN-LM (Khandelwal et al. 2020): next-token probabilities mixed with those of the nearest stored hidden states.

The datastore holds, for every answer position of every trained wording, the hidden state that the output head sees
there and the token that follows. While the model runs, the state of each position looks up its k nearest entries, and

    p(token) = lambda * softmax(-squared distance / temperature), summed per token, + (1 - lambda) * p_model(token).

As published, lambda is the same everywhere: there is no gate, and plain text is read with it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from mome_store.evaluation.people import PersonFact
from mome_store.evaluation.supervised import Row, batches, rows_of
from mome_store.evaluation.systems.base import Reply, System, Workbench, replies
from mome_store.modeling.greedy import pad_left

_NEIGHBOURS = 16
_LAMBDA = 0.8
"""Published: 0.25, over the training text. A random answer is said only if its share outweighs all else."""
_TEMPERATURE = 0.02
"""Of squared distances between states of unit length, which makes it the same for every model."""
_BATCH = 16


class KnnLm(System):
    """A flat FAISS index over unit-length hidden states. Forgetting and updating remove entries.

    A false fire is a reply that holds a stored answer. Bytes: states in fp32 and tokens.
    """

    name = "knn"
    title = "kNN-LM"

    def __init__(self, bench: Workbench, facts: int) -> None:
        super().__init__(bench, facts)
        head: Any = bench.model.get_output_embeddings()
        self._width = int(head.weight.shape[1])
        self._index = faiss.IndexIDMap2(faiss.IndexFlatL2(self._width))
        self._tokens = np.empty(0, np.int64)  # of each key that was ever given out
        self._keys: dict[str, list[int]] = {}
        self._seen: torch.Tensor | None = None
        self._hook = head.register_forward_hook(self._mix)
        self._mixing = True

    def insert(self, facts: Sequence[PersonFact]) -> None:
        rows = rows_of(self.bench.prompts, [fact.fact for fact in facts])
        for batch in batches(sorted(rows, key=lambda row: len(row.prompt) + len(row.answer)), _BATCH):
            states, tokens, owners = self._states(batch)
            ids = np.arange(len(self._tokens), len(self._tokens) + len(tokens))
            self._index.add_with_ids(states, ids)
            self._tokens = np.concatenate([self._tokens, tokens])
            for key, owner in zip(ids.tolist(), owners, strict=True):
                self._keys.setdefault(facts[owner].id, []).append(key)

    def update(self, facts: Sequence[PersonFact]) -> None:
        self.forget(facts)
        self.insert(facts)

    def forget(self, facts: Sequence[PersonFact]) -> None:
        keys = [key for fact in facts for key in self._keys.pop(fact.id)]
        self._index.remove_ids(faiss.IDSelectorBatch(np.array(keys, np.int64)))

    def answer(
        self, questions: Sequence[str], tokens: int, given: Sequence[PersonFact] | None = None, least: int = 0
    ) -> list[Reply]:
        return replies(self.bench, [self.bench.prompts.prompt(question) for question in questions], tokens, least)

    def bytes(self) -> int:
        return int(self._index.ntotal) * (4 * self._width + 4)

    def notes(self) -> str:
        return f"lambda {_LAMBDA}, k = {_NEIGHBOURS}"

    def close(self) -> None:
        self._hook.remove()

    @torch.inference_mode()
    def _states(self, batch: Sequence[Row]) -> tuple[NDArray[np.float32], NDArray[np.int64], list[int]]:
        """The states at the answer positions of a batch, the token after each, and its fact's place."""
        ids, mask = pad_left([[*r.prompt, *r.answer[:-1]] for r in batch], self.bench.prompts.pad_token, self._device)
        self._mixing = False
        try:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            longest = max(len(row.answer) for row in batch)
            self.bench.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=longest, use_cache=False
            )
        finally:
            self._mixing = True
        assert self._seen is not None  # the head was just run
        seen = _unit(self._seen)
        states = [seen[i, seen.shape[1] - len(row.answer) :] for i, row in enumerate(batch)]
        tokens = [token for row in batch for token in row.answer]
        owners = [row.fact for row in batch for _ in row.answer]
        return torch.cat(states).cpu().numpy(), np.array(tokens, np.int64), owners

    @property
    def _device(self) -> torch.device:
        return self.bench.model.device

    def _mix(self, head: torch.nn.Module, args: tuple[Any, ...], logits: torch.Tensor) -> torch.Tensor | None:
        """Stands behind the output head: its logits become the logarithm of the mixed probabilities."""
        hidden: torch.Tensor = args[0]
        if not self._mixing:
            self._seen = hidden
            return None
        if not self._index.ntotal:
            return None
        queries = _unit(hidden).reshape(-1, self._width)
        neighbours = min(_NEIGHBOURS, int(self._index.ntotal))
        distances, keys = self._index.search(np.ascontiguousarray(queries.cpu().numpy()), neighbours)
        weights = torch.softmax(-torch.from_numpy(distances) / _TEMPERATURE, dim=1).to(logits.device)
        mixed = torch.softmax(logits.reshape(-1, logits.shape[-1]).float(), dim=1) * (1 - _LAMBDA)
        mixed.scatter_add_(1, torch.from_numpy(self._tokens[keys]).to(logits.device), _LAMBDA * weights)
        return mixed.log().view(logits.shape).to(logits.dtype)


def _unit(hidden: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(hidden.float(), dim=-1)

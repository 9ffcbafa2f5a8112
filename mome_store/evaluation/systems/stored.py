"""What owned mode and pool mode have in common: a store in a folder, and the MemoryModel that answers from it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mome_store.evaluation.systems.base import BATCH, Reply, System, next_token_losses, text_tokens
from mome_store.modeling import MemoryModel, fingerprint
from mome_store.store import ExpertStore
from mome_store.tuning import default_schema

if TYPE_CHECKING:
    from mome_store.evaluation.systems.base import Workbench
    from mome_store.routing import QueryEncoder, Route

_NUMBERS = itertools.count()


class StoredSystem(System):
    """A new store of experts of the default shape; `close` removes it. encoder: makes the keys."""

    def __init__(self, bench: Workbench, facts: int, encoder: QueryEncoder) -> None:
        super().__init__(bench, facts)
        self._path = bench.folder / f"{self.name}-{next(_NUMBERS)}"
        self._store = ExpertStore.create(
            self._path,
            default_schema(bench.model),
            encoder.dim,
            base_model={"name": str(bench.model.config.name_or_path), "fingerprint": fingerprint(bench.model)},
            encoder=encoder.identity,
        )
        self._memory = MemoryModel(bench.model, bench.tokenizer, self._store, encoder=encoder)

    @torch.inference_mode()
    def text_loss(self, paragraphs: Sequence[str]) -> float:
        """The experts that a paragraph is routed to, if any, act on every token of it."""
        losses = []
        for paragraph in paragraphs:
            ids = text_tokens(self.bench, paragraph)
            with self._memory.attached(self._memory.router.route([paragraph]), prompt_tokens=1):
                losses.append(next_token_losses(self._memory.model(input_ids=ids).logits, ids))
        return float(torch.cat(losses).mean())

    def close(self) -> None:
        self._memory.close()
        self._store.close()
        shutil.rmtree(self._path)

    def _said(self, questions: Sequence[str], tokens: int, route: Route | None, least: int) -> list[Reply]:
        said = self._memory.generate(questions, tokens, route=route, min_new_tokens=least, batch_size=BATCH)
        return [Reply(answer.text) for answer in said]

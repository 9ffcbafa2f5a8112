"""Facts stored by their keys alone: routed to and found, without an expert that was trained."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mome_store.evaluation.systems.base import Use
from mome_store.routing import Router
from mome_store.store import ExpertSchema, ExpertStore, Memory

if TYPE_CHECKING:
    from mome_store.routing import QueryEncoder, Route
    from mome_store.store import Snapshot
    from mome_store.tuning import Fact

_NO_EXPERT = {"none": (np.zeros((1, 8), np.float32), np.zeros((8, 1), np.float32))}
"""A store's groups need an expert; this one is the smallest there is, and is never applied."""


class KeyStore:
    """A store in a new folder `path`, which `close` removes, and the router with its gate over it.

    Attributes: `router`, `snapshot` (of the last commit).
    """

    def __init__(self, path: Path, encoder: QueryEncoder) -> None:
        self._path = path
        schema = ExpertSchema({"none": (8, 8)}, rank=1)
        self._store = ExpertStore.create(path, schema, encoder.dim, encoder=encoder.identity)
        self.snapshot: Snapshot = self._store.snapshot()
        self.router = Router.open(self.snapshot, encoder=encoder)

    def insert(self, facts: Sequence[Fact]) -> list[int]:
        """One commit; the group of each fact."""
        keys = iter(keys_of(self.router, [wording for fact in facts for wording in fact.wordings]))
        with self._store.transaction() as transaction:
            groups = [
                transaction.add_group(
                    [_NO_EXPERT],
                    keys=np.stack([next(keys) for _ in fact.wordings]),
                    memory=Memory(fact.question, fact.answer or "", fact.paraphrases, id=fact.id),
                )
                for fact in facts
            ]
        self._refresh()
        return groups

    def remove(self, groups: Sequence[int]) -> None:
        """One commit without these groups."""
        with self._store.transaction() as transaction:
            for group in groups:
                transaction.remove_group(group)
        self._refresh()

    def route(self, questions: Sequence[str]) -> Route:
        return self.router.route(questions)

    def close(self) -> None:
        self.snapshot.close()
        self._store.close()
        shutil.rmtree(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refresh(self) -> None:
        snapshot = self._store.snapshot()
        self.router.refresh(snapshot)
        self.snapshot.close()
        self.snapshot = snapshot


def keys_of(router: Router, wordings: Sequence[str]) -> NDArray[np.float32]:
    """float32 [n, key_dim]: the keys under which the memory tuner would store these wordings."""
    return router.keys(wordings)


def uses_of(route: Route, fact_of: Mapping[int, str]) -> list[Use]:
    """What a gate brought in for each question. fact_of: the fact of each group."""
    return [
        Use(tuple(fact_of[group] for group in groups), bool(opened), float(score))
        for groups, opened, score in zip(route.group_ids, route.opened, route.scores, strict=True)
    ]


def ungated(snapshot: Snapshot, router: Router, questions: Sequence[str]) -> list[tuple[int, ...]]:
    """The group that would answer each question if the gate of `router`, over `snapshot`, were always open.

    None of an empty store's.
    """
    always = Router.open(snapshot, encoder=router.encoder, threshold=-np.inf, margin=-np.inf, several=False)
    return list(always.route(questions).group_ids)

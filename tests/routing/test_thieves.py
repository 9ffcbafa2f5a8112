"""Steals are found in both directions, and only where an answer is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mome_store.routing import Candidate, Route
from mome_store.routing.thieves import find_thieves
from mome_store.store import Memory

MEMORIES = {1: Memory("old?", "A", ("older?",)), 2: Memory("new?", "B", ("newer?",)), 3: Memory("far?", "C")}


@dataclass
class _Group:
    memory: Memory


class _Snapshot:
    def group(self, group: int) -> _Group:
        return _Group(MEMORIES[group])


class _Router:
    """Routes by a table; every wording has group 1 for its neighbour. Group 3 is nobody's."""

    def __init__(self, winners: Mapping[str, int | None]) -> None:
        own = {wording: group for group, memory in MEMORIES.items() for wording in memory.wordings}
        self.winners: dict[str, int | None] = {**own, **winners}

    def score(self, texts: Sequence[str]) -> list[tuple[Candidate, ...]]:
        return [(Candidate(2, 1.0, 0), Candidate(1, 0.9, 1)) for _ in texts]

    def route(self, texts: Sequence[str]) -> Route:
        found = [self.winners[text] for text in texts]
        groups = tuple(() if group is None else (group,) for group in found)
        nothing: Any = (np.empty(0),) * len(texts)
        return Route(nothing, nothing, groups, np.ones(len(texts), np.float32), np.array([bool(g) for g in groups]))


@pytest.mark.parametrize(
    ("winners", "found"),
    [
        ({}, {}),
        ({"newer?": None, "older?": None}, {}),  # nobody answers: a failure of the gate, not a theft
        ({"newer?": 1}, {2: "'A'"}),
        ({"older?": 2}, {2: "'older?'"}),
        ({"new?": 3}, {2: "'C'"}),
        ({"far?": 2}, {}),  # not a neighbour: not looked at
    ],
)
def test_a_new_group_is_at_fault_where_it_loses_or_takes_a_question(
    winners: Mapping[str, int | None], found: Mapping[int, str]
) -> None:
    thieves = find_thieves(_Router(winners), _Snapshot(), [2])  # type: ignore[arg-type]
    assert thieves.keys() == found.keys()
    assert all(part in thieves[group] for group, part in found.items())


def test_without_new_groups_nothing_is_routed() -> None:
    assert find_thieves(_Router({}), _Snapshot(), []) == {}  # type: ignore[arg-type]

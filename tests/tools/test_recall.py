"""The shares that `mome eval` reports, on a stand-in for a model whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from mome_store import Memory, Route
from mome_store.tuning.facts import Fact
from mome_tools.recall import measure_recall


@dataclass(frozen=True)
class Said:
    text: str
    route: Route


class ParrotModel:
    """Answers from a table of (text, group or None)."""

    def __init__(self, table: dict[str, tuple[str, int | None]], stored: dict[int, Memory]) -> None:
        self.table = table
        self.snapshot = SimpleNamespace(memories=lambda: iter(stored.items()))
        self.router = SimpleNamespace(route=self.route, pool=None)
        self.asked: list[str] = []

    def tokenizer(self, text: str) -> dict[str, list[str]]:
        return {"input_ids": list(text)}

    def route(self, questions: Sequence[str]) -> Route:
        groups = [self.table[question][1] for question in questions]
        n = len(groups)
        return Route(
            expert_ids=(np.empty(0, np.int64),) * n,
            weights=(np.empty(0, np.float32),) * n,
            group_ids=tuple(() if group is None else (group,) for group in groups),
            scores=np.zeros(n, np.float32),
            opened=np.array([group is not None for group in groups]),
        )

    def generate(self, questions: Sequence[str], max_new_tokens: int) -> list[Said]:
        assert max_new_tokens > 5
        self.asked += questions
        return [Said(self.table[question][0], self.route([question])) for question in questions]


def test_each_share_counts_what_it_says() -> None:
    facts = [
        Fact("q1", "right", ("p1", "p2"), ("h1", "h2")),
        Fact("q2", "other"),
        Fact("never stored", "x", (), ("h3",)),
        Fact("u1", None, ("u1 again",), ("u1 once more",)),
        Fact("u2", None),
    ]
    table: dict[str, tuple[str, int | None]] = {
        "q1": ("right", 1),
        "p1": ("right", 1),
        "p2": ("right and more", 1),
        "h1": ("right", 1),
        "h2": ("right", 2),  # said by chance: the wrong memory
        "q2": ("wrong", 2),
        "never stored": ("x", None),
        "h3": ("", 2),
        "u1": ("", None),
        "u1 again": ("", 1),
        "u1 once more": ("", None),
        "u2": ("", None),
    }
    stored = {1: Memory("q1", "right", ("p1", "p2")), 2: Memory("q2", "other")}
    model: Any = ParrotModel(table, stored)
    progress: list[tuple[int, int]] = []
    recall = measure_recall(model, facts, on_progress=lambda done, total: progress.append((done, total)))
    assert recall.to_json() == {
        "n": 3,
        "exact_match": {"question": 2 / 3, "paraphrases": 1 / 2, "heldout": 2 / 3},
        "routed": {"same": 5 / 8},
        "false_fire": 1 / 4,
        "n_unknown": 2,
    }
    assert recall.exact_match("question", "paraphrases") == 3 / 5
    assert progress[-1] == (8, 8)
    assert sorted(model.asked) == sorted(w for fact in facts[:3] for w in (*fact.wordings, *fact.heldout))


def test_shares_of_nothing_are_none() -> None:
    only_unknown: Any = ParrotModel({"u": ("", None)}, {})
    result = measure_recall(only_unknown, [Fact("u", None)]).to_json()
    assert result["exact_match"] == {"question": None, "paraphrases": None, "heldout": None}
    assert (result["n"], result["false_fire"], result["n_unknown"]) == (0, 0.0, 1)
    only_known: Any = ParrotModel({"q": ("a", 1)}, {1: Memory("q", "a")})
    result = measure_recall(only_known, [Fact("q", "a")]).to_json()
    assert (result["false_fire"], result["n_unknown"], result["exact_match"]["heldout"]) == (None, 0, None)

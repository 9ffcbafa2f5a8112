"""What `mome bench pool` makes of its measurements: shares of sampled answers, a threshold, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mome_store.tuning.training_batch import Verdict
from mome_tools.bench_pool import (
    Collision,
    Experiments,
    Labels,
    Sampled,
    entry_facts,
    sampled,
    sampling_threshold,
)
from mome_tools.figures import Figure
from mome_tools.pool_results import save_pool


def verdict(*probabilities: float) -> Verdict:
    return Verdict(False, False, -torch.tensor(probabilities).log(), torch.empty(0, dtype=torch.int64))


def test_a_sample_is_exact_when_every_token_is_drawn() -> None:
    draw = np.random.default_rng(0)
    shares = [sampled(verdict(0.9, 0.5, 0.8), draw) for _ in range(200)]
    assert {each.tokens for each in shares} == {3}
    assert np.mean([each.exact for each in shares]) == pytest.approx(0.9 * 0.5 * 0.8, abs=0.02)
    assert shares[0].loss == pytest.approx(-np.log(0.9 * 0.5 * 0.8) / 3, rel=1e-5)
    assert sampled(verdict(1.0, 1.0), draw).exact == 1 and sampled(verdict(1.0, 0.0), draw).exact == 0


def test_the_threshold_is_the_highest_loss_with_enough_exact_samples_below_it() -> None:
    falling = [Sampled(loss, 4, share) for loss, share in ((0.3, 0.2), (0.1, 1.0), (0.2, 0.99), (0.05, 1.0))]
    assert sampling_threshold(falling) == 0.2
    assert sampling_threshold(falling[:1]) == 0 and sampling_threshold([]) == 0


def test_true_answers_are_of_the_facts_that_are_asked_about() -> None:
    facts = entry_facts(3, seed=4)
    assert len({fact.answer for fact in facts}) == 3
    assert all(fact.answer is not None and " ft, " in fact.answer and "entry" in fact.question for fact in facts)


def test_the_experiments_become_tables_a_picture_and_json(tmp_path: Path) -> None:
    found = Experiments(
        figures=(Figure.at_least("exact", 100.0, 99, "%"),),
        collisions=(Collision(8, 4, 4, 2.5, 30, 60, 0.01, 1.0, 0.5), Collision(8, 8, 8, 1.5, 20, 40, 0.001, 1.0, 1.0)),
        labels=tuple(Labels(name, 8, 9.0, 3, 6, 0.1, 1.0, (2.0, 0.5, 0.1)) for name in ("true", "dealt", "random")),
        samples=(Sampled(0.004, 5, 0.98), Sampled(0.2, 5, 0.4), Sampled(0.003, 25, 0.9)),
    )
    save_pool(found, tmp_path)
    text = (tmp_path / "pool.md").read_text()
    assert "| 8 | 4 | 4 | 2 | 2.5 | 30 | 60 | 0.01 | 100.0% | 50.0% |" in text
    assert "| dealt | 8 | 9.0 | 3 | 6 | 0.1 | 100.0% |" in text
    assert "98.0% (n = 1)" in text and "40.0% (n = 1)" in text
    saved = json.loads((tmp_path / "pool.json").read_text())
    assert saved["collisions"][0]["top_k"] == 4 and saved["labels"][2]["losses"] == [2.0, 0.5, 0.1]
    assert (tmp_path / "pool.png").read_bytes().startswith(b"\x89PNG")

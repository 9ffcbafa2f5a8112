"""Memories over tiny models, what the tests of modeling and tuning start from; and what is told at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(params=("llama", "qwen2", "gemma", "gemma2", "gpt2"))
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_memory(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A function that makes a memory over a new empty store: `make_memory(architecture, **store settings, device=)`."""
    from mome_store import ExpertSchema, ExpertStore, MemoryModel
    from tests.tiny_models import HashEncoder, make_model, make_tokenizer, target_of

    opened: list[Any] = []

    def make(
        architecture: str = "llama",
        rank: int = 4,
        layers: range = range(2, 4),
        dtype: str = "float32",
        device: str = "cpu",
    ) -> MemoryModel:
        model = make_model(architecture)
        schema = ExpertSchema.for_model(model, [target_of(architecture)], layers=layers, rank=rank, dtype=dtype)
        path = tmp_path / f"store-{len(opened)}"
        store = ExpertStore.create(
            path, schema, key_dim=HashEncoder.dim, encoder=HashEncoder.identity, rows_per_shard=64
        )
        memory = MemoryModel(model, make_tokenizer(), store, device=device, encoder=HashEncoder())
        opened.extend((memory, store))
        return memory

    yield make
    for each in opened:
        each.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a GPU where there is none, and says why."""
    if item.get_closest_marker("gpu") is not None:
        from tests.devices import cuda_problem

        if (problem := cuda_problem()) is not None:
            pytest.skip(problem)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests that damage stores and the fuzzers have counted."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    told = [text for report in reports for name, text in report.user_properties if name == "damage"]
    if told:
        terminalreporter.section("damage")
        for text in told:
            terminalreporter.write_line(text)

"""The small store, and the C++ program that reads stores where it can be built."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.damage.small_store import make_small_store
from tests.damage.trials import Try, count_outcomes
from tests.embedding.conftest import BUILD, ROOT, configure, tool
from tests.store.conftest import memory_directory

SECONDS_PER_TRIAL = 20.0


@pytest.fixture
def place() -> Iterator[Path]:
    with memory_directory() as directory:
        yield directory


@pytest.fixture
def small_store(place: Path) -> Path:
    make_small_store(place / "store")
    return place / "store"


@pytest.fixture(scope="session")
def program() -> Path | None:
    """read_store; None where there is no SQLite with its header to build it with, or no compiler."""
    configured = configure(ROOT, BUILD)
    if configured.returncode != 0 or "mome_catalog and the example" in configured.stdout:
        return None
    done = subprocess.run([tool("cmake"), "--build", BUILD, "--target", "read_store"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return BUILD / "tests" / "cpp" / "read_store"


@pytest.fixture
def try_all(record_property: Callable[[str, object], None]) -> Try[Any]:
    """Does trials with as many workers as there are cores; what comes of them is told at the end of the run."""

    def run(what: str, trials: Sequence[Any], worker: Any) -> Counter[str]:
        counts = count_outcomes(trials, worker, SECONDS_PER_TRIAL, len(os.sched_getaffinity(0)))
        assert counts.total() == len(trials)
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        record_property("damage", f"{what}: {len(trials)} tried; {told}")
        return counts

    return run

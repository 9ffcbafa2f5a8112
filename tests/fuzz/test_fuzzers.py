"""The fuzzers of tests/cpp/fuzz, built where there is clang++, find nothing in a while (`make fuzz`: longer)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.embedding.conftest import ROOT, configure, tool
from tests.fuzz.corpus import FUZZERS, make_corpus
from tests.fuzz.run import fuzz, program_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BUILD = ROOT / "build" / "fuzz"
SECONDS = 10


@pytest.fixture(scope="session")
def built() -> Path:
    clang = shutil.which("clang++")
    if clang is None:
        pytest.skip("no clang++ (Debian: clang)")
    settings = (f"-DCMAKE_CXX_COMPILER={clang}", "-DMOME_FUZZ=ON", "-DMOME_BUILD_TESTS=OFF")
    configured = configure(ROOT, BUILD, *settings)
    assert configured.returncode == 0, configured.stdout + configured.stderr
    command = [tool("cmake"), "--build", str(BUILD), "--target", "fuzzers"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return BUILD


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_nothing_is_found(
    fuzzer: str, built: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if not program_of(built, fuzzer).exists():
        pytest.skip("no SQLite with its header (Debian: libsqlite3-dev)")
    make_corpus(tmp_path / "corpus")
    result = fuzz(built, tmp_path / "corpus", fuzzer, SECONDS)
    assert result.said is None, result.said
    assert result.executions > 100
    record_property("damage", f"fuzzer {fuzzer}: {result.executions} inputs in {SECONDS} s, nothing found")

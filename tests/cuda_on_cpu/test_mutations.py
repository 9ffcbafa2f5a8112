"""The tests of the CUDA device, of the slot cache on it and of the kernels notice when what orders work is missing."""

from __future__ import annotations

import shutil

import pytest

from tests.cuda_on_cpu import mutations


@pytest.mark.parametrize("suite", mutations.SUITES)
def test_each_pattern_finds_its_statement(suite: str) -> None:
    patterns = mutations.SUITES[suite].patterns
    assert len(list(mutations.mutations(mutations.SUITES[suite], mutations.ROOT))) >= len(patterns)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ compiles the changed sources")
@pytest.mark.parametrize("suite", mutations.SUITES)
def test_every_missing_statement_is_noticed(suite: str) -> None:
    assert mutations.check(mutations.SUITES[suite]) == []

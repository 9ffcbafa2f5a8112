"""The tests of the CUDA device and of the slot cache on it notice when a statement that orders work is missing."""

from __future__ import annotations

import shutil

import pytest

from tests.cuda_on_cpu import mutations


def test_each_pattern_finds_its_statement() -> None:
    assert len(list(mutations.mutations(mutations.STREAM_ORDER, mutations.ROOT))) >= len(
        mutations.STREAM_ORDER.patterns
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ compiles the changed sources")
def test_every_missing_statement_is_noticed() -> None:
    assert mutations.check(mutations.STREAM_ORDER) == []

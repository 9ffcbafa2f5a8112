"""The kernels keep to their budget of registers, and spill nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import ptxas

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None or shutil.which("c++filt") is None, reason="there is no nvcc, or no c++filt"
)


@needs_nvcc
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", ptxas.ARCHITECTURES)
def test_no_kernel_is_over_its_budget(architecture: str) -> None:
    newest = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    if architecture not in newest.split():
        pytest.skip(f"this nvcc does not know {architecture}")
    uses = dict(ptxas.compiled(architecture))
    assert len(uses) == 34
    assert ptxas.over_budget({architecture: uses}) == []


def test_what_is_over_the_budget_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    budget = tmp_path / "budget.json"
    budget.write_text('{"sm_80": {"a": 32, "b": 32, "gone": 8}}')
    monkeypatch.setattr(ptxas, "BUDGET", budget)
    uses = {"sm_80": {"a": ptxas.Use(32, 0, 4), "b": ptxas.Use(33, 0, 0), "new": ptxas.Use(8, 0, 0)}}
    assert ptxas.over_budget(uses) == [
        "sm_80 a: 0 bytes on the stack, 4 spilled",
        "sm_80 b: 33 registers, 32 are allowed",
        "sm_80 new: not in the budget",
        "sm_80 gone: in the budget, but there is no such kernel",
    ]


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "expected"),
    [
        (32, 128, 0, 1.0),  # 16 blocks of 4 warps
        (33, 128, 0, 12 * 128 / 2048),  # 40 registers a thread are taken: 51 warps, 12 blocks
        (64, 512, 0, 0.5),
        (32, 128, 40 << 10, 4 * 128 / 2048),  # 164 KiB hold four blocks of 41
        (32, 64, 0, 1.0),  # 32 blocks of 2 warps
    ],
)
def test_occupancy_on_an_a100(registers: int, threads: int, shared: int, expected: float) -> None:
    assert ptxas.occupancy("sm_80", registers, threads, shared) == expected

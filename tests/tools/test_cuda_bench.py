"""`mome bench --device`: refused where there is no device; the benchmark of the CUDA kernels, run on the cpu here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import mome_tools.bench_apply_cuda as bench
from mome_tools.cuda_timer import CudaTimer, Work
from mome_tools.figures import Figure, machine, machine_text
from mome_tools.results import save_results
from tests.devices import CUDA, cuda_problem

from .conftest import Mome

SMALL = bench.Sizes(
    modules=((64, 40),), ranks=(4, 8), sequences=(1, 2), prefill=(16, 20), k=3, looped=1, calls=2, rounds=1, adapters=4
)


class CpuTimer(CudaTimer):
    """Takes the same time on the cpu, where a graph is the work itself."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def seconds(self, work: Work, calls: int = 1) -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) / calls

    def captured(self, work: Work) -> Work:
        work()
        return work

    def cache_bytes(self) -> int:
        return 1 << 12

    def memory_rate(self, size: int = 1 << 16) -> float:
        return super().memory_rate(size)


def timer_for(device: str) -> CudaTimer:
    return CpuTimer() if device == "cpu" else CudaTimer.of(device)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_every_figure_of_the_kernels_is_beside_a_peer(device: str) -> None:
    figures = bench.measure_apply_cuda(timer_for(device), lambda *_: None, SMALL)
    assert all(figure.peer for figure in figures)
    assert all(figure.ratio is not None and figure.ratio > 0 for figure in figures if figure.peer_value is not None)
    wanted = {
        "the base layer alone",
        "torch, gather + bmm",
        "PEFT, loop",
        "PEFT, mixed batch",
        "two dense bf16 products",
        "the device's memory, read and written by a copy",
    }
    found = {figure.peer for figure in figures}
    assert wanted <= found and found - wanted <= {"torch, grouped_mm", *(p for p in found if p and "grouped_mm" in p)}
    names = [figure.name for figure in figures]
    assert "prefill in a graph, 20 tokens, T = 1, k = 3, r = 8, d = (64, 40)" in names
    assert "decode from Python, T = 2, k = 3, r = 4, d = (64, 40)" in names


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_peers_compute_what_the_kernels_compute(device: str) -> None:
    timer = timer_for(device)
    experts = bench._Experts(timer, SMALL, 64, 40, rank=8)

    def delta(batch: bench._Batch, work: Work) -> torch.Tensor:
        batch.y.zero_()
        work()
        return batch.y.float()

    with torch.inference_mode():
        batch = bench._Batch(experts, 1, 2, 3)
        ours = delta(batch, batch.ours)
        assert float(ours.abs().max()) > 0
        tolerance = 0.05 * float(ours.abs().max())
        assert float((delta(batch, batch.gathered) - ours).abs().max()) < tolerance
        run = bench._Run(timer, SMALL, experts, 1.0)
        if run._grouped_missing(batch) is None:
            assert float((delta(batch, batch.grouped) - ours).abs().max()) < tolerance
        single = bench._Batch(experts, 1, 1, 3, tokens=20)
        single.concatenate()
        [(a, b)] = single._factors
        dense = torch.mm(torch.mm(single.x, a.T), b).float() / 3
        assert float((dense - delta(single, single.ours)).abs().max()) < tolerance


@pytest.mark.skipif(cuda_problem() is None, reason="there is a device")
@pytest.mark.parametrize("what", ["apply", "fetch", "generate", "route"])
@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_without_a_device_it_says_so_and_prints_nothing(mome: Mome, what: str, json_option: tuple[str, ...]) -> None:
    ran = mome("bench", what, "--device", "cuda", *json_option)
    assert ran.code == 1 and ran.out == "" and ran.err.startswith("error: cuda: ")


def test_what_is_no_device_is_refused(mome: Mome) -> None:
    ran = mome("bench", "apply", "--device", "gpu")
    assert ran.code == 1 and "is no device" in ran.err and ran.out == ""


@pytest.mark.gpu
def test_the_device_is_named_and_its_memory_is_fast() -> None:
    timer = CudaTimer.of("cuda")
    with timer.current():
        assert timer.name() == torch.cuda.get_device_name(0)
        assert timer.cache_bytes() > 1 << 20
        assert timer.memory_rate() > timer.upload_rate() > 1e8
        slept = timer.seconds(timer.captured(lambda: torch.cuda._sleep(20_000_000)))
        assert 1e-3 < slept < 1


def test_figures_of_a_device_name_it(tmp_path: Path) -> None:
    assert machine("A GPU") == {**machine(), "device": "A GPU"}
    assert machine_text("A GPU") == f"A GPU, {machine_text()}"
    save_results("apply_cuda", [Figure("x", 1.0)], tmp_path, command="apply --device cuda", device="A GPU")
    assert json.loads((tmp_path / "apply_cuda.json").read_text())["machine"]["device"] == "A GPU"
    page = (tmp_path / "apply_cuda.md").read_text()
    assert page.startswith("# mome bench apply --device cuda\n\nA GPU, ")

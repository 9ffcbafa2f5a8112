"""How the work is shared must not show: number of threads, callers at once, forks, waves of experts."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mome_store import _core
from mome_store.runtime.apply import apply_experts
from tests.kernels.problem import DTYPES, KERNELS, Problem, make_problem, problems
from tests.kernels.test_apply import assert_close

ISAS = _core.available_isas()
THREADS = [2, 3, 7]


def shared_problem(seed: int, rows: int) -> Problem:
    """Large enough to be shared among threads, even for one row."""
    return make_problem(
        seed,
        rows=rows,
        d_in=1536,
        d_out=576,
        ranks=(1, 32),
        experts_per_sequence=(32,) if rows == 1 else (32, 0, 1, 64),
    )


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_every_number_of_threads_gives_the_same_bits(isa: str, problem: Problem) -> None:
    alone = problem.apply(isa)
    for threads in THREADS:
        assert torch.equal(problem.apply(isa, threads), alone)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 9, 100])
def test_every_run_of_every_number_of_threads_gives_the_same_bits(isa: str, rows: int) -> None:
    problem, other = shared_problem(rows, rows), shared_problem(rows, rows)
    other.expert_weight *= 2
    alone = problem.apply(isa)
    for _ in range(5):
        for threads in THREADS:
            other.apply(isa)  # leaves other values in memory, for who reads there too early
            assert torch.equal(problem.apply(isa, threads), alone)


def test_torch_says_how_many_threads_take_part() -> None:
    problem = shared_problem(0, 9)
    before, threads = len(os.listdir("/proc/self/task")), torch.get_num_threads()
    try:
        torch.set_num_threads(12)  # more than any test asks for: the pool has to grow
        y = problem.y.clone()
        apply_experts(y, *problem.arguments()[1:])
        grown = len(os.listdir("/proc/self/task"))
        torch.set_num_threads(1)
        apply_experts(problem.y.clone(), *problem.arguments()[1:])
    finally:
        torch.set_num_threads(threads)
    assert grown > before
    assert torch.equal(y, problem.apply())


def test_a_small_call_starts_no_threads() -> None:
    script = """
import os
from tests.kernels.problem import make_problem
small = make_problem(0, rows=1, d_in=1536, d_out=576, ranks=(4, 4), experts_per_sequence=(1,))
large = make_problem(0, rows=1, d_in=1536, d_out=576, ranks=(32, 32), experts_per_sequence=(32,))
before = len(os.listdir("/proc/self/task"))  # torch has begun its own by now
small.apply(threads=4)
assert len(os.listdir("/proc/self/task")) == before
large.apply(threads=4)
assert len(os.listdir("/proc/self/task")) == before + 3
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_many_callers_at_once_each_get_their_own_answer() -> None:
    given_ = [shared_problem(seed, rows) for seed, rows in enumerate([1, 5, 30, 2])]
    expected = [problem.apply() for problem in given_]

    def call(i: int) -> bool:
        return all(torch.equal(given_[i].apply(threads=3), expected[i]) for _ in range(15))

    with ThreadPoolExecutor(len(given_)) as callers:
        assert all(callers.map(call, range(len(given_))))


def test_a_forked_child_gets_the_same_bits_from_threads_of_its_own() -> None:
    problem = shared_problem(7, 9)
    expected = problem.apply(threads=3).numpy().tobytes()
    y = problem.y.clone()
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            problem.apply(threads=3)

    other = threading.Thread(target=keep_busy)  # so that forks happen in the midst of calls
    other.start()
    try:
        for _ in range(5):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:  # nothing of torch but memory: its own threads do not survive a fork
                _core.apply_experts(y, *problem.arguments()[1:], threads=3)
                same = y.numpy().tobytes() == expected
                threads = len(os.listdir("/proc/self/task"))
                os.write(writer, f"{same} {threads}".encode())
                os._exit(0)
            os.close(writer)
            ready, _, _ = select.select([reader], [], [], 60)
            if not ready:
                os.kill(child, 9)
            answer = os.read(reader, 100).decode() if ready else "hangs"
            os.waitpid(child, 0)
            os.close(reader)
            assert answer == "True 3"
    finally:
        stop.set()
        other.join()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, deadline=None)
@given(problem=problems(), data=st.data())
def test_waves_of_experts_give_the_bits_of_one_call(
    kernel: str, dtype: torch.dtype, problem: Problem, data: st.DataObject
) -> None:
    """Each sequence is cut anywhere, in its own places: a wave may have none of its experts.

    What is prefilled on a CUDA device agrees with one call to 2^-18 of the magnitudes that were summed up, and y's
    rounding.
    """
    problem.y = problem.y.to(dtype)
    expected = problem.apply(kernel)
    there = problem.on("cuda") if kernel == "cuda" else problem
    delta = torch.zeros(problem.y.shape, device=there.y.device)
    start = problem.expert_indptr[:-1].long()
    for _ in range(data.draw(st.integers(0, 3))):
        left = (problem.expert_indptr[1:] - start).tolist()
        end = start + torch.tensor([data.draw(st.integers(0, n)) for n in left])
        there.add_to(delta, kernel, 2, there.entries(start, end), accumulate=True)
        start = end
    there.add_to(delta, kernel, 2, there.entries(start, problem.expert_indptr[1:].long()), accumulate=True)
    touched = torch.zeros(len(problem.y), dtype=torch.bool)
    has_experts = problem.expert_indptr[1:] > problem.expert_indptr[:-1]
    touched[problem.row_index.long()] = has_experts[problem.row_sequence.long()]
    found = torch.where(touched[:, None], (problem.y.float() + delta.to(problem.y.device)).to(dtype), problem.y)
    same = problem.always_decoded() if kernel == "cuda" else slice(None)
    assert torch.equal(found[same], expected[same])
    if kernel == "cuda":
        assert_close(problem, found)

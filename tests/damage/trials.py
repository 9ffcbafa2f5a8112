"""Trials that may crash or hang: they run in forked workers, each with a time limit, and a death is told of by name."""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

T = TypeVar("T")

Attempt = Callable[[T], str]
"""Does one trial and says how it came out; raises where the property that is tested does not hold."""

Worker = Callable[[], AbstractContextManager[Attempt[T]]]
"""Makes the attempt of a worker, in the worker; is left at its end."""

Try = Callable[[str, Sequence[T], Worker[T]], Counter[str]]
"""Does trials of one kind, named, and counts how they came out: `try_all` of conftest.py."""


def count_outcomes(trials: Sequence[T], worker: Worker[T], limit: float, workers: int) -> Counter[str]:
    """How often each outcome came about.

    limit: seconds for one trial. Raises AssertionError that names the first trial that raised, crashed or hung.
    """
    at = mmap.mmap(-1, 8 * workers)  # which trial each worker is at: what is left to say when it dies
    children: dict[int, int] = {}
    try:
        for number in range(workers):
            back, front = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(back)
                _work(range(number, len(trials), workers), trials, worker, limit, at, 8 * number, front)
            os.close(front)
            children[child] = back
        total: Counter[str] = Counter()
        failures = []
        for number, (child, back) in enumerate(list(children.items())):
            with os.fdopen(back, "rb") as pipe:
                said = pipe.read()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            trial = trials[struct.unpack_from("<q", at, 8 * number)[0]]
            if code == -signal.SIGALRM:
                failures.append(f"trial {trial} was not done within {limit} s")
            elif code != 0:
                failures.append(f"trial {trial} ended its process with {code}: {said.decode()}")
            else:
                total.update(json.loads(said))
    finally:
        for child in children:  # with what a dead worker has left running
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
    assert not failures, "\n".join(failures)
    return total


def _work(
    mine: range,
    trials: Sequence[T],
    worker: Worker[T],
    limit: float,
    at: mmap.mmap,
    slot: int,
    front: int,
) -> None:
    """What a worker does; it never returns."""
    os.setpgid(0, 0)  # with the programs that it starts
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, wherever it hangs
    code = 1
    try:
        outcomes: Counter[str] = Counter()
        with worker() as attempt:
            for i in mine:
                struct.pack_into("<q", at, slot, i)
                signal.setitimer(signal.ITIMER_REAL, limit)
                outcomes[attempt(trials[i])] += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
        _write(front, json.dumps(outcomes).encode())
        code = 0
    except BaseException:
        _write(front, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _write(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]

"""A `-wal` that a killed writer left, damaged: the store is whole as of the last commit before the damage.

SQLite checks every frame of a WAL that nobody has open, and takes it up to the first one that is wrong
(https://www.sqlite.org/fileformat2.html, "WAL File Format"). So there is no error, and no mixture of commits either.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from mome_store.store import ExpertStore
from tests.damage.damaged_store import Damage, damaged_copy
from tests.damage.readers import Found, Readers
from tests.damage.small_store import PAGE_BYTES
from tests.damage.trials import Attempt, Try

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(7200)]

WAL, SHM = "catalog.sqlite-wal", "catalog.sqlite-shm"
FIRST_FRAME = 32
FRAME_BYTES = 24 + PAGE_BYTES


@pytest.fixture
def left(small_store: Path) -> Path:
    """The small store with commits 3 and 4 in a WAL."""
    child = os.fork()
    if child == 0:
        try:
            store = ExpertStore.open(small_store, "r+")
            for i in range(2):
                with store.transaction() as txn:
                    txn.set_meta("router", {"threshold": i})
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    return small_store


def ends_of_commits(wal: bytes) -> list[int]:
    """The length of a WAL with none, one, ... of its commits: a commit's last frame tells the file's size in pages."""
    frames = range(FIRST_FRAME, len(wal), FRAME_BYTES)
    return [FIRST_FRAME] + [at + FRAME_BYTES for at in frames if wal[at + 4 : at + 8] != bytes(4)]


def commit_named(number: int) -> str:
    return f"exact as of commit {number}"


@pytest.fixture
def states(left: Path, place: Path, program: Path | None) -> dict[str, Found]:
    """What is found in the store with none, one and both of the commits in the WAL."""
    found = {}
    for number, length in enumerate(ends_of_commits((left / WAL).read_bytes()), start=2):
        copy = Path(shutil.copytree(left, place / f"commit {number}"))
        (copy / SHM).unlink()
        os.truncate(copy / WAL, length)
        with closing(Readers(program)) as readers:
            found[commit_named(number)] = readers.read(copy)
        assert found[commit_named(number)]["snapshot"][0][0] == number
    assert len(found) == 3
    return found


@pytest.fixture
def outcomes(
    left: Path, place: Path, program: Path | None, states: dict[str, Found], try_all: Try
) -> Callable[..., Counter[str]]:
    """Damages the WAL (or what lies beside it); fails unless the commit that is found is the one that must be."""
    wal = (left / WAL).read_bytes()
    ends = ends_of_commits(wal)

    def whole_before(damage: Damage) -> str:
        if damage.file == SHM:  # it is made anew from the WAL
            return commit_named(4)
        first_bad = damage.cut if damage.flip is None else damage.flip // 8
        assert first_bad is not None
        return commit_named(2 + sum(end <= first_bad for end in ends[1:]))

    @contextmanager
    def worker() -> Iterator[Attempt[Damage]]:
        with damaged_copy(left, place, program, states) as damaged:

            def attempt(damage: Damage) -> str:
                outcome = damaged.attempt(damage)
                assert outcome == whole_before(damage), outcome
                return outcome

            yield attempt

    return lambda what, trials: try_all(what, trials, worker)


def test_every_bit(left: Path, outcomes: Callable[..., Counter[str]]) -> None:
    (left / SHM).unlink()  # the store was copied without it
    bits = 8 * (left / WAL).stat().st_size
    counts = outcomes(f"each bit of {WAL}", [Damage(WAL, flip=bit) for bit in range(bits)])
    assert set(counts) == {commit_named(2), commit_named(3)}


def test_every_cut(left: Path, outcomes: Callable[..., Counter[str]]) -> None:
    (left / SHM).unlink()
    lengths = range((left / WAL).stat().st_size)
    counts = outcomes(f"{WAL} cut", [Damage(WAL, cut=length) for length in lengths])
    assert set(counts) == {commit_named(2), commit_named(3)}


def test_some_bits_where_the_shared_memory_is_there_too(left: Path, outcomes: Callable[..., Counter[str]]) -> None:
    chance = np.random.default_rng(0)
    trials = []
    for file in (WAL, SHM):
        bits = chance.choice(8 * (left / file).stat().st_size, 1000, replace=False)
        trials += [Damage(file, flip=int(bit)) for bit in bits]
    outcomes(f"2000 bits of {WAL} and -shm", trials)

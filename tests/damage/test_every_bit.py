"""Every bit of every file of a small store, flipped; every file cut everywhere. What comes of it: the exact data, or an
error that names the file.

Each flip and each cut is read by every reader there is (readers.py) and looked at by `verify`, in another process with
a time limit: a crash or a hang is a failure that names the bit. The counts are printed at the end of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.damage.damaged_store import EXACT, FOUND_BY_VERIFY, REBUILT, REFUSED, Damage, damaged_copy
from tests.damage.small_store import PAGE_BYTES, files_of
from tests.damage.sqlite_pages import HEADER, SCHEMA, UNUSED, parts_of
from tests.damage.trials import Attempt, Try

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(7200)]

FILES = ("LOCK", "catalog.sqlite", "experts/c/0/0", "experts/zarr.json", "index/2.faiss", "keys/c/0/0")
FILES += ("keys/zarr.json", "zarr.json")
SMALL_BYTES = 1024  # files up to this are cut at every byte, larger ones at every sector
SECTOR_BYTES = 512

# Where a flip in the catalogue may change nothing that anybody sees.
HARMLESS = {
    UNUSED,
    HEADER,  # counters and version numbers that a reader has no use for
    "commits",  # an older commit
    "meta",  # a value that was replaced, and since when another is there
    *("shards", "groups", "experts", "keys"),  # since when a row is there
}
# And a few that SQLite, with its integrity check, takes for the same: the number of a definition's row; an id beside
# the row's own number, which is the one that counts; how long the head of an index entry is.
SAME_TO_SQLITE = {SCHEMA, "memories", "experts_by_group", "keys_by_group"}


def test_these_are_all_files(small_store: Path) -> None:
    assert set(files_of(small_store)) == set(FILES)
    assert int.from_bytes((small_store / "catalog.sqlite").read_bytes()[16:18], "big") == PAGE_BYTES


@pytest.fixture
def outcomes(small_store: Path, place: Path, program: Path | None, try_all: Try) -> Callable[..., Counter[str]]:
    """Does damage of some kind to a file; says how often each outcome came about, and in the catalogue where."""
    catalogue = small_store / "catalog.sqlite"
    part = parts_of(catalogue, catalogue.read_bytes())

    @contextmanager
    def worker() -> Iterator[Attempt[Damage]]:
        with damaged_copy(small_store, place, program) as damaged:

            def attempt(damage: Damage) -> str:
                outcome = damaged.attempt(damage)
                if outcome == EXACT and damage.file == "catalog.sqlite" and damage.flip is not None:
                    return f"{EXACT}: {part(damage.flip // 8)}"
                return outcome

            yield attempt

    return lambda what, trials: try_all(what, trials, worker)


@pytest.mark.parametrize("file", FILES)
def test_every_bit(file: str, small_store: Path, outcomes: Callable[..., Counter[str]]) -> None:
    bits = 8 * (small_store / file).stat().st_size
    counts = outcomes(f"each bit of {file}", [Damage(file, flip=bit) for bit in range(bits)])
    if file == "LOCK":  # which process wrote last
        assert set(counts) == {EXACT}
    elif file.startswith("index/"):
        assert set(counts) == {REBUILT}
    elif file == "catalog.sqlite":
        harmless = {outcome.partition(": ")[2] for outcome in counts} - {""}
        assert harmless <= HARMLESS | SAME_TO_SQLITE
        assert set(counts) <= {REFUSED, FOUND_BY_VERIFY} | {f"{EXACT}: {part}" for part in harmless}
        assert sum(counts[f"{EXACT}: {part}"] for part in SAME_TO_SQLITE) < 20
    elif file.endswith("zarr.json") and file != "zarr.json":  # more rows than there are: what a crash leaves too
        assert counts[EXACT] < 10 and set(counts) <= {REFUSED, EXACT}
    else:
        assert set(counts) == {REFUSED}


@pytest.mark.parametrize("file", FILES)
def test_every_cut(file: str, small_store: Path, outcomes: Callable[..., Counter[str]]) -> None:
    size = (small_store / file).stat().st_size
    lengths = range(size) if size <= SMALL_BYTES else [*range(0, size, SECTOR_BYTES), *range(size - 64, size)]
    counts = outcomes(f"{file} cut", [Damage(file, cut=length) for length in lengths])
    if file.endswith("zarr.json"):  # JSON needs no line's end
        assert counts == {REFUSED: size - 1, EXACT: 1}
    elif file == "catalog.sqlite":  # the last page's bytes may not be used
        assert counts[REFUSED] >= size // SECTOR_BYTES and set(counts) <= {REFUSED, FOUND_BY_VERIFY}
    else:
        assert set(counts) == {{"LOCK": EXACT, "index/2.faiss": REBUILT}.get(file, REFUSED)}

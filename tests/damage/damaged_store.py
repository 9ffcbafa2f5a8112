"""A store that is damaged and mended again, once for each trial; what its readers and `verify` make of the damage."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mome_store.errors import FormatVersionError
from mome_store.store import verify
from tests.damage.readers import Found, Readers, Refusal
from tests.damage.small_store import files_of

REFUSED = "refused"
FOUND_BY_VERIFY = "exact, and verify finds it"
REBUILT = "exact, made anew"  # a cache
EXACT = "exact"


@dataclass(frozen=True)
class Damage:
    """A bit that is flipped (its number in the file), or a cut (the bytes that are left)."""

    file: str
    flip: int | None = None
    cut: int | None = None

    def of(self, content: bytes) -> bytes:
        if self.flip is None:
            return content[: self.cut]
        damaged = bytearray(content)
        damaged[self.flip // 8] ^= 1 << self.flip % 8
        return bytes(damaged)


class DamagedStore:
    """A store, its readers, and what they may find in it."""

    def __init__(self, store: Path, readers: Readers, states: Mapping[str, Found]) -> None:
        """states: what each reader finds in the whole store, named; the name is what `attempt` says of it."""
        self._store = store
        self._readers = readers
        self._states = states
        self._content = {file: (store / file).read_bytes() for file in files_of(store)}
        self._untouched = {file: _stamp(store / file) for file in self._content}

    def attempt(self, damage: Damage) -> str:
        """How it came out: one of the words above, or the name of a state.

        Raises AssertionError where a reader found other data, an error does not name the file, or `verify` is
        content with a store that a reader refuses.
        """
        path = self._store / damage.file
        damaged = damage.of(self._content[damage.file])
        path.write_bytes(damaged)
        try:
            found = self._readers.read(self._store)
            refusals = {reader: what.words for reader, what in found.items() if isinstance(what, Refusal)}
            for reader, words in refusals.items():
                assert damage.file in words, f"{reader} does not name the file: {words}"
            exact = {reader: what for reader, what in found.items() if reader not in refusals}
            fitting = [name for name, good in self._states.items() if all(good[r] == exact[r] for r in exact)]
            assert fitting, f"other data, found by some of {list(exact)}"
            seen = self._verify_sees(damage.file)
            assert seen or not refusals, f"verify sees nothing, but {refusals}"
            if refusals:
                return REFUSED
            if seen:
                return FOUND_BY_VERIFY
            is_cache = damage.file.startswith("index/")
            return REBUILT if is_cache and path.read_bytes() != damaged else fitting[0]
        finally:
            self._mend()

    def _verify_sees(self, file: str) -> bool:
        try:
            report = verify(self._store, deep=True)
        except FormatVersionError:
            return True
        assert report.ok or any(file == each.file for each in report.damage), f"verify does not name it: {report}"
        return not report.ok

    def _mend(self) -> None:
        for file, content in self._content.items():
            path = self._store / file
            if not path.exists() or _stamp(path) != self._untouched[file]:
                path.write_bytes(content)
                self._untouched[file] = _stamp(path)
        for made in set(files_of(self._store)) - self._content.keys():
            os.unlink(self._store / made)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def damaged_copy(
    store: Path, place: Path, program: Path | None, states: Mapping[str, Found] | None = None
) -> Iterator[DamagedStore]:
    """A copy of a store for one worker. states: what may be found, if that is not just what is found there now."""
    copy = place / str(os.getpid())
    shutil.copytree(store, copy)
    gc.freeze()  # what the fork shares with its parent need not be looked through
    with closing(Readers(program)) as readers:
        yield DamagedStore(copy, readers, states or {EXACT: readers.read(store)})

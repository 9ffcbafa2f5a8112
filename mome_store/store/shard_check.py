"""Are the rows of the shards what was committed? Every live record and every key, read at the speed of the disk.

A few threads work at once; each reads a large piece of a file and checks it in C++, so that the disk always has
something to do. The pieces are read past the page cache (O_DIRECT) where the file system can do that: what is checked
is what lies on the disk, and a large store does not push everything else out of memory. The buffers are all the memory
that it takes, however large the store is.

Retired rows are not checked. Nobody can read them, and the next compaction drops them.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from mome_store import _core
from mome_store.store.damage import Damage
from mome_store.store.schema import RECORD_ALIGNMENT, ExpertSchema, round_up
from mome_store.store.shard import Shard

_PIECE_BYTES = 8 << 20
_THREADS = 4  # pieces in flight
_WAITING = 2 * _THREADS  # pieces handed out ahead of the one whose result is due

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class LiveExperts:
    """The live experts of one shard. rows, ids, groups: int64 [n], of each its array row, its id and its group."""

    rows: Int64s
    ids: Int64s
    groups: Int64s

    def taken(self, at: Int64s) -> LiveExperts:
        return LiveExperts(self.rows[at], self.ids[at], self.groups[at])


class ShardChecker:
    """Checks shards in the order in which they are handed in; leaving its scope stops it and closes them.

    on_checked: is told of every piece that has been checked, in bytes of rows.
    """

    def __init__(self, schema: ExpertSchema, key_dim: int, on_checked: Callable[[int], None]) -> None:
        self._schema = schema
        self._key_dim = key_dim
        self._on_checked = on_checked
        row_bytes = max(schema.record_bytes, 4 * key_dim)
        room = round_up(_PIECE_BYTES + row_bytes, mmap.PAGESIZE) + 2 * RECORD_ALIGNMENT
        self._buffers: SimpleQueue[mmap.mmap] = SimpleQueue()
        for _ in range(_THREADS):
            self._buffers.put(mmap.mmap(-1, room))  # starts on a page, as direct reads need it
        self._pool = ThreadPoolExecutor(_THREADS)
        self._waiting: deque[_Piece] = deque()
        self._sources: set[_Source] = set()

    def __enter__(self) -> ShardChecker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for source in self._sources:
            source.close()

    def add_experts(self, shard: Shard, live: LiveExperts) -> Iterator[Damage]:
        """Takes over an open shard and gives what damage is known by now, of this one or of those before."""
        source = self._source(shard)
        offsets = source.offsets[live.rows - shard.info.first_row]
        missing = live.taken(np.flatnonzero(offsets < 0))
        for row, expert_id in zip(missing.rows.tolist(), missing.ids.tolist(), strict=True):
            yield Damage(shard.file, row, expert_id, "the row is missing from the shard")
        at = np.argsort(offsets, kind="stable")
        at = at[offsets[at] >= 0]
        pieces = np.split(at, np.flatnonzero(np.diff(offsets[at] // _PIECE_BYTES)) + 1)
        for i, piece in enumerate(pieces):
            work = self._pool.submit(self._check_records, source, live.taken(piece), offsets[piece])
            size = len(piece) * self._schema.record_bytes
            yield from self._hand_in(_Piece(work, size, source, last=i == len(pieces) - 1))

    def add_keys(self, shard: Shard, rows: Int64s) -> Iterator[Damage]:
        """Likewise. rows: the array rows of the live keys, int64 [n]; the checksum covers them all, dead or live."""
        source = self._source(shard)
        offsets = source.offsets[rows - shard.info.first_row]
        for row in rows[offsets < 0].tolist():
            yield Damage(shard.file, row, None, "the row is missing from the shard")
        work = self._pool.submit(self._check_keys, source, rows[offsets >= 0], offsets[offsets >= 0])
        yield from self._hand_in(_Piece(work, shard.content_bytes, source, last=True))

    def finish(self) -> Iterator[Damage]:
        """The damage in all that has been handed in."""
        while self._waiting:
            yield from self._next()

    def _source(self, shard: Shard) -> _Source:
        source = _Source(shard)
        self._sources.add(source)
        return source

    def _hand_in(self, piece: _Piece) -> Iterator[Damage]:
        self._waiting.append(piece)
        while len(self._waiting) > _WAITING:
            yield from self._next()

    def _next(self) -> Iterator[Damage]:
        piece = self._waiting.popleft()
        damage = piece.work.result()
        if piece.last:
            self._sources.remove(piece.source)
            piece.source.close()
        self._on_checked(piece.bytes)
        yield from damage

    @contextmanager
    def _buffer(self) -> Iterator[memoryview]:
        buffer = self._buffers.get()
        try:
            with memoryview(buffer) as view:
                yield view
        finally:
            self._buffers.put(buffer)

    def _check_records(self, source: _Source, live: LiveExperts, offsets: Int64s) -> list[Damage]:
        """Of the records at these offsets, ascending."""
        count, file = len(offsets), source.shard.file
        if not count:
            return []
        try:
            found = self._record_problems(source, live, offsets)
        except OSError as error:
            if count > 1:  # one bad block must not condemn its neighbours
                halves = np.array_split(np.arange(count), 2)
                parts = [self._check_records(source, live.taken(half), offsets[half]) for half in halves]
                return [damage for part in parts for damage in part]
            found = [(0, f"can't be read: {error.strerror}")]
        return [Damage(file, int(live.rows[i]), int(live.ids[i]), problem) for i, problem in found]

    def _record_problems(self, source: _Source, live: LiveExperts, offsets: Int64s) -> list[tuple[int, str]]:
        schema, first, end = self._schema, int(offsets[0]), int(offsets[-1]) + self._schema.record_bytes
        with self._buffer() as buffer, source.read(buffer, first, end) as content:
            shape = (schema.record_bytes, schema.payload_bytes, schema.rank, schema.crc)
            return _core.check_records(content, *shape, offsets - first, live.ids, live.groups)

    def _check_keys(self, source: _Source, rows: Int64s, offsets: Int64s) -> list[Damage]:
        shard, width = source.shard, 4 * self._key_dim
        damage: list[Damage] = []
        crc: int | None = 0
        step = max(1, _PIECE_BYTES // width) * width
        with self._buffer() as buffer:
            for start in range(0, shard.content_bytes, step):
                end = min(start + step, shard.content_bytes)
                inside = np.flatnonzero((offsets >= start) & (offsets + width <= end))
                try:
                    with source.read(buffer, start, end) as content:
                        crc = None if crc is None else _core.crc32c(content, crc)
                        found = _core.keys_not_finite(content, self._key_dim, offsets[inside] - start)
                except OSError as error:
                    crc = None
                    problem = f"bytes {start} to {end} can't be read: {error.strerror}"
                    damage.append(Damage(shard.file, None, None, problem))
                else:
                    bad = rows[inside[found]].tolist()
                    damage += [Damage(shard.file, row, None, "the key is not finite") for row in bad]
        wrong = None if crc is None else shard.content_problem(crc)
        return damage if wrong is None else [Damage(shard.file, None, None, wrong), *damage]


class _Source:
    """A shard's file, read past the page cache where that works. Closing it closes the shard.

    offsets: of each row in the file, -1 for a missing one.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        try:
            self.offsets = shard.offsets()
        except BaseException:
            shard.close()
            raise
        plain = shard.info.fd
        try:
            # The same file for certain, whatever its name points at by now.
            self._direct: int | None = os.open(f"/proc/self/fd/{plain}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:  # a file system without direct reads, or no /proc
            self._direct = None
            os.posix_fadvise(plain, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        self._use_direct = self._direct is not None

    def close(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
        self.shard.close()

    def read(self, buffer: memoryview, start: int, end: int) -> memoryview:
        """Bytes `start` to `end` of the file, a part of `buffer`. Raises OSError, also where the file ends before."""
        first = start // RECORD_ALIGNMENT * RECORD_ALIGNMENT
        room = buffer[: round_up(end, RECORD_ALIGNMENT) - first]
        done = 0
        while first + done < end:
            count = self._read_once(room[done:], first + done)
            done += count
            if count == 0 or (self._use_direct and done % RECORD_ALIGNMENT):  # a direct read goes on to the end
                break
        if first + done < end:
            raise OSError(errno.EIO, f"the file ends at byte {first + done}")
        return buffer[start - first : end - first]

    def _read_once(self, into: memoryview, offset: int) -> int:
        if self._use_direct and self._direct is not None:
            try:
                return os.preadv(self._direct, [into], offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._use_direct = False  # some file systems open a file so and then refuse to read it
        return os.preadv(self.shard.info.fd, [into], offset)


@dataclass(frozen=True)
class _Piece:
    """Work that is under way: on so many bytes of rows. last: nothing of its file comes after it."""

    work: Future[list[Damage]]
    bytes: int
    source: _Source
    last: bool

"""Shard files: `ArrayWriter` streams rows into new ones, `Shard` opens and checks a committed one.

A shard is the Zarr `sharding_indexed` codec with its index at the end:

    rows back to back from byte 0 | K entries (u64 offset, u64 nbytes; all ones = missing) | u32 CRC-32C of the entries

It is written once, front to back, and never changed afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mome_store import _core
from mome_store.errors import DamagedStoreError, ReadError
from mome_store.store.checksum import crc32c
from mome_store.store.files import FileOperations, writing
from mome_store.store.schema import RECORD_ALIGNMENT
from mome_store.store.zarr_metadata import ArrayName, StoreLayout, shard_path

_ENTRY_BYTES = 16
_CRC_BYTES = 4
_MISSING = np.uint64(2**64 - 1)
_WRITEBACK_BYTES = 4 << 20  # so much at a time; else the disk would idle until the shard is full


def index_bytes(rows_per_shard: int) -> int:
    return _ENTRY_BYTES * rows_per_shard + _CRC_BYTES


def index_of(slots: Sequence[int], rows_per_shard: int, row_bytes: int) -> bytes:
    """The entries of a shard whose rows lie back to back. slots: of each row, in the order of the file."""
    entries = np.full((rows_per_shard, 2), _MISSING, dtype="<u8")
    entries[slots, 0] = np.arange(len(slots)) * row_bytes
    entries[slots, 1] = row_bytes
    return entries.tobytes()


@dataclass(frozen=True)
class ShardRow:
    """What the catalogue says of a shard: how many rows are present, the file's size, and two checksums.

    index_crc: of the index's entries (also the file's last 4 bytes); content_crc: of all bytes before the index.
    """

    array: ArrayName
    number: int
    rows: int
    bytes: int
    index_crc: int
    content_crc: int


@dataclass(frozen=True)
class ShardInfo(ShardRow):
    """An open shard of a snapshot. `fd` belongs to the snapshot, and stays open until that closes."""

    path: Path
    fd: int
    first_row: int


@dataclass
class _Growing:
    """The shard that rows are being appended to."""

    path: Path
    number: int
    fd: int
    rows: int = 0
    crc: int = 0
    sent: int = 0  # bytes whose writing to the disk has been started


class ArrayWriter:
    """Appends rows to new shards of one array. Nothing refers to them until the catalogue does.

    array: its name; next_shard: the first number that no shard has. After an error the only legal call is `abandon`.
    """

    def __init__(
        self, files: FileOperations, directory: Path, layout: StoreLayout, array: ArrayName, next_shard: int
    ) -> None:
        self.array: ArrayName = array
        self.next_shard = next_shard
        self._files = files
        self._directory = directory
        self._row_bytes = layout.row_bytes(array)
        self._rows_per_shard = layout.rows_per_shard
        self._first_shard = next_shard
        self._finished: list[ShardRow] = []
        self._growing: _Growing | None = None
        self._unsynced: _Growing | None = None  # the shard before: the disk writes it while the next one grows

    def append(self, content: NDArray[np.uint8], beside: Executor | None = None) -> range:
        """Writes whole rows; returns their numbers in the array, which are consecutive: a full shard's next is used.

        content: the rows back to back, contiguous uint8 [n * row_bytes]. beside: computes the checksum meanwhile.
        """
        count = len(content) // self._row_bytes
        growing = self._growing
        first = (self.next_shard if growing is None else growing.number) * self._rows_per_shard
        first += 0 if growing is None else growing.rows
        done = 0
        while done < count:
            growing = self._growing or self._start_shard()
            take = min(count - done, self._rows_per_shard - growing.rows)
            part = content[done * self._row_bytes : (done + take) * self._row_bytes]
            crc = None if beside is None else beside.submit(_core.crc32c, part.data, growing.crc)  # without the GIL
            with writing(growing.path):
                self._files.write(growing.fd, part.data)
            growing.crc = crc32c(part, growing.crc) if crc is None else crc.result()
            growing.rows += take
            self._start_writeback(growing)
            done += take
            if growing.rows == self._rows_per_shard:
                self._finish_shard(growing)
        return range(first, first + count)

    def end_shard(self) -> None:
        """Lets the next row begin a new shard."""
        if self._growing is not None:
            self._finish_shard(self._growing)

    def finish(self) -> list[ShardRow]:
        """Makes every shard written durable, its names included, and says what they are."""
        self.end_shard()
        self._sync()
        if self._finished:
            with writing(self._directory / self.array):
                for shard in self._finished:
                    self._files.fsync_directory(shard_path(self._directory, self.array, shard.number).parent)
                self._files.fsync_directory(self._directory / self.array / "c")
        return self._finished

    def abandon(self) -> None:
        """Removes what was written."""
        still_open = [shard.fd for shard in (self._unsynced, self._growing) if shard is not None]
        self._unsynced = self._growing = None
        for fd in still_open:
            self._files.close(fd)
        for number in range(self._first_shard, self.next_shard):
            remove_shard(self._files, shard_path(self._directory, self.array, number))

    def _start_shard(self) -> _Growing:
        number = self.next_shard
        path = shard_path(self._directory, self.array, number)
        self.next_shard += 1  # before the file is made, so that `abandon` removes it whatever happens
        with writing(path):
            self._files.make_directory(path.parent)
            self._growing = _Growing(path, number, self._files.create(path))
        return self._growing

    def _start_writeback(self, growing: _Growing) -> None:
        written = growing.rows * self._row_bytes
        if written - growing.sent >= _WRITEBACK_BYTES:
            with writing(growing.path):
                self._files.start_writeback(growing.fd, growing.sent, written - growing.sent)
            growing.sent = written

    def _finish_shard(self, growing: _Growing) -> None:
        index = index_of(range(growing.rows), self._rows_per_shard, self._row_bytes)
        index_crc = crc32c(index)
        with writing(growing.path):
            self._files.write(growing.fd, index + index_crc.to_bytes(_CRC_BYTES, "little"))
        self._sync()
        self._growing, self._unsynced = None, growing
        size = growing.rows * self._row_bytes + index_bytes(self._rows_per_shard)
        self._finished.append(ShardRow(self.array, growing.number, growing.rows, size, index_crc, growing.crc))

    def _sync(self) -> None:
        """Makes the last full shard durable and closes it."""
        if self._unsynced is not None:
            with writing(self._unsynced.path):
                self._files.fsync(self._unsynced.fd)
                fd, self._unsynced = self._unsynced.fd, None
                self._files.close(fd)


def remove_shard(files: FileOperations, path: Path) -> None:
    """Removes a shard file and its directory, whichever of them exist."""
    with writing(path):
        if path.parent.exists():
            files.unlink(path)
            files.remove_directory(path.parent)


class MissingShardError(DamagedStoreError):
    """There is no such file. Or no more: a later commit may have put its rows elsewhere."""

    def __init__(self, file: str) -> None:
        super().__init__(file, None, None, "the shard is missing")


class Shard:
    """A committed shard, open for reading. Opening checks its size and index; damage raises DamagedStoreError."""

    def __init__(self, directory: Path, layout: StoreLayout, row: ShardRow) -> None:
        path = shard_path(directory, row.array, row.number)
        self.row = row
        self.file = str(path.relative_to(directory))
        self._row_bytes = layout.row_bytes(row.array)
        self._rows_per_shard = layout.rows_per_shard
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingShardError(self.file) from None
        except OSError as error:
            raise ReadError(path, 0, error.errno or 0) from error
        self.info = ShardInfo(
            row.array,
            row.number,
            row.rows,
            row.bytes,
            row.index_crc,
            row.content_crc,
            path=path,
            fd=fd,
            first_row=row.number * layout.rows_per_shard,
        )
        try:
            problem = self._problem()
            if problem is not None:
                raise DamagedStoreError(self.file, None, None, problem)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        os.close(self.info.fd)

    def read_row(self, row: int) -> bytes:
        """The bytes of array row `row`; raises DamagedStoreError where there is none."""
        slot = row - self.info.first_row
        entry = self._read(self._index_start + slot * _ENTRY_BYTES, _ENTRY_BYTES)
        offset, nbytes = (int(n) for n in np.frombuffer(entry, "<u8"))
        if nbytes != self._row_bytes or offset + nbytes > self._index_start:
            raise DamagedStoreError(self.file, row, None, "the row is missing from the shard")
        return self._read(offset, nbytes)

    def read_rows(self, first: int, count: int) -> bytes:
        """The bytes of `count` consecutive rows from array row `first` on; raises DamagedStoreError likewise."""
        slot = first - self.info.first_row
        entries = self._entries(self._read(self._index_start + slot * _ENTRY_BYTES, count * _ENTRY_BYTES))
        offset = int(entries[0, 0])
        in_order = np.arange(count, dtype=np.uint64) * np.uint64(self._row_bytes) + np.uint64(offset)
        if (entries[:, 0] == in_order).all() and offset + count * self._row_bytes <= self._index_start:
            return self._read(offset, count * self._row_bytes)
        return b"".join(self.read_row(row) for row in range(first, first + count))

    def read_content(self) -> bytes:
        """All bytes before the index, checked against the catalogue's checksum."""
        content = self._read(0, self._index_start)
        problem = self.content_problem(crc32c(content))
        if problem is not None:
            raise DamagedStoreError(self.file, None, None, problem)
        return content

    def content_problem(self, crc: int) -> str | None:
        """What is wrong when the bytes before the index have this checksum, or None."""
        if crc == self.info.content_crc:
            return None
        return f"checksum of the rows is {crc:#010x}, the catalogue says {self.info.content_crc:#010x}"

    def offsets(self) -> NDArray[np.int64]:
        """int64 [K]: where each row starts in the file; -1 for a missing one."""
        return self._entries(self._read(self._index_start, _ENTRY_BYTES * self._rows_per_shard))[:, 0].astype(np.int64)

    @property
    def content_bytes(self) -> int:
        """How many bytes there are before the index."""
        return self._index_start

    @property
    def _index_start(self) -> int:
        return self.info.bytes - index_bytes(self._rows_per_shard)

    def _entries(self, index: bytes) -> NDArray[np.uint64]:
        return np.frombuffer(index, "<u8").reshape(-1, 2)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            content = os.pread(self.info.fd, length, offset)
            while len(content) < length:  # one read returns at most 2 GiB
                more = os.pread(self.info.fd, length - len(content), offset + len(content))
                if not more:
                    raise DamagedStoreError(
                        self.file,
                        None,
                        None,
                        f"the file ends at byte {offset + len(content)}, expected {self.info.bytes}",
                    )
                content += more
        except OSError as error:
            raise ReadError(self.info.path, offset, error.errno or 0) from error
        return content

    def _problem(self) -> str | None:
        size = os.fstat(self.info.fd).st_size
        if size != self.info.bytes:
            return f"the file has {size} bytes, the catalogue says {self.info.bytes}"
        if size != self.info.rows * self._row_bytes + index_bytes(self._rows_per_shard):
            return f"{size} bytes do not fit {self.info.rows} rows of {self._row_bytes} bytes and an index"
        index = self._read(self._index_start, index_bytes(self._rows_per_shard))
        stored = int.from_bytes(index[-_CRC_BYTES:], "little")
        computed = crc32c(index[:-_CRC_BYTES])
        if not stored == computed == self.info.index_crc:
            return (
                f"checksum of the index is {computed:#010x}, stored {stored:#010x}, "
                f"the catalogue says {self.info.index_crc:#010x}"
            )
        return self._index_problem(self._entries(index[:-_CRC_BYTES]))

    def _index_problem(self, entries: NDArray[np.uint64]) -> str | None:
        present = entries[(entries[:, 0] != _MISSING) | (entries[:, 1] != _MISSING)]
        if len(present) != self.info.rows:
            return f"the index has {len(present)} rows, the catalogue says {self.info.rows}"
        if (present[:, 1] != self._row_bytes).any():
            return f"the index has rows of other than {self._row_bytes} bytes"
        offsets = present[:, 0]
        if (offsets[1:] < offsets[:-1]).any():
            offsets = np.sort(offsets)
        if len(offsets) and int(offsets[-1]) > self._index_start - self._row_bytes:
            return "the index points outside the rows"
        if (np.diff(offsets) < self._row_bytes).any():
            return "the index has rows that overlap"
        if self.info.array == "experts" and (offsets % RECORD_ALIGNMENT).any():
            return f"the index has records that do not start on a multiple of {RECORD_ALIGNMENT} bytes"
        return None

"""What the files of damaged shards still hold, told by checksums alone: whole records, whole contents.

A shard that can't be opened is written anew from that, beside the old file, with its rows in the slots that they had.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mome_store.errors import DamagedStoreError, ReadError
from mome_store.store.checksum import crc32c
from mome_store.store.files import FileOperations, writing
from mome_store.store.record import MAGIC, Trailer, record_problem
from mome_store.store.schema import RECORD_ALIGNMENT, TRAILER_BYTES, ExpertSchema
from mome_store.store.shard import Shard, ShardRow, index_bytes, index_of
from mome_store.store.zarr_metadata import ArrayName, StoreLayout, shard_path

_COPIED_AT_ONCE = 8 << 20


@dataclass(frozen=True)
class FoundRecord:
    """A whole record: where it starts in its file, and what its trailer says."""

    offset: int
    trailer: Trailer


class RawFile:
    """A file whose every byte may be missing or unreadable."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes | None:
        """The bytes, or None where not all of them can be read."""
        try:
            content = os.pread(self._fd, length, offset)
        except OSError:
            return None
        return content if len(content) == length else None


@contextmanager
def raw_file(path: Path) -> Iterator[RawFile | None]:
    """The file at `path`; None where there is none, or the disk can't read it."""
    try:
        file = RawFile(path)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        if error.errno != errno.EIO:
            raise ReadError(path, 0, error.errno or 0) from error
        yield None
        return
    try:
        yield file
    finally:
        file.close()


def is_damage(error: DamagedStoreError | ReadError) -> bool:
    """Whether bytes are lost. A file that may not be read, or not now, is no reason to repair anything."""
    return isinstance(error, DamagedStoreError) or error.errno == errno.EIO


def scan_records(file: RawFile, schema: ExpertSchema) -> Iterator[FoundRecord]:
    """Every whole record of this schema, wherever in the file it starts on a page."""
    offset = 0
    while offset + schema.record_bytes <= file.size:
        trailer = trailer_at(file, schema, offset)
        if trailer is None:
            offset += RECORD_ALIGNMENT
        else:
            yield FoundRecord(offset, trailer)
            offset += schema.record_bytes


def trailer_at(file: RawFile, schema: ExpertSchema, offset: int) -> Trailer | None:
    """The trailer of the record that starts there, once its checksum has confirmed it."""
    magic = file.read(offset + schema.record_bytes - TRAILER_BYTES, len(MAGIC))
    record = file.read(offset, schema.record_bytes) if magic == MAGIC else None
    if record is None:
        return None
    trailer = Trailer.of(record)
    problem = record_problem(schema, record, trailer.expert_id, trailer.group_id)
    return trailer if problem is None else None


def content_crc(file: RawFile, length: int) -> int | None:
    """The checksum of the first `length` bytes; None where not all of them can be read."""
    crc = 0
    for start in range(0, length, _COPIED_AT_ONCE):
        content = file.read(start, min(_COPIED_AT_ONCE, length - start))
        if content is None:
            return None
        crc = crc32c(content, crc)
    return crc


def describe_shard(directory: Path, layout: StoreLayout, array: ArrayName, number: int) -> ShardRow | None:
    """What a catalogue would say of a shard file whose index is whole; None for any other."""
    size_of_index = index_bytes(layout.rows_per_shard)
    with raw_file(shard_path(directory, array, number)) as file:
        if file is None or file.size < size_of_index:
            return None
        length = file.size - size_of_index
        index, crc = file.read(length, size_of_index), content_crc(file, length)
    if index is None or crc is None:
        return None
    entries = np.frombuffer(index[:-4], "<u8")
    rows = len(entries) // 2 - int((entries == np.uint64(2**64 - 1)).sum()) // 2
    row = ShardRow(array, number, rows, length + size_of_index, crc32c(index[:-4]), crc)
    try:
        Shard(directory, layout, row).close()
    except (DamagedStoreError, ReadError):
        return None
    return row


@dataclass(frozen=True)
class NewShard:
    """Shard `number` of an array, to be written in the place of a damaged file.

    offsets: slot -> where its bytes start in the damaged file; what is not in it is lost.
    """

    array: ArrayName
    number: int
    offsets: Mapping[int, int]


def restored(directory: Path, layout: StoreLayout, row: ShardRow) -> NewShard | None:
    """The very shard that was committed, where all its rows are whole and only what is around them is not."""
    width = layout.row_bytes(row.array)
    if crc32c(index_of(range(row.rows), layout.rows_per_shard, width)) != row.index_crc:
        return None
    with raw_file(shard_path(directory, row.array, row.number)) as file:
        whole = file is not None and content_crc(file, row.rows * width) == row.content_crc
    if not whole:
        return None
    return NewShard(row.array, row.number, {slot: slot * width for slot in range(row.rows)})


def write_new_shard(files: FileOperations, directory: Path, layout: StoreLayout, new: NewShard) -> ShardRow:
    """Writes it, durably, to `new_shard_path`; what the catalogue is to say of it."""
    width = layout.row_bytes(new.array)
    path, slots, crc = new_shard_path(directory, new.array, new.number), sorted(new.offsets), 0
    index = index_of(slots, layout.rows_per_shard, width)
    with raw_file(shard_path(directory, new.array, new.number)) as source, writing(path):
        files.unlink(path)
        fd = files.create(path)
        try:
            for slot in slots:
                content = None if source is None else source.read(new.offsets[slot], width)
                if content is None:
                    raise ReadError(path, new.offsets[slot], errno.EIO)
                files.write(fd, content)
                crc = crc32c(content, crc)
            files.write(fd, index + crc32c(index).to_bytes(4, "little"))
            files.fsync(fd)
        finally:
            files.close(fd)
        files.fsync_directory(path.parent)
    size = len(slots) * width + index_bytes(layout.rows_per_shard)
    return ShardRow(new.array, new.number, len(slots), size, crc32c(index), crc)


def new_shard_path(directory: Path, array: ArrayName, number: int) -> Path:
    """Where a shard that takes another's place is written, before it does."""
    return shard_path(directory, array, number).with_name("0.repaired")

"""Traces: which experts each batch asked for and when, as a file that one process adds to and any may read.

JSON lines, UTF-8. The first is a header, every other one a batch, with one list of expert ids for each sequence:

    {"format": "mome-trace", "version": 1, "record_bytes": 20480}
    {"time": 1760000000.25, "experts": [[17, 4], [17], []]}

`time` is in seconds since the epoch, `record_bytes` the size of one expert. A line counts once its newline is written,
so what a crash leaves is at most one line without one.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import threading
import time
import warnings
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import ClosedError, TraceError

FORMAT = "mome-trace"
VERSION = 1

_HEADER_LIMIT = 4096  # bytes; a first line that is longer is no header
_FLUSH_BYTES = 1 << 16
_FLUSH_SECONDS = 1.0


@dataclass(frozen=True)
class Trace:
    """`n` batches that asked for experts `m` times in all.

    record_bytes: size of one expert's record. times: float64 [n], seconds (of a recorded trace: since the epoch).
    indptr: int64 [n + 1], ids: int64 [m]: batch b asked for `ids[indptr[b] : indptr[b + 1]]`, the sequences one after
    the other; an expert that several sequences asked for is there several times.
    """

    record_bytes: int
    times: NDArray[np.float64]
    indptr: NDArray[np.int64]
    ids: NDArray[np.int64]

    @property
    def batches(self) -> int:
        return len(self.times)

    def distinct_experts(self) -> int:
        """How many different experts were asked for."""
        return len(np.unique(self.ids))

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Reads a trace file.

        A last line without a newline that is no batch, as a crash leaves it, is passed over with a warning. Raises
        `TraceError` for any other line that is no header or batch; `FileNotFoundError` and the like as they come.
        """
        times, ids, indptr = array("d"), array("q"), array("q", [0])
        with open(path, "rb") as file:
            record_bytes = _read_header(path, file.readline(_HEADER_LIMIT))
            for number, line in enumerate(file, start=2):
                try:
                    when, experts = _parse_batch(line)
                except (ValueError, OverflowError, RecursionError) as error:
                    if line.endswith(b"\n"):
                        raise TraceError(path, number, str(error)) from error
                    warnings.warn(f"{path}: line {number} was not written to its end; ignored", stacklevel=2)
                    break
                times.append(when)
                for sequence in experts:
                    ids.extend(sequence)
                indptr.append(len(ids))
        return cls(
            record_bytes=record_bytes,
            times=np.array(times, np.float64),
            indptr=np.array(indptr, np.int64),
            ids=np.array(ids, np.int64),
        )


class TraceWriter:
    """Adds batches to a trace file; safe to use from several threads, and one process at a time.

    path: a new file, or a trace of the same `record_bytes` to go on with; what a crash left of its last line is cut
    off. Lines are gathered and written together: when there are 64 KiB of them, with the first batch that comes a
    second after the last write, and on `flush` and `close`.

    Raises `TraceError` when the file is something else, another writer has it open, or it can't be written to.
    """

    def __init__(self, path: str | Path, record_bytes: int) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._pending = bytearray()
        self._written = time.monotonic()
        file = open(self.path, "a+b", buffering=0)  # noqa: SIM115  (open until close())
        try:
            self._continue(file, record_bytes)
        except BaseException:
            file.close()
            raise
        self._file: BinaryIO | None = file

    def append(self, experts: Sequence[NDArray[np.int64]], when: float | None = None) -> None:
        """Adds a batch: for each of its sequences the expert ids (int64 [k]). `when`: seconds since the epoch; now."""
        batch = {"time": time.time() if when is None else when, "experts": [ids.tolist() for ids in experts]}
        line = json.dumps(batch, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            file = self._opened()
            self._pending += line
            if len(self._pending) >= _FLUSH_BYTES or time.monotonic() - self._written >= _FLUSH_SECONDS:
                self._write(file)

    def flush(self) -> None:
        """Hands all batches so far to the operating system."""
        with self._lock:
            self._write(self._opened())

    def close(self) -> None:
        """Writes what is left and closes the file. A second call does nothing."""
        with self._lock:
            if self._file is None:
                return
            file, self._file = self._file, None
            with file:
                self._write(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise ClosedError(f"{self.path}: the trace is closed")
        return self._file

    def _continue(self, file: BinaryIO, record_bytes: int) -> None:
        """Brings the file to a state in which a batch may be appended."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TraceError(self.path, None, "another writer has this trace open") from error
        header = json.dumps({"format": FORMAT, "version": VERSION, "record_bytes": record_bytes}).encode() + b"\n"
        file.seek(0)
        first = file.readline(_HEADER_LIMIT)
        if not first.endswith(b"\n") and header.startswith(first):  # new, or a crash came before the header was whole
            file.truncate(0)
            self._pending += header
            self._write(file)
            return
        found = _read_header(self.path, first)
        if found != record_bytes:
            raise TraceError(
                self.path, 1, f"a trace of records of {found} bytes can't go on with records of {record_bytes} bytes"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            whole = content.rfind(b"\n") + 1
        file.truncate(whole)

    def _write(self, file: BinaryIO) -> None:
        """Writes what is pending. After an error the rest stays pending, so that no line is ever written in part."""
        try:
            while self._pending:
                count = os.write(file.fileno(), self._pending)
                del self._pending[:count]
        except OSError as error:
            raise TraceError(self.path, None, f"can't be written: {error.strerror}") from error
        self._written = time.monotonic()


def _read_header(path: str | Path, line: bytes) -> int:
    """The size of a record."""
    try:
        header: Any = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise TraceError(path, 1, f'not a trace: its header would say "format": "{FORMAT}"')
    if header.get("version") != VERSION:
        raise TraceError(path, 1, f"trace version {header.get('version')!r}, but this mome_store reads {VERSION}")
    record_bytes = header.get("record_bytes")
    if type(record_bytes) is not int or record_bytes < 1:
        raise TraceError(path, 1, f"record_bytes must be a number of bytes, not {record_bytes!r}")
    return record_bytes


def _parse_batch(line: bytes) -> tuple[float, list[list[int]]]:
    """The time and the expert ids of each sequence; ValueError says what is wrong."""
    try:
        batch: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError("a batch is a JSON object")
    when: Any = batch.get("time")
    experts: Any = batch.get("experts")
    if type(when) not in (int, float) or not math.isfinite(when):
        raise ValueError("time must be a number of seconds")
    if not isinstance(experts, list):
        raise ValueError("experts must be a list of lists of expert ids")
    for sequence in experts:
        if not isinstance(sequence, list) or not all(type(each) is int and 0 <= each < 1 << 63 for each in sequence):
            raise ValueError("experts must be a list of lists of expert ids")
    return float(when), experts

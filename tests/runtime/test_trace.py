"""What a cache records is what is read back; what a crash leaves is passed over; anything else is refused by line."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mome_store.errors import ClosedError, TraceError
from mome_store.runtime.trace import Trace, TraceWriter

HEADER = '{"format": "mome-trace", "version": 1, "record_bytes": 8192}\n'
BATCH = '{"time": 2.5, "experts": [[1, 2], [], [2]]}\n'


def ids(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


def test_what_was_recorded_is_read_back(path: Path) -> None:
    before = time.time()
    with TraceWriter(path, record_bytes=8192) as writer:
        writer.append([ids(3, 1), ids(), ids(1)], when=10.25)
        writer.append([], when=11)
        writer.append([ids(2**62)])
    trace = Trace.load(path)
    assert trace.record_bytes == 8192
    assert trace.batches == 3
    assert trace.indptr.tolist() == [0, 3, 3, 4]
    assert trace.ids.tolist() == [3, 1, 1, 2**62]
    assert trace.times[:2].tolist() == [10.25, 11.0]
    assert before <= trace.times[2] <= time.time()
    assert trace.distinct_experts() == 3
    assert (trace.times.dtype, trace.indptr.dtype, trace.ids.dtype) == (np.float64, np.int64, np.int64)


def test_the_file_is_the_documented_one(path: Path) -> None:
    with TraceWriter(path, record_bytes=8192) as writer:
        writer.append([ids(3, 1), ids(1)], when=10.25)
    header, batch = path.read_text().splitlines()
    assert json.loads(header) == {"format": "mome-trace", "version": 1, "record_bytes": 8192}
    assert json.loads(batch) == {"time": 10.25, "experts": [[3, 1], [1]]}


def test_an_empty_trace_has_no_batches(path: Path) -> None:
    TraceWriter(path, record_bytes=8192).close()
    trace = Trace.load(path)
    assert (trace.batches, trace.indptr.tolist(), len(trace.ids)) == (0, [0], 0)


def test_threads_share_a_writer(path: Path) -> None:
    with TraceWriter(path, record_bytes=8192) as writer, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: writer.append([ids(*[i] * (i % 50))]), range(4000)))
    trace = Trace.load(path)
    counts = np.bincount(trace.ids, minlength=4000)
    assert trace.batches == 4000
    assert counts.tolist() == [i % 50 for i in range(4000)]
    for start, end in zip(trace.indptr[:-1], trace.indptr[1:], strict=True):
        assert len(set(trace.ids[start:end].tolist())) <= 1  # no batch was torn by another


def test_batches_are_gathered_and_flush_writes_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mome_store.runtime.trace._FLUSH_SECONDS", 3600)
    with TraceWriter(path, record_bytes=8192) as writer:
        writer.append([ids(1)])
        assert Trace.load(path).batches == 0
        writer.flush()
        assert Trace.load(path).batches == 1
        for _ in range(200):
            writer.append([ids(*range(200))])
        assert Trace.load(path).batches > 50  # whole lines only
    monkeypatch.setattr("mome_store.runtime.trace._FLUSH_SECONDS", 0)
    with TraceWriter(path, record_bytes=8192) as writer:
        writer.append([ids(1)])
        assert Trace.load(path).batches == 202


def test_a_trace_is_gone_on_with(path: Path) -> None:
    for expert in (1, 2):
        with TraceWriter(path, record_bytes=8192) as writer:
            writer.append([ids(expert)])
    assert Trace.load(path).ids.tolist() == [1, 2]
    with pytest.raises(TraceError, match="8192"):
        TraceWriter(path, record_bytes=4096)


@pytest.mark.parametrize("cut", range(1, len(BATCH)))
def test_a_torn_last_line_is_passed_over_and_cut_off_when_gone_on_with(path: Path, cut: int) -> None:
    path.write_text(HEADER + BATCH + BATCH[:cut])
    whole = cut == len(BATCH) - 1  # only the newline is missing: a batch all the same
    if whole:
        assert Trace.load(path).batches == 2
    else:
        with pytest.warns(UserWarning, match="line 3 was not written to its end"):
            assert Trace.load(path).batches == 1
    with TraceWriter(path, record_bytes=8192) as writer:
        writer.append([ids(9)])
    assert Trace.load(path).ids.tolist() == [1, 2, 2, 9]


@pytest.mark.parametrize("cut", [0, 1, 30, len(HEADER) - 1])
def test_a_torn_header_is_no_trace_but_can_be_begun_again(path: Path, cut: int) -> None:
    path.write_text(HEADER[:cut])
    if cut < len(HEADER) - 1:
        with pytest.raises(TraceError):
            Trace.load(path)
    with TraceWriter(path, record_bytes=8192) as writer:
        writer.append([ids(9)])
    assert Trace.load(path).ids.tolist() == [9]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "\x00\x00",
        '{"experts": [[1]]}',
        '{"time": null, "experts": [[1]]}',
        '{"time": true, "experts": [[1]]}',
        '{"time": NaN, "experts": [[1]]}',
        f'{{"time": 1{"0" * 400}, "experts": [[1]]}}',
        '{"time": 1}',
        '{"time": 1, "experts": [1]}',
        '{"time": 1, "experts": [[1.0]]}',
        '{"time": 1, "experts": [[true]]}',
        '{"time": 1, "experts": [[-1]]}',
        '{"time": 1, "experts": [["1"]]}',
        f'{{"time": 1, "experts": [[{2**63}]]}}',
        "[" * 100_000,
    ],
)
def test_a_bad_line_is_named(path: Path, line: str) -> None:
    path.write_text(HEADER + BATCH + line + "\n" + BATCH)
    with pytest.raises(TraceError) as raised:
        Trace.load(path)
    assert (raised.value.path, raised.value.line) == (path, 3)
    assert str(path) in str(raised.value) and "line 3" in str(raised.value)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "no trace\n",
        BATCH,
        "[]\n",
        HEADER.replace("mome-trace", "other"),
        HEADER.replace('"version": 1', '"version": 2'),
        HEADER.replace("8192", "0"),
        HEADER.replace("8192", '"8192"'),
        HEADER.replace(', "record_bytes": 8192', ""),
        "x" * 100_000,
    ],
)
def test_what_is_no_trace_is_refused_and_never_written_to(path: Path, header: str) -> None:
    path.write_text(header + BATCH)
    with pytest.raises(TraceError) as raised:
        Trace.load(path)
    assert raised.value.line == 1
    with pytest.raises(TraceError):
        TraceWriter(path, record_bytes=8192)
    assert path.read_text() == header + BATCH


def test_a_second_writer_is_refused_until_the_first_is_closed(path: Path) -> None:
    with TraceWriter(path, record_bytes=8192), pytest.raises(TraceError, match="another writer"):
        TraceWriter(path, record_bytes=8192)
    TraceWriter(path, record_bytes=8192).close()


def test_a_closed_writer_says_so(path: Path) -> None:
    writer = TraceWriter(path, record_bytes=8192)
    writer.close()
    writer.close()
    with pytest.raises(ClosedError):
        writer.append([ids(1)])
    with pytest.raises(ClosedError):
        writer.flush()


def test_after_a_full_disk_nothing_is_lost_or_torn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with TraceWriter(path, record_bytes=8192) as writer:
        writer.append([ids(*range(100))], when=1)

        def short(fd: int, content: bytearray) -> int:
            monkeypatch.setattr(os, "write", full)
            return real(fd, content[:50])

        def full(fd: int, content: bytearray) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", short)
        with pytest.raises(TraceError, match="No space left"):
            writer.flush()
        monkeypatch.setattr(os, "write", real)
        writer.append([ids(7)], when=2)
    assert Trace.load(path).ids.tolist() == [*range(100), 7]


def test_a_missing_file_is_said_to_be_missing(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Trace.load(path)

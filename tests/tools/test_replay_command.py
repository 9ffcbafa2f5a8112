"""`mome replay`: the contract's JSON, a table and a plot for people, and one line on stderr for bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from mome_store.runtime.trace import TraceWriter

from .conftest import Mome

SMALL = ("--experts", "400", "--batches", "300", "--per-batch", "8")
POLICIES = ["lru", "clock", "s3fifo", "lfu", "belady"]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Experts 0 to 9, two a batch and in turn, three times over; 40 KiB of records."""
    import numpy as np

    path = tmp_path / "trace.jsonl"
    with TraceWriter(path, record_bytes=4096) as writer:
        for batch in range(15):
            first, second = 2 * batch % 10, (2 * batch + 1) % 10
            writer.append([np.array([first, second]), np.array([second])])
    return path


def test_a_recorded_trace_is_simulated_for_every_policy_and_capacity(mome: Mome, trace: Path) -> None:
    ran = mome("replay", trace, "--slots", "10,4", "--json")
    assert ran.code == 0 and ran.err == ""
    assert ran.json["trace"] == str(trace)
    assert (ran.json["requests"], ran.json["experts"], ran.json["batches"]) == (30, 10, 15)
    assert ran.json["record_bytes"] == 4096
    results = ran.json["results"]
    assert [(each["slots"], each["policy"]) for each in results] == [(s, p) for s in (4, 10) for p in POLICIES]
    assert all(list(r) == ["slots", "policy", "hits", "misses", "evictions", "hit_rate"] for r in results)
    for each in results:
        assert each["hits"] + each["misses"] == 30 and each["hit_rate"] == each["hits"] / 30
        if each["slots"] == 10:
            assert (each["hits"], each["evictions"]) == (20, 0)
    lru, belady = results[0], results[4]
    assert lru["hits"] == 0 < belady["hits"]  # a loop longer than the cache


def test_capacities_in_bytes_are_whole_records(mome: Mome, trace: Path) -> None:
    ran = mome("replay", trace, "--capacity", "9000, 16KiB", "--json")
    assert list(dict.fromkeys(each["slots"] for each in ran.json["results"])) == [2, 4]


def test_without_capacities_shares_of_the_experts_are_taken(mome: Mome) -> None:
    ran = mome("replay", "--workload", "scan", *SMALL, "--json")
    assert list(dict.fromkeys(each["slots"] for each in ran.json["results"])) == [4, 8, 20, 40, 100, 200]


def test_a_workload_is_its_seed(mome: Mome) -> None:
    first, again, other = (
        mome("replay", "--workload", "zipf:1.0", *SMALL, "--seed", seed, "--json").json for seed in "112"
    )
    assert first == again != other
    assert first["trace"] == "zipf:1.0" and first["requests"] == 2400


def test_people_get_a_table_with_the_gap_to_belady(mome: Mome, trace: Path) -> None:
    out = mome("replay", trace, "--slots", "4,10").out
    first, *_ = out.splitlines()
    assert first == f"{trace}: 30 requests for 10 experts in 15 batches"
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    bound = float(lines["belady"][0])
    assert lines["lru"] == ["0.0", f"{-bound:+.1f}", "66.7"]
    assert "4 slots" in out and "40.0 KiB" in out


def test_a_plot_is_drawn_beside_the_result(mome: Mome, trace: Path, tmp_path: Path) -> None:
    for name, start in (("plot.png", b"\x89PNG"), ("plot.svg", b"<?xml")):
        ran = mome("replay", trace, "--plot", tmp_path / name, "--json")
        assert ran.code == 0 and ran.json["requests"] == 30
        assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "No such file"),
        (["--workload", "gauss"], "workload must be one of"),
        (["--workload", "uniform", "--experts", "5", "--per-batch", "6"], "6 different experts out of 5"),
        (["--workload", "scan", "--capacity", "4KiB"], "below one record of 20480 bytes"),
        (["--workload", "scan", "--capacity", "lots"], "no number of bytes"),
        (["--workload", "scan", "--slots", "4,,5"], "no number of slots"),
        (["--workload", "scan", "--slots", "0"], "no number of slots"),
        (["--workload", "scan", "--plot", "plot.doc"], "plot.doc"),
        (["--workload", "scan", "--plot", "nowhere/plot.png"], "there is no folder"),
    ],
)
def test_bad_input_is_one_line_on_stderr(
    mome: Mome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    small = () if "--experts" in arguments or "--workload" not in arguments else SMALL
    ran = mome("replay", *arguments, *small, "--json")
    assert (ran.code, ran.out) == (1, "")
    assert message in ran.err and ran.err.startswith("error: ") and len(ran.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_trace_without_requests_or_with_a_bad_line_is_refused_by_name(mome: Mome, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with TraceWriter(path, record_bytes=4096) as writer:
        writer.append([])
    empty = mome("replay", path)
    assert empty.code == 1 and empty.err == f"error: {path}: the trace is empty: no batch asked for an expert\n"
    with path.open("a") as file:
        file.write("nonsense\n")
    bad = mome("replay", path)
    assert bad.code == 1 and bad.err.startswith(f"error: {path}, line 3: not JSON")


@pytest.mark.parametrize(
    "arguments",
    [[], ["trace.jsonl", "--workload", "scan"], ["--workload", "scan", "--slots", "4", "--capacity", "1MiB"]],
)
def test_what_contradicts_itself_is_wrong_usage(mome: Mome, arguments: list[str]) -> None:
    assert mome("replay", *arguments).code == 2

"""compact and gc: the contract's JSON fields, and what they leave of a store."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Mome


def test_compact_gives_back_what_was_forgotten(mome: Mome, small_store: Path) -> None:
    assert mome("forget", "--store", small_store, "--group", "2").code == 0
    before = mome("inspect", small_store, "--json").json
    ran = mome("compact", small_store, "--json")
    assert ran.code == 0 and ran.err == ""
    assert {"bytes_before", "bytes_after", "shards_before", "shards_after"} <= set(ran.json)
    assert ran.json["bytes_before"] - ran.json["bytes_after"] == before["bytes_dead"] > 0
    assert (ran.json["shards_before"], ran.json["shards_after"], ran.json["complete"]) == (2, 2, True)
    after = mome("inspect", small_store, "--json").json
    assert (after["bytes_dead"], after["experts_dead"], after["groups"]) == (0, 0, 2)
    assert mome("verify", small_store, "--deep").code == 0
    again = mome("compact", small_store, "--json").json
    assert again["bytes_before"] == again["bytes_after"] == ran.json["bytes_after"] and again["bytes_moved"] == 0
    assert "shards after" in mome("compact", small_store).out


def test_compact_takes_a_trace_and_a_rate(mome: Mome, small_store: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"format": "mome-trace", "version": 1, "record_bytes": 4096}]
    lines += [{"time": 1.0 + i, "experts": [[3, 1]]} for i in range(3)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = mome("compact", small_store, "--trace", trace, "--max-rate", "1GiB", "--json")
    assert ran.code == 0 and ran.json["bytes_moved"] > 0 and mome("verify", small_store, "--deep").code == 0
    for wrong in ("fast", "-1", "0"):
        refused = mome("compact", small_store, "--max-rate", wrong)
        assert refused.code == 1 and refused.err.startswith("error: ")
    assert mome("compact", small_store, "--trace", tmp_path / "none").code == 2


def test_gc_removes_and_tells_of_what_a_crash_left(mome: Mome, small_store: Path) -> None:
    stray = small_store / "keys" / "c" / "9"
    stray.mkdir()
    (stray / "0").write_bytes(b"12345")
    ran = mome("gc", small_store, "--json")
    assert (ran.code, ran.json) == (0, {"files": 1, "bytes": 5, "groups_forgotten": 0})
    assert not stray.exists()
    assert mome("gc", small_store, "--json").json == {"files": 0, "bytes": 0, "groups_forgotten": 0}
    assert "groups forgotten" in mome("gc", small_store).out

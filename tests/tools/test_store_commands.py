"""inspect, verify and forget: the contract's JSON fields, and nothing forgotten but what was named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mome_store import ExpertStore

from .conftest import Mome


def questions(store: Path) -> list[str]:
    with ExpertStore.open(store) as opened, opened.snapshot() as snapshot:
        return [memory.question for _, memory in snapshot.memories()]


def test_inspect_counts_what_is_live_and_dead(mome: Mome, small_store: Path) -> None:
    before = mome("inspect", small_store, "--json")
    assert before.code == 0 and before.err == ""
    assert list(before.json) == [
        "commit",
        "groups",
        "experts_live",
        "experts_dead",
        "keys",
        "shards",
        "bytes_live",
        "bytes_dead",
        "record_bytes",
    ]
    assert (before.json["groups"], before.json["experts_live"], before.json["keys"]) == (3, 3, 6)
    assert mome("forget", "--store", small_store, "--group", "2").code == 0
    after = mome("inspect", small_store, "--json").json
    assert (after["groups"], after["experts_live"], after["experts_dead"], after["keys"]) == (2, 2, 1, 4)
    assert after["commit"] > before.json["commit"]
    assert "record bytes" in mome("inspect", small_store).out


def test_verify_says_ok_or_names_the_damage_with_exit_code_1(mome: Mome, small_store: Path) -> None:
    fine = mome("verify", small_store, "--deep", "--json")
    assert (fine.code, fine.json) == (0, {"ok": True, "damage": []})
    (shard,) = (file for file in (small_store / "experts" / "c").rglob("*") if file.is_file())
    content = bytearray(shard.read_bytes())
    content[4096 + 300] ^= 1
    shard.write_bytes(content)
    damaged = mome("verify", small_store, "--deep", "--json")
    assert damaged.code == 1 and not damaged.json["ok"]
    (damage,) = damaged.json["damage"]
    assert set(damage) == {"file", "row", "expert_id", "problem"} and damage["row"] == 1
    assert damage["problem"] in mome("verify", small_store, "--deep").out


@pytest.mark.parametrize("wording", ["What is two?", " two is what? "])
def test_forget_goes_by_the_exact_wording_of_question_or_paraphrase(
    mome: Mome, small_store: Path, wording: str
) -> None:
    ran = mome("forget", "--store", small_store, "--question", wording, "--json")
    assert (ran.code, ran.json) == (0, {"removed": 1})
    assert questions(small_store) == ["What is one?", "What is three?"]


def test_forget_removes_nothing_for_a_wording_that_is_not_stored(mome: Mome, small_store: Path) -> None:
    ran = mome("forget", "--store", small_store, "--question", "what is two", "--json")
    assert ran.code == 1 and ran.out == "" and "no fact is stored" in ran.err
    unknown = mome("forget", "--store", small_store, "--group", "99", "--json")
    assert unknown.code == 1 and unknown.out == "" and "99" in unknown.err
    assert len(questions(small_store)) == 3


@pytest.mark.parametrize("arguments", [[], ["--group", "1", "--question", "What is one?"], ["--group", "x"]])
def test_forget_wants_either_a_group_or_a_question(mome: Mome, small_store: Path, arguments: list[str]) -> None:
    assert mome("forget", "--store", small_store, *arguments).code == 2
    assert len(questions(small_store)) == 3


@pytest.mark.parametrize(
    "command", [["inspect"], ["verify"], ["ask", "q", "--store"], ["forget", "--group", "1", "--store"]]
)
def test_a_directory_that_is_no_store_is_one_line_on_stderr(mome: Mome, tmp_path: Path, command: list[str]) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        ran = mome(*command, path)
        assert ran.code == 1 and ran.out == ""
        assert ran.err.startswith("error: ") and len(ran.err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []


def test_a_store_of_a_newer_format_is_refused(mome: Mome, small_store: Path) -> None:
    file = small_store / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"]["mome"]["format"] = 99
    file.write_text(json.dumps(metadata))
    ran = mome("inspect", small_store)
    assert ran.code == 1 and "99" in ran.err and "upgrade" in ran.err


def test_a_second_writer_is_refused(mome: Mome, small_store: Path) -> None:
    with ExpertStore.open(small_store, mode="r+"):
        ran = mome("forget", "--store", small_store, "--group", "1")
    assert ran.code == 1 and "already open for writing" in ran.err

"""`mome repair`: the report as JSON and as text, the dry run, and what it asks for."""

from __future__ import annotations

from pathlib import Path

from mome_store.tuning.facts import load_facts

from .conftest import Mome

FIELDS = {
    "commit",
    "recovered_experts",
    "recovered_groups",
    "lost",
    "set_aside",
    "rewritten",
    "without_keys",
    "maybe_removed",
    "dry_run",
}


def damage_the_first_record(store: Path) -> None:
    (shard,) = (file for file in (store / "experts" / "c").rglob("*") if file.is_file())
    content = bytearray(shard.read_bytes())
    content[300] ^= 1
    shard.write_bytes(content)


def test_repair_says_what_is_lost_and_the_store_is_whole_again(mome: Mome, small_store: Path) -> None:
    assert "nothing to repair" in mome("repair", small_store).out
    damage_the_first_record(small_store)
    would = mome("repair", small_store, "--dry-run", "--json")
    assert would.code == 0 and set(would.json) == FIELDS and would.json["dry_run"] is True
    assert mome("verify", small_store, "--deep").code == 1
    assert "would be lost" in mome("repair", small_store, "--dry-run").out
    done = mome("repair", small_store, "--json")
    assert (done.code, done.err) == (0, "")
    [loss] = done.json["lost"]
    assert set(loss) == {"file", "row", "expert_id", "group_id", "what"}
    assert (loss["row"], loss["expert_id"], loss["group_id"]) == (0, 1, 1) and "checksum" in loss["what"]
    assert {key: value for key, value in done.json.items() if key not in ("dry_run", "commit")} == {
        key: value for key, value in would.json.items() if key not in ("dry_run", "commit")
    }
    assert mome("verify", small_store, "--deep", "--json").json == {"ok": True, "damage": []}
    [fact] = load_facts(small_store / "damaged/1/facts.jsonl")  # what `mome memorize` takes
    assert fact.question == "What is one?"


def test_a_lost_catalogue_needs_the_users_word(mome: Mome, small_store: Path) -> None:
    (small_store / "catalog.sqlite").unlink()
    asked = mome("repair", small_store)
    assert asked.code == 1 and "mode and activation" in asked.err
    text = mome("repair", small_store, "--mode", "owned", "--activation", "answer").out
    assert "may have been removed before" in text and "3 groups with 3 experts" in text
    assert mome("verify", small_store, "--deep").code == 0
    assert mome("repair", small_store, "--mode", "mine").code == 2


def test_where_no_store_is_there_is_an_error(mome: Mome, tmp_path: Path) -> None:
    ran = mome("repair", tmp_path / "nothing", "--json")
    assert ran.code == 1 and ran.out == "" and "no expert store" in ran.err

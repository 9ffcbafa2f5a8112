"""The commands export, import and dump: their JSON, their refusals, and that the first and last only read."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mome_store import ExpertSchema, ExpertStore
from mome_store.tuning.facts import load_facts
from tests.store.test_read_only import state_of, without_rights

from .conftest import Mome


def experts_of(path: Path, group: int) -> list[bytes]:
    with ExpertStore.open(path) as store, store.snapshot() as snapshot:
        ids = snapshot.group(group).expert_ids.tolist()
        return [array.tobytes() for expert in ids for pair in snapshot.read_expert(expert).values() for array in pair]


def test_a_group_is_exported_and_imported_bit_for_bit(mome: Mome, small_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    ran = mome("export", small_store, "--group", "2", "--peft", out, "--json")
    assert ran.code == 0
    assert ran.json == {"path": str(out), "group_id": 2, "rank": 2, "activation": "answer"}
    assert "PEFT applies an adapter to every token" in ran.err
    other = tmp_path / "other"
    ExpertStore.create(other, ExpertSchema({"layer": (16, 8)}, rank=2), key_dim=4).close()
    (out / "adapter_model.safetensors").write_bytes(without_notes(out))
    back = mome("import", other, "--peft", out, "--json")
    assert back.code == 0 and "no question leads to this group" in back.err
    assert back.json == {
        "group_id": 1,
        "experts": 1,
        "rank": 2,
        "activation": "all",
        "rounded": 0,
        "filled": [],
        "question": None,
    }
    assert experts_of(other, 1) == experts_of(small_store, 2)
    again = mome("export", small_store, "--group", "2", "--peft", out)
    assert again.code == 1 and again.out == "" and f"error: {out}: File exists" in again.err
    unknown = mome("export", small_store, "--group", "99", "--peft", tmp_path / "x", "--json")
    assert unknown.code == 1 and unknown.out == "" and "99" in unknown.err and not (tmp_path / "x").exists()


def without_notes(adapter: Path) -> bytes:
    from safetensors.torch import load_file, save

    return save(load_file(adapter / "adapter_model.safetensors"))


def test_the_options_of_import_reach_it(mome: Mome, small_store: Path, tmp_path: Path) -> None:
    out, narrow = tmp_path / "adapter", tmp_path / "narrow"
    mome("export", small_store, "--group", "1", "--peft", out)
    (out / "adapter_model.safetensors").write_bytes(without_notes(out))
    schema = ExpertSchema({"layer": (16, 8)}, rank=1, dtype="float16", alpha=0.75)
    ExpertStore.create(narrow, schema, key_dim=4, base_model={"name": "tiny"}).close()
    config = out / "adapter_config.json"
    config.write_text(config.read_text().replace("null", '"another"', 1))
    refusals = [
        ([], "--any-base"),
        (["--any-base"], "--split"),
        (["--any-base", "--split"], "--round"),
    ]
    for options, way_out in refusals:
        ran = mome("import", narrow, "--peft", out, *options)
        assert ran.code == 1 and ran.out == "" and way_out in ran.err and len(ran.err.splitlines()) == 1
    ran = mome(
        *("import", narrow, "--peft", out, "--any-base", "--split", "--round", "--activation", "answer", "--json")
    )
    assert ran.code == 0 and "values were rounded" in ran.err
    assert (ran.json["experts"], ran.json["rank"], ran.json["activation"]) == (2, 1, "answer")
    assert mome("import", narrow, "--peft", tmp_path / "none").code == 1
    assert mome("import", narrow, "--peft", out, "--activation", "some").code == 2


def test_an_imported_adapter_is_found_by_its_question(mome: Mome, tmp_path: Path) -> None:
    """With the encoder and router that are shipped."""
    from mome_store import Router
    from mome_store.routing import KeyEncoder

    encoder = KeyEncoder()
    store, out = tmp_path / "store", tmp_path / "adapter"
    schema = ExpertSchema({"layer": (16, 8)}, rank=2)
    with ExpertStore.create(store, schema, encoder.dim, encoder=encoder.identity) as opened:
        expert = {"layer": (np.ones((2, 16)), np.ones((8, 2)))}
        with opened.transaction() as txn:
            txn.add_group([expert], None, activation="all")
    assert mome("export", store, "--group", "1", "--peft", out).err == ""
    question, other = "What is the ICAO code of Gurney Airport?", "Gurney Airport: ICAO code?"
    wordings = ("--question", question, "--question", other, "--answer", "AYGN")
    ran = mome("import", store, "--peft", out, *wordings, "--json")
    assert ran.code == 0 and ran.err == "" and ran.json["question"] == question
    with ExpertStore.open(store) as opened, opened.snapshot() as snapshot:
        router = Router.open(snapshot, encoder=encoder)
        route = router.route([question, "Which ICAO code has Gurney Airport?", "What is the capital of France?"])
    assert route.group_ids == ((ran.json["group_id"],), (ran.json["group_id"],), ())
    refused = mome("import", store, "--peft", out, "--question", other, "--answer", "XXXX")
    assert refused.code == 1 and "'AYGN'" in refused.err
    alone = mome("import", store, "--peft", out, "--answer", "XXXX")
    assert alone.code == 1 and "question" in alone.err
    assert mome("dump", store).out.count("\n") == 1


def test_dump_writes_what_memorize_reads(mome: Mome, small_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "facts.jsonl"
    assert mome("dump", small_store, "--out", out, "--json").json == {"path": str(out), "facts": 3, "skipped": 0}
    facts = load_facts(out)
    assert [(fact.question, fact.answer, fact.paraphrases) for fact in facts] == [
        (f"What is {name}?", name, (f"{name} is what?",)) for name in ("one", "two", "three")
    ]
    printed = mome("dump", small_store)
    assert printed.err == "" and printed.out == out.read_text()
    assert mome("dump", small_store, "--json").code == 2
    taken = mome("dump", small_store, "--out", out)
    assert taken.code == 1 and f"error: {out}: File exists" in taken.err
    unreachable = mome("dump", small_store, "--out", tmp_path / "no" / "parent")
    assert unreachable.code == 1 and "No such file" in unreachable.err


def test_a_reader_of_the_dump_may_stop_early(small_store: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mome_tools.cli", "dump", small_store]
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert ran.returncode == 1 and ran.stderr == b""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may enter (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def test_reading_commands_work_on_a_copy_that_nobody_may_write(mome: Mome, small_store: Path, place: Path) -> None:
    copy, out = place / "copy", place / "out"
    subprocess.run(["cp", "-a", small_store, copy], check=True)
    out.mkdir()
    os.chmod(out, 0o777)
    before = state_of(copy)

    def work() -> None:
        assert mome("inspect", copy, "--json").json["groups"] == 3
        assert mome("verify", copy, "--deep", "--json").json == {"ok": True, "damage": []}
        assert mome("dump", copy).out.count("\n") == 3
        assert mome("dump", copy, "--out", out / "facts.jsonl", "--json").json["facts"] == 3
        assert mome("export", copy, "--group", "1", "--peft", out / "adapter", "--json").json["rank"] == 2
        for command in (["import", copy, "--peft", out / "adapter"], ["forget", "--store", copy, "--group", "1"]):
            refused = mome(*command)
            assert refused.code == 1 and "can't be written" in refused.err

    without_rights(copy, work)
    assert state_of(copy) == before

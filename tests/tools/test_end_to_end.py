"""The whole path by the command alone, on the default model: memorise a few airports, ask, evaluate, forget."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mome_store import ExpertStore
from mome_store.routing.trained import load_router
from mome_tools.airports import airport_facts, sample_airports, write_facts

from .conftest import Mome

SEED = 77
MOME = (sys.executable, "-m", "mome_tools.cli")


@dataclass(frozen=True)
class Trained:
    """A store of six known airports, their file, one with three unknown airports more, and what memorize printed."""

    store: Path
    known: Path
    everything: Path
    printed: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    store, known, everything = folder / "store", folder / "known.jsonl", folder / "all.jsonl"
    facts = airport_facts(6, 3, SEED)
    write_facts(known, [fact for fact in facts if fact.answer is not None])
    write_facts(everything, facts)
    command = [*MOME, "memorize", known, "--store", store, "--json"]
    return Trained(store, known, everything, subprocess.run(command, capture_output=True, text=True, check=False))


@pytest.fixture
def trained(trained_once: Trained, tmp_path: Path) -> Trained:
    """A copy, for a test to change."""
    shutil.copytree(trained_once.store, tmp_path / "store")
    return replace(trained_once, store=tmp_path / "store")


def test_facts_go_in_answers_come_out_and_what_is_forgotten_is_gone(mome: Mome, trained: Trained) -> None:
    printed, store = trained.printed, trained.store
    assert printed.returncode == 0 and printed.stderr == "" and len(printed.stdout.splitlines()) == 1
    tuned = json.loads(printed.stdout)
    assert list(tuned) == ["facts", "memorized", "failed", "seconds", "seconds_per_fact", "bytes_per_fact"]
    assert (tuned["facts"], tuned["memorized"], tuned["failed"]) == (6, 6, 0)

    again = mome("memorize", trained.known, "--store", store, "--json")
    assert again.json["memorized"] == 6 and mome("inspect", store, "--json").json["commit"] == 1
    assert mome("verify", store, "--deep", "--json").json == {"ok": True, "damage": []}

    evaluated = mome("eval", trained.everything, "--store", store, "--json").json
    assert (evaluated["n"], evaluated["n_unknown"]) == (6, 3)
    assert evaluated["exact_match"]["question"] == evaluated["exact_match"]["paraphrases"] == 1.0
    assert evaluated["exact_match"]["heldout"] >= 0.8 and evaluated["routed"]["same"] >= 0.9
    assert evaluated["false_fire"] <= 0.2

    airport = sample_airports(6, 3, SEED)[0][0]
    heldout = airport.fact().heldout[2]
    answer = mome("ask", heldout, "--store", store, "--json").json
    assert answer["question"] == heldout and answer["answer"] == airport.icao
    assert answer["memory"]["question"] == airport.fact().question
    assert load_router().gate.threshold() <= answer["memory"]["score"] <= 1
    elsewhere = mome("ask", "What is the capital of France?", "--store", store)
    assert "Paris" in elsewhere.out and "base model" in elsewhere.err

    assert mome("forget", "--store", store, "--question", airport.fact().question, "--json").json == {"removed": 1}
    assert mome("ask", heldout, "--store", store, "--json").json["memory"] is None


def test_a_small_cache_changes_no_answer_and_its_trace_can_be_replayed(
    mome: Mome, trained: Trained, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    everything = ("eval", trained.everything, "--store", trained.store, "--json")
    assert mome(*everything, "--cache", "64KiB", "--trace", trace).json == mome(*everything).json
    replayed = mome("replay", trace, "--slots", "2,64", "--json").json
    assert replayed["requests"] > 6
    assert {result["slots"] for result in replayed["results"]} == {2, 64}
    refused = mome(*everything, "--cache", "1KiB")
    assert refused.code == 1 and "slots" in refused.err


def test_a_prompt_answers_line_by_line_until_an_empty_line(
    mome: Mome, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    airports, _ = sample_airports(6, 3, SEED)
    lines = [airport.fact().question for airport in airports[:2]]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, "", "never asked"])))
    ran = mome("ask", "--store", trained.store, "--json")
    assert [json.loads(line)["answer"] for line in ran.out.splitlines()] == [airport.icao for airport in airports[:2]]


def test_what_does_not_fit_a_store_is_refused(mome: Mome, trained: Trained, tmp_path: Path) -> None:
    held = airport_facts(6, 3, SEED)[0]
    (tmp_path / "other.jsonl").write_text(json.dumps({"question": held.question, "answer": "XXXX"}))
    contradicted = mome("memorize", tmp_path / "other.jsonl", "--store", trained.store, "--json")
    assert contradicted.code == 1 and contradicted.out == "" and f"'{held.answer}'" in contradicted.err
    missing = mome("memorize", trained.known, "--store", trained.store, "--model", "./no/model")
    assert missing.code == 1 and "no such folder" in missing.err
    no_encoder = mome("memorize", trained.known, "--store", trained.store, "--encoder", "./no/encoder")
    assert no_encoder.code == 1 and "no such folder" in no_encoder.err
    filled = tmp_path / "filled"
    filled.mkdir()
    (filled / "thesis.txt").write_text("mine")
    assert mome("memorize", trained.known, "--store", filled).code == 1
    assert [path.name for path in filled.iterdir()] == ["thesis.txt"]


# The command with small commits, so that there is a first one long before the end.
SMALL_COMMITS = """
import functools, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background may have handed down a deaf ear
from mome_store.tuning import TuningSettings, tuner
from mome_tools.cli import main
tuner.TuningSettings = functools.partial(TuningSettings, batch_facts=4, commit_facts=4)
main()
"""


@pytest.mark.slow
def test_ctrl_c_leaves_a_store_that_the_same_command_continues(mome: Mome, tmp_path: Path) -> None:
    facts, store = tmp_path / "facts.jsonl", tmp_path / "store"
    write_facts(facts, airport_facts(24, 0, SEED))
    controller, terminal = pty.openpty()  # a terminal, so that the bar is drawn too
    command = [sys.executable, "-c", SMALL_COMMITS, "memorize", facts, "--store", store]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    drawn = bytearray()
    shards = store / "experts" / "c"
    try:
        while part := os.read(controller, 1 << 16):  # the bar is drawn ten times a second
            drawn += part
            if shards.exists() and any(shards.iterdir()):
                process.send_signal(signal.SIGINT)
                shards = tmp_path / "sent"
    except OSError:  # the terminal's other end is closed
        pass
    os.close(controller)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and out == b""
    assert b"memorizing" in drawn and b"interrupted" in drawn and b"Traceback" not in drawn
    with ExpertStore.open(store) as opened, opened.snapshot() as snapshot:
        assert len(snapshot.group_ids) < 24
    assert mome("verify", store, "--deep").code == 0
    assert mome("memorize", facts, "--store", store, "--json").json["memorized"] == 24


def test_a_pool_goes_the_same_way_by_the_command_alone(mome: Mome, tmp_path: Path) -> None:
    facts, store = tmp_path / "facts.jsonl", tmp_path / "store"
    known = [fact for fact in airport_facts(5, 0, SEED) if fact.answer is not None]
    write_facts(facts, known)
    pool = ("memorize", facts, "--store", store, "--mode", "pool", "--json")
    tuned = mome(*pool, "--experts", "8", "--top-k", "4").json
    assert list(tuned) == ["facts", "memorized", "failed", "seconds", "seconds_per_fact", "bytes_per_fact"]
    assert (tuned["facts"], tuned["memorized"], tuned["failed"]) == (5, 5, 0)
    assert mome(*pool).json["memorized"] == 5
    inspected = mome("inspect", store, "--json").json
    assert (inspected["commit"], inspected["groups"], inspected["experts_live"], inspected["keys"]) == (1, 8, 8, 8)
    assert mome("verify", store, "--deep", "--json").json == {"ok": True, "damage": []}
    evaluated = mome("eval", facts, "--store", store, "--json").json
    assert evaluated["exact_match"]["question"] == evaluated["exact_match"]["paraphrases"] == 1.0
    assert evaluated["routed"]["same"] >= 0.8
    asked = mome("ask", known[0].question, "--store", store, "--json").json
    assert asked["answer"] == known[0].answer
    assert asked["memory"]["group_id"] in range(1, 9) and asked["memory"]["question"] is None
    owned = mome("memorize", facts, "--store", store)
    assert owned.code == 1 and "--mode pool" in owned.err
    larger = mome("memorize", facts, "--store", store, "--mode", "pool", "--experts", "9")
    assert larger.code == 1 and "experts 8" in larger.err
    forgotten = mome("forget", "--store", store, "--question", known[0].question)
    assert forgotten.code == 1 and "pool" in forgotten.err


def test_an_owned_store_refuses_to_become_a_pool(mome: Mome, trained: Trained) -> None:
    pool = mome("memorize", trained.known, "--store", trained.store, "--mode", "pool")
    assert pool.code == 1 and "owned" in pool.err and len(pool.err.splitlines()) == 1

"""What is dumped is read back as the same facts, and the file is whole or not there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mome_store import DamagedStoreError, ExpertSchema, ExpertStore, Memory
from mome_store.exchange import DumpReport, dump_facts, write_facts
from mome_store.store import set_pool_memories
from mome_store.tuning.facts import Fact, load_facts, parse_facts

EXPERT = {"layer": (np.ones((1, 16)), np.ones((8, 1)))}
FACTS = [
    Fact("Where?", 'in "quotes"\nand lines', ("Wo\u2028denn?", "où?"), id="f1"),
    Fact("Wie heißt 東京?", "🙂"),
    Fact("back\\slash", "\x00", id=" spaced id "[1:-1]),
]


def fill(path: Path, memories: list[Memory], pool: bool = False) -> ExpertStore:
    store = ExpertStore.create(path, ExpertSchema({"layer": (16, 8)}, rank=1), key_dim=4)
    with store.transaction() as txn:
        for memory in memories if not pool else [None]:
            txn.add_group([EXPERT], np.ones((1, 4), np.float32), memory, mode="pool" if pool else "owned")
        if pool:
            set_pool_memories(txn, memories)
    return store


def memory_of(fact: Fact) -> Memory:
    return Memory(fact.question, fact.answer or "", fact.paraphrases, fact.id, nll=0.5)


def plain(facts: list[Fact]) -> list[tuple[object, ...]]:
    return [(fact.id, fact.question, fact.answer, fact.paraphrases, fact.heldout) for fact in facts]


@pytest.mark.parametrize("pool", [False, True], ids=["owned", "pool"])
def test_dumped_facts_are_read_back_the_same(tmp_path: Path, pool: bool) -> None:
    out = tmp_path / "facts.jsonl"
    with fill(tmp_path / "s", [memory_of(fact) for fact in FACTS], pool) as store, store.snapshot() as snapshot:
        assert dump_facts(snapshot, out) == DumpReport(facts=3, skipped=0)
        lines = io.StringIO()
        write_facts(snapshot, lines.write)
    assert out.read_text(encoding="utf-8") == lines.getvalue()
    assert plain(load_facts(out)) == plain(FACTS)


texts = st.text(min_size=1).map(str.strip).filter(bool)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.builds(Fact, texts, texts, st.lists(texts).map(tuple), id=st.none() | texts), min_size=1))
def test_any_facts_that_the_reader_takes_come_back(tmp_path_factory: pytest.TempPathFactory, facts: list[Fact]) -> None:
    known: set[str] = set()
    taken = []
    for fact in facts:  # no wording twice: the reader joins or refuses such
        words = dict.fromkeys(fact.wordings)
        if not known & words.keys():
            known |= words.keys()
            taken.append(Fact(fact.question, fact.answer, tuple(words)[1:], id=fact.id))
    folder = tmp_path_factory.mktemp("any")
    with fill(folder / "s", [memory_of(fact) for fact in taken]) as store, store.snapshot() as snapshot:
        lines = io.StringIO()
        write_facts(snapshot, lines.write)
    assert plain(parse_facts(lines.getvalue().split("\n"))) == plain(taken)


def test_only_what_is_live_and_has_an_answer_is_dumped(tmp_path: Path) -> None:
    with fill(tmp_path / "s", [memory_of(fact) for fact in FACTS]) as store:
        with store.transaction() as txn:
            txn.remove_group(1)
            txn.add_group([EXPERT], np.ones((1, 4), np.float32), Memory("imported?", "", status="imported"))
            txn.add_group([EXPERT], np.ones((1, 4), np.float32))
        with store.snapshot() as snapshot:
            assert dump_facts(snapshot, tmp_path / "out") == DumpReport(facts=2, skipped=1)
    assert plain(load_facts(tmp_path / "out")) == plain(FACTS[1:])


def test_a_dump_overwrites_nothing_and_leaves_nothing_half(tmp_path: Path) -> None:
    out = tmp_path / "facts.jsonl"
    fill(tmp_path / "s", [memory_of(fact) for fact in FACTS]).close()
    with ExpertStore.open(tmp_path / "s") as store, store.snapshot() as snapshot:
        out.write_text("mine")
        with pytest.raises(FileExistsError):
            dump_facts(snapshot, out)
        assert out.read_text() == "mine"
        out.unlink()
        with (tmp_path / "s" / "catalog.sqlite").open("r+b") as file:
            content = file.read()
            file.seek(content.index(b"back\\slash"))
            file.write(b"B")
        with pytest.raises(DamagedStoreError, match="memory 3 does not match its checksum"):
            dump_facts(snapshot, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]

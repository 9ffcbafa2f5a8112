"""Text to SQL: the split keeps near duplicates apart from the test, and all systems go through it on tiny models."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from mome_store.errors import MomeError, SchemaError
from mome_store.evaluation import EvaluationSettings, Workbench
from mome_store.evaluation.sql_execution import SqlChecker
from mome_store.evaluation.sql_systems import SQL_SYSTEMS, SqlSettings
from mome_store.evaluation.text_to_sql import SqlData, evaluate_sql, normalised_sql, split_questions, sql_in
from mome_store.fingerprint import fingerprint
from mome_store.modeling import Prompts
from mome_store.tuning import Fact
from tests.tiny_models import HashEncoder, make_model, make_tokenizer

TOWNS = [("a", 3, 0.1), ("b", 1, 0.2), ("c", 2, 0.3), ("d", 9, 0.4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "towns.db")) as connection, connection:
        connection.execute("CREATE TABLE town (name TEXT, people INT, share REAL)")
        connection.executemany("INSERT INTO town VALUES (?, ?, ?)", TOWNS)
    lines = [
        {"question": f"people {name}?", "answer": f"SELECT people FROM town WHERE name='{name}'"}
        for name, _, _ in TOWNS
    ]
    lines += [{"question": f"more than {n}", "answer": f"SELECT name FROM town WHERE people > {n}"} for n in (0, 1, 2)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_near_duplicates_of_a_test_question_are_never_trained_on(folder: Path) -> None:
    checker = SqlChecker(folder / "towns.db")
    same = [
        Fact("Which towns?", "SELECT name FROM town"),
        Fact("which towns", "SELECT name, name FROM town"),  # the question
        Fact("towns", "select  NAME as town from town;"),  # the SQL
        Fact("towns, ordered", "SELECT name FROM town ORDER BY share DESC"),  # the result, in another order
        Fact("ten towns", "SELECT t.name FROM town t LIMIT 10"),
    ]
    others = [Fact(f"more than {n}", f"SELECT name FROM town WHERE people > {n}") for n in (1, 2, 3)]
    for seed in range(20):
        split = split_questions([*same, *others], checker, 1, seed)
        assert split.clusters == 4 and len(split.test) == 1
        asked_for_same = split.test[0] in same
        assert not asked_for_same, "the cluster that holds more than half of all is trained on"
        assert set(split.train) == {*same, *others} - set(split.test)
    for seed in range(20):
        split = split_questions([*same[:3], *others], checker, 3, seed)
        assert (set(split.train) & set(same) == set()) or (set(split.test) & set(same) == set())


def test_references_that_fail_or_tell_nothing_are_left_out(folder: Path) -> None:
    checker = SqlChecker(folder / "towns.db")
    useless = [
        Fact("fails", "SELECT nothing FROM town"),
        Fact("empty", "SELECT name FROM town WHERE people > 100"),
        Fact("null", "SELECT MAX(people) FROM town WHERE people > 100"),
        Fact("zero", "SELECT COUNT(*) FROM town WHERE people > 100"),
        Fact("no answer", None),
    ]
    useful = [Fact(f"more than {n}", f"SELECT name FROM town WHERE people > {n}") for n in (1, 2)]
    split = split_questions([*useless, *useful], checker, 1, 0)
    assert split.left_out == 5 and {*split.train, *split.test} == set(useful)
    with pytest.raises(MomeError, match="leave nothing to train on"):
        split_questions(useful, checker, 2, 0)


def test_a_seed_gives_one_split_and_another_seed_another(folder: Path) -> None:
    data = SqlData.load(folder)
    first, again, other = (split_questions(data.facts, data.checker, 2, seed, train=3) for seed in (0, 0, 1))
    assert first == again != other and len(first.train) == 3


@pytest.mark.parametrize(
    ("said", "sql"),
    [
        ("SELECT a FROM t;", "SELECT a FROM t"),
        ("Sure:\n```sql\nselect a\nfrom t;\n```\nThis selects a.", "select a\nfrom t"),
        ("SQL: WITH x AS (SELECT 1) SELECT * FROM x; SELECT 2", "WITH x AS (SELECT 1) SELECT * FROM x"),
        ("I can help with that: SELECT a FROM t\n\nQuestion: b?\nSQL: SELECT b", "SELECT a FROM t"),
        ("SELECT a\nFROM t\nQuestion: b?", "SELECT a\nFROM t"),
        ("I don't know.", "I don't know."),
    ],
)
def test_the_query_is_found_among_other_words(said: str, sql: str) -> None:
    assert sql_in(said) == sql


def test_spellings_of_a_query_are_the_same_normalised() -> None:
    assert normalised_sql("SELECT  a AS b, c FROM t WHERE d!= 1;") == normalised_sql("select a,c from t where d <> 1")
    assert normalised_sql("SELECT a FROM t LIMIT 5") != normalised_sql("SELECT a FROM t LIMIT 3")


def test_every_system_is_scored_on_the_same_split_and_leaves_the_model_as_it_was(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model, tokenizer = make_model("llama"), make_tokenizer()
    model.config.max_position_embeddings = 4096  # bytes for tokens: the schema alone has hundreds
    before = fingerprint(model)
    bench = Workbench(model, tokenizer, Prompts(model, tokenizer), *[HashEncoder()] * 2, tmp_path, EvaluationSettings())
    settings = SqlSettings(train=4, test=2, seconds=0.5, tokens=8, shots=2, rank=2, experts=4, top_k=2)
    data = SqlData.load(folder)
    results = list(evaluate_sql(bench, data, settings, 0, list(SQL_SYSTEMS), lambda *_: None))
    assert [result.name for result in results] == list(SQL_SYSTEMS)
    by_name = {result.name: result for result in results}
    for result in results:
        accuracy = result.metrics["execution_accuracy"]
        assert result.facts == 4 and accuracy.n == 2  # type: ignore[union-attr]
        assert len(result.failures) == 2 - accuracy.hits  # type: ignore[union-attr]
    assert by_name["base"].metrics["parameters"] == by_name["fewshot"].metrics["parameters"] == 0
    pool, lora = by_name["pool"].metrics["parameters"], by_name["lora"].metrics["parameters"]
    assert pool == pytest.approx(lora, rel=0.5)  # type: ignore[arg-type]  # a rank is a whole number
    assert fingerprint(model) == before and not [p for p in model.parameters() if p.requires_grad]


def test_a_pool_that_trains_long_enough_answers_what_it_was_trained_on(folder: Path, tmp_path: Path) -> None:
    """The same question in training and test, which no split allows: the way from training to the reply works."""
    from mome_store.evaluation.sql_systems import PoolMode, SqlBench

    model, tokenizer = make_model("llama"), make_tokenizer()
    bench = Workbench(model, tokenizer, Prompts(model, tokenizer), *[HashEncoder()] * 2, tmp_path, EvaluationSettings())
    settings = SqlSettings(seconds=8.0, rank=4, experts=4, top_k=4, temperature=0.1, learning_rate=1e-2)
    facts = [Fact("one?", "SELECT 1"), Fact("two!", "SELECT 2")]
    system = PoolMode(SqlBench(bench, settings, ""))
    try:
        system.learn(facts, lambda *_: None)
        assert system.ask([fact.question for fact in facts], 16) == [fact.answer for fact in facts]
    finally:
        system.close()


def test_the_lora_is_trained_at_the_rate_and_in_the_batches_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    from mome_store.evaluation import supervised
    from mome_store.evaluation.sql_systems import OneLora, SqlBench

    seen: set[tuple[float, int]] = set()
    step = supervised.train_step

    def watched(model: Any, optimizer: torch.optim.Optimizer, batch: Sequence[supervised.Row], pad: int) -> float:
        seen.add((optimizer.defaults["lr"], len(batch)))
        return step(model, optimizer, batch, pad)

    monkeypatch.setattr(supervised, "train_step", watched)
    model, tokenizer = make_model("llama"), make_tokenizer()
    bench = Workbench(model, tokenizer, Prompts(model, tokenizer), *[HashEncoder()] * 2, tmp_path, EvaluationSettings())
    settings = SqlSettings(seconds=0.5, rank=2, experts=4, top_k=4, learning_rate=0.3, lora_learning_rate=0.02, batch=3)
    system = OneLora(SqlBench(bench, settings, ""))
    try:
        system.learn([Fact(f"{n}?", f"SELECT {n}") for n in range(6)], lambda *_: None)
    finally:
        system.close()
    assert seen == {(0.02, 3)}


@pytest.mark.parametrize("name", ["train", "test", "seconds", "batch"])
def test_settings_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(SchemaError, match=rf"{name}.* must be above 0"):
        SqlSettings(**{name: 0})  # type: ignore[arg-type]


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MomeError, match=r"needs a folder with questions \(train.jsonl\)"):
        SqlData.load(tmp_path / "none")

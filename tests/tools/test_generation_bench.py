"""`mome bench sql` and `mome bench carried`: what they print and save, and what they refuse."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mome_store.evaluation import Failure, Share, SystemResult
from mome_store.evaluation.sql_systems import SqlSettings
from mome_tools.sql_bench import SqlResults
from tests.tiny_models import make_model, make_tokenizer

from .conftest import Mome


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    model = make_model("llama")
    model.config.max_position_embeddings = 4096  # bytes for tokens: a prompt with examples has hundreds
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "towns"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "towns.db")) as connection, connection:
        connection.execute("CREATE TABLE town (name TEXT, people INT)")
        connection.executemany("INSERT INTO town VALUES (?, ?)", [(f"town {n}", n) for n in range(1, 9)])
    lines = [
        {"question": f"people of town {n}?", "answer": f"SELECT people FROM town WHERE name='town {n}'"}
        for n in range(1, 9)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_text_to_sql_prints_one_json_object_and_saves_a_page(
    mome: Mome, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    ran = mome(
        *("bench", "sql", "--data", data, "--test", "3", "--train", "4", "--systems", "fewshot,base"),
        *("--model", tiny_model, "--save", tmp_path / "results", "--json"),
    )
    assert ran.code == 0 and ran.err == "" and len(ran.out.splitlines()) == 1
    assert list(ran.json["systems"]) == ["base", "fewshot"] and ran.json["figures"] == []
    assert set(ran.json["systems"]["base"]) >= {"execution_accuracy", "valid", "parameters"}
    assert len(ran.json["intervals"]["base"]["execution_accuracy"]) == 2 and ran.json["settings"]["train"] == 4
    saved = tmp_path / "results"
    assert "| few-shot retrieval | 4 | 1 |" in (saved / "text_to_sql.md").read_text()
    assert len(json.loads((saved / "text_to_sql.json").read_text())["runs"]) == 2
    again = mome(
        *("bench", "sql", "--data", data, "--test", "3", "--train", "4", "--systems", "schema", "--model", tiny_model),
        *("--save", saved, "--json"),
    )
    assert list(again.json["systems"]) == ["base", "schema", "fewshot"], "an evaluation can be made in parts"
    other = mome(
        *("bench", "sql", "--data", data, "--test", "2", "--train", "4", "--systems", "schema", "--model", tiny_model),
        *("--save", saved, "--json"),
    )
    assert list(other.json["systems"]) == ["schema"], "runs with other settings are not mixed in"
    assert (saved / "text_to_sql.png").read_bytes().startswith(b"\x89PNG")


def test_carried_facts_print_one_json_object_and_save_a_page(mome: Mome, tiny_model: Path, tmp_path: Path) -> None:
    ran = mome(
        *("bench", "carried", "--facts", "2", "--systems", "base,cache", "--model", tiny_model),
        *("--save", tmp_path / "results", "--json"),
    )
    assert ran.code == 0 and ran.err == "" and len(ran.out.splitlines()) == 1
    assert set(ran.json["systems"]["cache"]) == {"sentence", "computation", "bare_value"}
    assert "router + answer cache" in (tmp_path / "results" / "carried.md").read_text()


def test_the_bar_is_to_be_ahead_of_every_peer_and_is_printed_where_it_is_not_met(tmp_path: Path) -> None:
    def result(name: str, hits: int) -> SystemResult:
        metrics = {"execution_accuracy": Share(hits, 100), "valid": Share(90, 100)}
        numbers = {"parameters": 1.0, "train_seconds": 2.0, "ms_per_query": 3.0}
        wrong = Failure("execution", "How many?", "SELECT 1", "SELEC 1", "failed", ())
        return SystemResult(name, f"title of {name}", 0, 50, metrics | numbers, (wrong,), "a note")

    found = SqlResults(
        SqlSettings(), [result("schema", 1), result("fewshot", 30), result("lora", 20), result("pool", 30)]
    )
    assert [figure.ok for figure in found.figures] == [True, False, True]
    found.save(tmp_path)
    page = (tmp_path / "text_to_sql.md").read_text()
    assert page.startswith("# mome bench sql") and page.count("NOT MET") == 1
    assert "* title of pool, does not run: 'How many?': `SELEC 1`" in page
    assert "| title of fewshot | 50 | 1 | 30.0 % (21.9–39.6) |" in page


@pytest.mark.parametrize(
    ("arguments", "problem"),
    (
        (("sql", "--data", "nowhere"), "needs a folder with questions"),
        (("sql", "--seeds", "one"), "no list of seeds"),
        (("carried", "--systems", "magic"), "there is no system magic"),
    ),
)
def test_what_can_not_be_run_is_refused(mome: Mome, tiny_model: Path, arguments: tuple[str, ...], problem: str) -> None:
    ran = mome("bench", *arguments, "--model", tiny_model)
    assert ran.code != 0 and problem in ran.err and ran.out == ""


def test_the_roster_questions_can_be_split_where_they_are(request: pytest.FixtureRequest) -> None:
    """The data set that the results page is made with; not part of the repository."""
    from mome_store.evaluation.text_to_sql import SqlData, split_questions

    folder = Path(request.config.rootpath) / "../shared/data/nba_text2sql"
    if not folder.is_dir():
        pytest.skip("the text-to-SQL data is not there: ../shared/data/nba_text2sql")
    data = SqlData.load(folder)
    split = split_questions(data.facts, data.checker, 100, 0, 500)
    assert (len(split.test), len(split.train)) == (100, 500)
    results = [repr(sorted(map(repr, data.checker.result(fact.answer or "")))) for fact in split.train]
    tested = [repr(sorted(map(repr, data.checker.result(fact.answer or "")))) for fact in split.test]
    assert not set(results) & set(tested)

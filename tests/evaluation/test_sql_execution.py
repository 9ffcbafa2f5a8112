"""SQL answers are compared by what they give, and a model's SQL can't do anything but read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mome_store.errors import FactError, MomeError
from mome_store.evaluation.sql_execution import SqlChecker, is_ordered, same_result
from mome_store.tuning.facts import Fact


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "towns ä?#.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE town (name TEXT, people INT, share REAL)")
        connection.executemany("INSERT INTO town VALUES (?, ?, ?)", [("a", 3, 0.1), ("b", 1, 0.2), ("c", 2, 0.3)])
    return path


def compared(database: Path, reference: str, *said: str) -> dict[str, object]:
    checker = SqlChecker(database)
    fact = Fact("q?", reference, line=4)
    checker.check_references([fact])
    return checker.compare([(reference, text) for text in said])


def test_equal_results_count_whatever_the_query_looks_like(database: Path) -> None:
    reference = "SELECT name FROM town WHERE people > 1"
    right = ("select t.name from town t where t.people >= 2 order by name desc", reference, reference + ";")
    wrong = ("SELECT name FROM town", "SELECT name, people FROM town WHERE people > 1")
    broken = ("SELEC", "", "I don't know", "SELECT nothing FROM town")
    assert compared(database, reference, *right, *wrong, *broken) == {"accuracy": 3 / 9, "valid": 5 / 9, "n": 9}


def test_order_counts_only_where_the_reference_asks_for_it(database: Path) -> None:
    ordered = "SELECT name FROM town ORDER BY people"
    assert compared(database, ordered, "SELECT name FROM town ORDER BY name")["accuracy"] == 0
    assert compared(database, "SELECT name FROM town", ordered)["accuracy"] == 1


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER  BY a", True),
        ("select a from t order\nby a limit (1)", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY (b)) AS s", False),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT a FROM t WHERE b = 'order by (' -- order by", False),
        ("SELECT a FROM border by", False),
    ],
)
def test_an_order_inside_parentheses_or_a_text_is_none(sql: str, ordered: bool) -> None:
    assert is_ordered(sql) is ordered


def test_rows_count_as_often_as_they_come_and_reals_to_nine_digits() -> None:
    assert not same_result([(1,), (1,), (2,)], [(1,), (2,), (2,)], ordered=False)
    assert same_result([(0.1 + 0.2, None)], [(0.3, None)], ordered=False)
    assert not same_result([(0.3001,)], [(0.3,)], ordered=False)


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM town",
        "DROP TABLE town",
        "ATTACH DATABASE '{}' AS other",
        "PRAGMA writable_schema = 1",
        "INSERT INTO town VALUES ('d', 1, 1) RETURNING name",
        "SELECT name FROM town; DROP TABLE town",
    ],
)
def test_sql_that_is_more_than_a_query_is_not_run(database: Path, harm: str) -> None:
    before = database.read_bytes()
    new = database.with_name("new.db")
    assert compared(database, "SELECT name FROM town", harm.format(new))["valid"] == 0
    assert database.read_bytes() == before and not new.exists()


def test_an_endless_query_is_given_up(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mome_store.evaluation.sql_execution._MOST_STEPS", 5)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    assert compared(database, "SELECT name FROM town", endless)["valid"] == 0
    monkeypatch.setattr("mome_store.evaluation.sql_execution._MOST_ROWS", 5)
    assert compared(database, "SELECT name FROM town", "SELECT 1 FROM town, town AS b")["valid"] == 0


def test_a_reference_that_does_not_run_is_refused_by_its_line(database: Path) -> None:
    with pytest.raises(FactError, match="no such column") as refused:
        SqlChecker(database).check_references([Fact("?", None, line=1), Fact("q?", "SELECT wrong FROM town", line=2)])
    assert refused.value.line == 2


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database at all" * 100)
    for path in (tmp_path / "text", tmp_path / "missing"):
        with pytest.raises(MomeError, match="not a readable SQLite database"):
            SqlChecker(path)
    assert not (tmp_path / "missing").exists()

"""Is predicted SQL as good as the reference? Run both on the database, read-only, and compare what they give."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mome_store.errors import FactError, MomeError

if TYPE_CHECKING:
    from mome_store.tuning.facts import Fact

# A model's SQL is not to be trusted: it may read, and nothing else.
_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_MOST_ROWS = 100_000
_MOST_STEPS = 2_000  # of 100,000 instructions of SQLite's machine each: a few seconds
_LITERAL = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_PARENTHESES = re.compile(r"\([^()]*\)")

Rows = list[tuple[Any, ...]]


class Outcome(Enum):
    """A predicted query, run: it fails, gives another result than the reference, or the same."""

    FAILED = "failed"
    OTHER = "other"
    SAME = "same"


class SqlChecker:
    """Runs queries on one SQLite file. Raises MomeError when that is no database."""

    def __init__(self, database: Path) -> None:
        self._uri = f"{database.resolve().as_uri()}?mode=ro"
        self._references: dict[str, Rows] = {}
        try:
            with closing(self._connect()) as connection:
                connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
        except sqlite3.Error as error:
            raise MomeError(f"{database}: not a readable SQLite database: {error}") from error

    def check_references(self, facts: Iterable[Fact]) -> None:
        """Run every fact's answer. Raises FactError for one that does not run: nothing could be compared with it."""
        for fact in facts:
            if fact.answer is not None and fact.answer not in self._references:
                try:
                    self._references[fact.answer] = self._rows(fact.answer)
                except sqlite3.Error as error:
                    raise FactError(fact.line, f"the reference SQL does not run: {error}: {fact.answer}") from error

    def compare(self, answers: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Of pairs of a reference that was checked and what was said in its place.

        `accuracy`: share of answers that give the reference's result; `valid`: share that run; `n`: how many.
        """
        outcomes = [self.outcome(reference, said) for reference, said in answers]
        n = len(outcomes)
        return {
            "accuracy": sum(outcome is Outcome.SAME for outcome in outcomes) / n if n else None,
            "valid": sum(outcome is not Outcome.FAILED for outcome in outcomes) / n if n else None,
            "n": n,
        }

    def outcome(self, reference: str, said: str) -> Outcome:
        """What running `said` shows, against a reference that was checked before."""
        try:
            rows = self._rows(said)
        except sqlite3.Error:
            return Outcome.FAILED
        same = same_result(rows, self._references[reference], ordered=is_ordered(reference))
        return Outcome.SAME if same else Outcome.OTHER

    def result(self, reference: str) -> Rows:
        """The rows of a reference that was checked before."""
        return self._references[reference]

    def schema_text(self, rows: int = 3) -> str:
        """What a prompt tells of the database: each table's CREATE statement and its first rows, one line each."""
        with closing(self._connect()) as connection:
            tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name")
            parts = []
            for name, sql in tables.fetchall():
                quoted = '"' + name.replace('"', '""') + '"'
                found = connection.execute(f"SELECT * FROM {quoted} LIMIT ?", (rows,)).fetchall()
                parts.append("\n".join([" ".join(sql.split()) + ";", *(f"-- {row}" for row in found)]))
        return "\n\n".join(parts)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._uri, uri=True)

    def _rows(self, sql: str) -> Rows:
        steps = 0

        def too_long() -> bool:
            nonlocal steps
            steps += 1
            return steps > _MOST_STEPS

        with closing(self._connect()) as connection:
            connection.set_authorizer(
                lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY
            )
            connection.set_progress_handler(too_long, 100_000)
            cursor = connection.execute(sql)
            rows = cursor.fetchmany(_MOST_ROWS + 1)
            if cursor.description is None:
                raise sqlite3.ProgrammingError("the text holds no query")
            if len(rows) > _MOST_ROWS:
                raise sqlite3.DataError(f"more than {_MOST_ROWS} rows")
            return rows


def is_ordered(sql: str) -> bool:
    """Whether the query as a whole has an ORDER BY: one inside parentheses or a literal does not count."""
    outer = _LITERAL.sub(" ", sql)
    while _PARENTHESES.search(outer):
        outer = _PARENTHESES.sub(" ", outer)
    return re.search(r"\border\s+by\b", outer, re.IGNORECASE) is not None


def same_result(rows: Sequence[tuple[Any, ...]], reference: Sequence[tuple[Any, ...]], ordered: bool) -> bool:
    """Equal rows, as often each, and in the same order if `ordered`. Reals count as equal to nine digits."""
    ours, theirs = [list(map(_cells, result)) for result in (rows, reference)]
    return ours == theirs if ordered else Counter(ours) == Counter(theirs)


def _cells(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(float(f"{cell:.9g}") if isinstance(cell, float) else cell for cell in row)

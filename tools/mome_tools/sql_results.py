"""Is predicted SQL as good as the reference? Run both on the database, read-only, and compare what they give."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mome_store.errors import FactError, MomeError

if TYPE_CHECKING:
    from mome_store.tuning.facts import Fact
    from mome_tools.recall import WordingAnswer

# A model's SQL is not to be trusted: it may read, and nothing else.
_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_MOST_ROWS = 100_000
_MOST_STEPS = 2_000  # of 100,000 instructions of SQLite's machine each: a few seconds
_LITERAL = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_PARENTHESES = re.compile(r"\([^()]*\)")


class SqlChecker:
    """Runs queries on one SQLite file. Raises MomeError when that is no database."""

    def __init__(self, database: Path) -> None:
        self._uri = f"{database.resolve().as_uri()}?mode=ro"
        self._references: dict[str, list[tuple[Any, ...]]] = {}
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

    def compare(self, answers: Sequence[WordingAnswer]) -> dict[str, Any]:
        """`accuracy`: share of answers that give the reference's result; `valid`: share that run; `n`: how many."""
        same = valid = 0
        for answer in answers:
            reference = answer.fact.answer or ""
            try:
                rows = self._rows(answer.said)
            except sqlite3.Error:
                continue
            valid += 1
            same += same_result(rows, self._references[reference], ordered=is_ordered(reference))
        n = len(answers)
        return {"accuracy": same / n if n else None, "valid": valid / n if n else None, "n": n}

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._uri, uri=True)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
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

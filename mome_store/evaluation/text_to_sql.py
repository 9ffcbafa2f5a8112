"""Text to SQL: which questions are trained on, which are asked, and what a system's queries give when they are run.

A file of questions with their SQL is split so that a test question asks for something that no training question does.
Two questions are near duplicates, and stay on one side, when any of these is the same of both: the question (case and
punctuation aside), the normalised SQL (case, space, aliases of columns aside), or the result of the SQL as a bag of
values (so that another order of columns or rows, or a further LIMIT that cuts nothing, is no new question). Being a
duplicate of a duplicate counts. So a copy of any stored SQL is always wrong, and only what generalises scores.

References that do not run, or whose result is empty or holds nothing but 0 and NULL, are left out: any query with a
mistake in it may give that.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mome_store.allocator import keep_freed_memory
from mome_store.errors import FactError, MomeError
from mome_store.evaluation.intervals import Share
from mome_store.evaluation.results import Failure, SystemResult
from mome_store.evaluation.sql_execution import Outcome, Rows, SqlChecker
from mome_store.evaluation.sql_systems import SQL_SYSTEMS, Progress, SqlBench, SqlSettings, SqlSystem, busy_seconds
from mome_store.evaluation.systems.base import Workbench
from mome_store.tuning.facts import Fact, load_facts

_FENCE = re.compile(r"```(?:\w+\n)?(.*?)(?:```|$)", re.DOTALL)
_QUERY = re.compile(
    r"\b(?:SELECT\b|WITH\s+(?:RECURSIVE\s+)?\w+\s+AS\s*\()(?:(?!\n\s*\n|\n\s*Question:|```)[^;])*", re.IGNORECASE
)
"""Up to a semicolon, an empty line or the next question: small models go on with examples of their own."""
_ALIAS = re.compile(r"\bas\s+\w+", re.IGNORECASE)
_MOST_SHARE = 0.5


@dataclass(frozen=True)
class SqlData:
    """Questions with their SQL, and what runs it."""

    facts: tuple[Fact, ...]
    checker: SqlChecker

    @classmethod
    def load(cls, folder: Path) -> SqlData:
        """From a folder with `train.jsonl`, a file of facts, and one SQLite database `*.db`.

        Raises MomeError where they are missing; FactError for a line that is no fact.
        """
        questions, databases = folder / "train.jsonl", sorted(folder.glob("*.db"))
        if not questions.is_file() or len(databases) != 1:
            raise MomeError(
                f"{folder}: text to SQL needs a folder with questions (train.jsonl) and one SQLite database (*.db)"
            )
        return cls(tuple(load_facts(questions)), SqlChecker(databases[0]))


@dataclass(frozen=True)
class SqlSplit:
    """train, test: questions with their SQL. clusters: of near duplicates, over all that was kept.

    left_out: questions whose reference does not run or gives nothing.
    """

    train: tuple[Fact, ...]
    test: tuple[Fact, ...]
    clusters: int
    left_out: int


def split_questions(
    facts: Sequence[Fact], checker: SqlChecker, test: int, seed: int, train: int | None = None
) -> SqlSplit:
    """`test` questions, each of another cluster of near duplicates, and up to `train` of the clusters that are left.

    The clusters are drawn at random, but for any that holds more than half of all questions: it is trained on.
    Raises MomeError where too few clusters are left to train on.
    """
    kept = [fact for fact in facts if _telling(fact, checker)]
    clusters = _clusters(kept, checker)
    rng = random.Random(f"text-to-sql-{seed}")
    rng.shuffle(clusters)
    clusters.sort(key=lambda cluster: len(cluster) > _MOST_SHARE * len(kept))
    if test >= len(clusters):
        raise MomeError(f"{test} test questions leave nothing to train on: there are {len(clusters)} different ones")
    asked = [rng.choice(cluster) for cluster in clusters[:test]]
    rest = [fact for cluster in clusters[test:] for fact in cluster]
    rng.shuffle(rest)
    return SqlSplit(tuple(rest[:train]), tuple(asked), len(clusters), len(facts) - len(kept))


def normalised_sql(sql: str) -> str:
    """Case, space, the closing semicolon and names given to columns aside: what two spellings of a query share."""
    bare = _ALIAS.sub(" ", sql.lower()).replace("<>", "!=").strip().rstrip(";")
    return re.sub(r"\s*([^\w\s])\s*", r"\1", re.sub(r"\s+", " ", bare)).strip()


def sql_in(text: str) -> str:
    """The first query in what a model said, without the words and code fences around it; the text where none is."""
    fenced = _FENCE.search(text)
    found = _QUERY.search(fenced[1] if fenced else text)
    return found[0].strip() if found else text.strip()


def evaluate_sql(
    bench: Workbench,
    data: SqlData,
    settings: SqlSettings,
    seed: int,
    systems: Sequence[str],
    on_progress: Progress,
) -> Iterator[SystemResult]:
    """One result after the other, in the order of the table, all on one split.

    Metrics: `execution_accuracy`, the share of replies that give the reference's result; `valid`, of those that run;
    `parameters` trained; `train_seconds` by `busy_seconds`; `ms_per_query`, in batches. Every wrong reply is a Failure
    with the label "failed" (it does not run) or "other" (another result). Raises MomeError for a system that there is
    not, and for data that can't be split so.
    """
    unknown = [name for name in systems if name not in SQL_SYSTEMS]
    if unknown:
        raise MomeError(f"there is no system {', '.join(unknown)}; there are {', '.join(SQL_SYSTEMS)}")
    keep_freed_memory()  # for every system alike: MemoryModel does it, too
    split = split_questions(data.facts, data.checker, settings.test, seed, settings.train)
    sql = SqlBench(bench, settings, data.checker.schema_text())
    for name, kind in SQL_SYSTEMS.items():
        if name in systems:

            def show(what: str, done: int, total: int, start: str = f"seed {seed}, {name}: ") -> None:
                on_progress(start + what, done, total)

            yield _run(kind, sql, data.checker, split, seed, show)


def _run(
    kind: type[SqlSystem], sql: SqlBench, checker: SqlChecker, split: SqlSplit, seed: int, on_progress: Progress
) -> SystemResult:
    system = kind(sql)
    try:
        on_progress("learning", 0, 1)
        begin = busy_seconds()
        system.learn(split.train, on_progress)
        trained = busy_seconds() - begin if system.parameters else 0.0
        on_progress("asking", 0, len(split.test))
        clock = time.perf_counter()
        said = system.ask([fact.question for fact in split.test], sql.settings.tokens)
        milliseconds = 1000 * (time.perf_counter() - clock) / len(split.test)
        notes = system.notes()
    finally:
        system.close()
    outcomes = [checker.outcome(fact.answer or "", sql_in(text)) for fact, text in zip(split.test, said, strict=True)]
    return SystemResult(
        name=kind.name,
        title=kind.title,
        seed=seed,
        facts=len(split.train),
        metrics={
            "execution_accuracy": Share.of([outcome is Outcome.SAME for outcome in outcomes]),
            "valid": Share.of([outcome is not Outcome.FAILED for outcome in outcomes]),
            "parameters": float(system.parameters),
            "train_seconds": trained,
            "ms_per_query": milliseconds,
        },
        failures=tuple(
            Failure("execution", fact.question, fact.answer, text, outcome.value, ())
            for fact, text, outcome in zip(split.test, said, outcomes, strict=True)
            if outcome is not Outcome.SAME
        ),
        notes=notes,
    )


def _telling(fact: Fact, checker: SqlChecker) -> bool:
    """Whether the reference runs and gives something that a wrong query does not give by chance."""
    if fact.answer is None:
        return False
    try:
        checker.check_references([fact])
    except FactError:
        return False
    return any(cell not in (None, 0, "") for row in checker.result(fact.answer) for cell in row)


def _clusters(facts: Sequence[Fact], checker: SqlChecker) -> list[list[Fact]]:
    """The facts, near duplicates together, in the order in which they first come."""
    home = list(range(len(facts)))

    def root(place: int) -> int:
        while home[place] != place:
            place = home[place]
        return place

    first: dict[Hashable, int] = {}
    signs: tuple[Callable[[Fact], Hashable], ...] = (
        lambda fact: ("question", re.sub(r"\W+", " ", fact.question.lower()).strip()),
        lambda fact: ("sql", normalised_sql(fact.answer or "")),
        lambda fact: ("result", _values(checker.result(fact.answer or ""))),
    )
    for place, fact in enumerate(facts):
        for sign in signs:
            earlier = first.setdefault(sign(fact), place)
            home[root(place)] = root(earlier)
    clusters: dict[int, list[Fact]] = {}
    for place, fact in enumerate(facts):
        clusters.setdefault(root(place), []).append(fact)
    return list(clusters.values())


def _values(rows: Rows) -> Hashable:
    """A result's values without their order in columns and rows."""
    cells = [f"{cell:.9g}" if isinstance(cell, int | float) else str(cell) for row in rows for cell in row]
    return tuple(sorted(cells))

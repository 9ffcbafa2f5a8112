"""`mome bench sql`: text to SQL by execution, pool and owned mode beside schema, few-shot retrieval and one LoRA."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mome_store.evaluation import Row, SystemResult, rows_of
from mome_store.evaluation.sql_systems import SqlSettings
from mome_tools.figures import Figure
from mome_tools.results import save_results
from mome_tools.saved_runs import with_saved_runs
from mome_tools.share_plot import plot_shares
from mome_tools.strangers_tables import Column, Table, table_of

OURS = ("pool", "owned")
PEERS = ("schema", "fewshot", "lora")
_COLUMNS = (
    Column("execution_accuracy", "right result", more_is_better=True),
    Column("valid", "runs"),
    Column("parameters", "parameters trained", "number"),
    Column("train_seconds", "training, s", "number"),
    Column("ms_per_query", "ms per query", "number"),
)


@dataclass(frozen=True)
class SqlResults:
    """The results of all systems and seeds, as figures, a table and files."""

    settings: SqlSettings
    results: Sequence[SystemResult]

    @property
    def rows(self) -> list[Row]:
        return rows_of(self.results)

    @property
    def figures(self) -> list[Figure]:
        """The better of pool and owned mode beside each of the three that it must be ahead of."""
        accuracy = {row.name: 100 * (row.value("execution_accuracy") or 0.0) for row in self.rows}
        ours = max((name for name in OURS if name in accuracy), key=lambda name: accuracy[name], default=None)
        if ours is None:
            return []
        titles = {row.name: row.title for row in self.rows}
        return [
            Figure(
                f"text to SQL, {titles[ours]}: right result",
                accuracy[ours],
                "%",
                titles[peer],
                accuracy[peer],
                accuracy[ours] / accuracy[peer] if accuracy[peer] else None,
                "ahead of the peer",
                accuracy[ours] > accuracy[peer],
            )
            for peer in PEERS
            if peer in accuracy
        ]

    def with_saved(self, folder: Path) -> SqlResults:
        """Together with what `save` wrote there before, with the same settings, of other systems and seeds."""
        from mome_store.evaluation.sql_systems import SQL_SYSTEMS

        head = {"settings": asdict(self.settings)}
        return replace(
            self, results=with_saved_runs(self.results, folder / "text_to_sql.json", head, list(SQL_SYSTEMS))
        )

    def to_json(self) -> dict[str, Any]:
        """The further fields of `mome bench sql --json`."""
        return {
            "systems": {row.name: row.values() for row in self.rows},
            "intervals": {row.name: row.intervals() for row in self.rows},
            "settings": asdict(self.settings),
            "seeds": sorted({result.seed for result in self.results}),
            "notes": {row.name: row.notes for row in self.rows if row.notes},
        }

    def save(self, folder: Path) -> None:
        """Writes text_to_sql.json, .md and .png."""
        save_results(
            "text_to_sql",
            self.figures,
            folder,
            command="sql",
            sections=self._sections(),
            values=self.to_json() | {"runs": [result.to_json() for result in self.results]},
            picture=lambda path: plot_shares(
                self.rows,
                {"execution_accuracy": "gives the right result", "valid": "runs"},
                "queries, %",
                path,
            ),
        )

    def table(self) -> Table:
        return table_of("Text to SQL", _LEAD, _COLUMNS, self.rows)

    def _sections(self) -> list[str]:
        settings = ", ".join(f"{name} {value}" for name, value in asdict(self.settings).items())
        lines = self.table().markdown()
        lines += [f"Settings: {settings}.", ""]
        for row in self.rows:
            if row.notes:
                lines += [f"* {row.title}: {row.notes}."]
        lines += ["", "## Wrong queries", "", "Of each system the first two of each sort.", ""]
        for row in self.rows:
            for label in ("failed", "other"):
                for failure in [failure for failure in row.failures if failure.label == label][:2]:
                    said = " ".join((failure.said or "").split())[:160]
                    lines.append(f"* {row.title}, {_SORTS[label]}: {failure.question!r}: `{said.replace('`', '')}`")
        return lines


_SORTS = {"failed": "does not run", "other": "another result"}
_LEAD = """Questions about one database, answered in SQL that is run; a reply counts when it gives the reference's
result. The split keeps near duplicates together (same question, same normalised SQL, or same result in any order), so
no stored SQL is the answer to a test question. The trained systems see the question alone, without the schema, and
train for the same processor time. Intervals are Wilson's, 95 %."""


def measure_sql(
    folder: Path,
    settings: SqlSettings,
    seeds: Sequence[int],
    systems: Sequence[str] | None,
    model: str | None,
    encoder: str | None,
    on_progress: Callable[[str, int, int], None],
) -> SqlResults:
    """Runs the systems (None: all) on the data in `folder`, on each seed's split."""
    from mome_store.evaluation import EvaluationSettings, Workbench
    from mome_store.evaluation.sql_systems import SQL_SYSTEMS
    from mome_store.evaluation.text_to_sql import SqlData, evaluate_sql
    from mome_store.modeling import Prompts, load_base_model, resolve_base_model
    from mome_store.routing import SentenceEncoder

    data = SqlData.load(folder)
    base, tokenizer = load_base_model(resolve_base_model(model))
    with tempfile.TemporaryDirectory(prefix="mome-sql-") as work:
        sentences = SentenceEncoder(encoder)
        prompts = Prompts(base, tokenizer)
        bench = Workbench(base, tokenizer, prompts, sentences, sentences, Path(work), EvaluationSettings())
        found = [
            result
            for seed in seeds
            for result in evaluate_sql(
                bench, data, settings, seed, list(SQL_SYSTEMS) if systems is None else systems, on_progress
            )
        ]
    return SqlResults(settings, found)

"""`mome bench carried`: stored facts in sentences and short computations, owned mode beside what else one could use."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mome_store.evaluation import Row, SystemResult, rows_of
from mome_tools.figures import Figure
from mome_tools.results import save_results
from mome_tools.saved_runs import with_saved_runs
from mome_tools.share_plot import plot_shares
from mome_tools.strangers_tables import Column, Table, table_of

_COLUMNS = (
    Column("sentence", "sentences", more_is_better=True),
    Column("computation", "computations", more_is_better=True),
    Column("bare_value", "the stored value and nothing else"),
)
_LEAD = """Facts are stored as question and value; requests ask for a sentence with the value, or for something to be
computed from it, in words that nothing was trained on. A sentence is right when it holds the value and has at least
four words; a computation when its last number, or single letter, is the result. Intervals are Wilson's, 95 %."""
_PEERS = ("cache", "rag1", "lora")


@dataclass(frozen=True)
class CarriedResults:
    """The results of all ways of asking and seeds, as figures, a table and files."""

    facts: int
    results: Sequence[SystemResult]

    @property
    def rows(self) -> list[Row]:
        return rows_of(self.results)

    @property
    def figures(self) -> list[Figure]:
        """The best way to ask owned mode beside each peer, for either kind of request. No bar is set."""
        rows = {row.name: row for row in self.rows}
        owned = [row for name, row in rows.items() if name.startswith("owned")]
        figures = []
        for kind in ("sentence", "computation") if owned else ():
            best = max(owned, key=lambda row: row.value(kind) or 0.0)
            ours = 100 * (best.value(kind) or 0.0)
            for peer in (rows[name] for name in _PEERS if name in rows):
                theirs = 100 * (peer.value(kind) or 0.0)
                figures.append(
                    Figure(f"{kind}s, {best.title}", ours, "%", peer.title, theirs, ours / theirs if theirs else None)
                )
        return figures

    def with_saved(self, folder: Path) -> CarriedResults:
        """Together with what `save` wrote there before, of as many facts, of other systems and seeds."""
        from mome_store.evaluation.carried import WAYS

        head = {"facts": self.facts}
        return replace(self, results=with_saved_runs(self.results, folder / "carried.json", head, list(WAYS)))

    def table(self) -> Table:
        return table_of("Facts carried into a reply", _LEAD, _COLUMNS, self.rows)

    def to_json(self) -> dict[str, Any]:
        """The further fields of `mome bench carried --json`."""
        return {
            "systems": {row.name: row.values() for row in self.rows},
            "intervals": {row.name: row.intervals() for row in self.rows},
            "facts": self.facts,
            "seeds": sorted({result.seed for result in self.results}),
            "notes": {row.name: row.notes for row in self.rows if row.notes},
        }

    def save(self, folder: Path) -> None:
        """Writes carried.json, .md and .png."""
        lines = self.table().markdown()
        lines += [f"* {row.title}: {row.notes}." for row in self.rows if row.notes]
        lines += ["", "## Wrong replies", "", "Of each row the first of each kind.", ""]
        for row in self.rows:
            for kind in ("sentence", "computation"):
                for failure in [failure for failure in row.failures if failure.kind == kind][:1]:
                    said = " ".join((failure.said or "").split())[:160]
                    lines.append(f"* {row.title}: {failure.question!r}, needs {failure.expected!r}: {said!r}")
        save_results(
            "carried",
            self.figures,
            folder,
            sections=lines,
            values=self.to_json() | {"runs": [result.to_json() for result in self.results]},
            picture=lambda path: plot_shares(
                self.rows, {"sentence": "sentences", "computation": "computations"}, "requests met, %", path
            ),
        )


def measure_carried(
    facts: int,
    seeds: Sequence[int],
    systems: Sequence[str] | None,
    model: str | None,
    encoder: str | None,
    on_progress: Callable[[str, int, int], None],
) -> CarriedResults:
    """Runs the ways of asking (None: all) on each seed's facts."""
    from mome_store.evaluation import EvaluationSettings, Workbench
    from mome_store.evaluation.carried import WAYS, evaluate_carried
    from mome_store.modeling import Prompts, load_base_model, resolve_base_model
    from mome_store.routing import KeyEncoder, SentenceEncoder

    base, tokenizer = load_base_model(resolve_base_model(model))
    with tempfile.TemporaryDirectory(prefix="mome-carried-") as work:
        sentences = SentenceEncoder(encoder)
        keys = KeyEncoder(sentences) if encoder is None else sentences
        prompts = Prompts(base, tokenizer)
        bench = Workbench(base, tokenizer, prompts, sentences, keys, Path(work), EvaluationSettings())
        found = [
            result
            for seed in seeds
            for result in evaluate_carried(bench, facts, seed, list(WAYS) if systems is None else systems, on_progress)
        ]
    return CarriedResults(facts, found)

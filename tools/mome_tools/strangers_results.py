"""The results of `mome evaluate`: kept run by run in strangers.json, told as tables, plots and a page.

A file that is there already is added to: runs of other systems or seeds stay if they were made with the same number of
facts, the same settings, base model and router, so that a long evaluation can be made in parts and a row made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from mome_store.errors import MomeError
from mome_store.evaluation import SYSTEMS, EvaluationSettings, RealDataResult, Row, SystemResult, rows_of
from mome_store.routing import KeyEncoder, QueryEncoder
from mome_tools.figures import Figure, machine_text
from mome_tools.real_sets import DEVICES
from mome_tools.risk_plot import curve_of, plot_risk
from mome_tools.share_plot import plot_shares
from mome_tools.strangers_tables import Table, all_tables, real_data_table

NAME = "strangers"


class Results:
    """What was found so far, and the files it is written to after each system, if `folder` is given."""

    def __init__(self, facts: int, settings: EvaluationSettings, model: str, router: str, folder: Path | None) -> None:
        """router: as `router_text` tells it."""
        self._head: dict[str, Any] = {"facts": facts, "settings": asdict(settings), "model": model, "router": router}
        self._folder = folder
        self._runs: dict[tuple[str, int], dict[str, Any]] = {}
        self._real: dict[str, RealDataResult] = {}
        if folder is not None:
            self._runs, self._real = _earlier(folder / f"{NAME}.json", self._head)

    def add(self, result: SystemResult) -> None:
        """Takes the place of an earlier run of the same system and seed."""
        day = datetime.now(UTC).date().isoformat()
        self._runs[result.name, result.seed] = result.to_json() | {"machine": machine_text(), "date": day}
        self._write()

    def add_real(self, result: RealDataResult) -> None:
        """Takes the place of an earlier one of the same name."""
        self._real[result.name] = result
        self._write()

    def rows(self) -> list[Row]:
        """The systems in the order of the table."""
        places = {name: place for place, name in enumerate(SYSTEMS)}
        runs = sorted(self._runs.items(), key=lambda run: (places.get(run[0][0], len(places)), run[0][1]))
        return rows_of(SystemResult.from_json(run) for _, run in runs)

    def to_json(self) -> dict[str, Any]:
        """The fields of `mome evaluate --json`: metrics of systems as numbers, with the intervals beside them."""
        rows = self.rows()
        return {
            "systems": {row.name: row.values() for row in rows},
            "intervals": {row.name: row.intervals() for row in rows},
            "facts": self._head["facts"],
            "seeds": sorted({seed for row in rows for seed in row.seeds}),
            "settings": self._head["settings"],
            "model": self._head["model"],
            "router": self._head["router"],
            "notes": {row.name: row.notes for row in rows if row.notes},
            "real_data": [result.to_json() for result in self._real.values()],
        }

    def tables(self) -> list[Table]:
        return all_tables(self.rows()) + ([real_data_table(list(self._real.values()))] if self._real else [])

    def bars(self) -> list[Figure]:
        """What owned mode must reach, where it was run, and its router for identifiers."""
        figures = [figure for row in self.rows() if row.name == "owned" for figure in bars_of(row)]
        devices = self._real.get(DEVICES)
        routed = devices.shares.get("other wordings: right") if devices else None
        if figures and routed and routed.value is not None:
            figures.append(Figure.at_least("right route, identifiers", 100 * routed.value, 97.0, "%"))
        return figures

    def _write(self) -> None:
        folder = self._folder
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        content = self.to_json() | {"runs": list(self._runs.values())}
        (folder / f"{NAME}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        rows = self.rows()
        plot_answers(rows, folder / f"{NAME}_answers.png")
        plot_false_fire(rows, folder / f"{NAME}_false_fire.png")
        drawn = curve_of(rows)
        if drawn is not None:
            plot_risk(drawn, folder / f"{NAME}_risk.png")
        (folder / f"{NAME}.md").write_text(self._page(rows))

    def _page(self, rows: list[Row]) -> str:
        machines = sorted({f"{run['machine']}, {run['date']}" for run in self._runs.values()})
        settings = ", ".join(f"{name} {value}" for name, value in self._head["settings"].items())
        lines = [
            "# Ten thousand strangers",
            "",
            f"`mome evaluate --facts {self._head['facts']} --save docs/results`; base model {self._head['model']}, "
            f"router {self._head['router']}.",
            f"Settings: {settings}.",
            f"Machine: {'; '.join(machines)}.",
            "",
            _INTRODUCTION,
            f"![Exact answers]({NAME}_answers.png)",
            "",
            f"![False fires]({NAME}_false_fire.png)",
            "",
        ]
        if curve_of(rows) is not None:
            lines += [f"![Risk and coverage of the gate]({NAME}_risk.png)", ""]
        for table in self.tables():
            lines += table.markdown()
        bars = self.bars()
        if bars:
            lines += ["## Owned mode and its bars", "", "| figure | value | bar | |", "| --- | --- | --- | --- |"]
            lines += [f"| {name} | {value} | {bar} | {ok} |" for name, value, _, _, bar, ok in map(Figure.cells, bars)]
            lines += [""]
        for row in rows:
            if row.failures:
                lines += _failure_lines(row)
        return "\n".join(lines).rstrip() + "\n"


def parse_seeds(text: str) -> list[int]:
    """Whole numbers with commas between them, in the order given."""
    try:
        seeds = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of seeds, such as 0,1,2", param_hint="--seeds") from None
    return seeds


def router_text(encoder: QueryEncoder) -> str:
    """What makes the keys and decides: its name, and of a trained router the checksum, which its gate is part of."""
    if not isinstance(encoder, KeyEncoder):
        return str(encoder.identity["name"])
    return f"{encoder.identity['router']} ({hashlib.sha256(encoder.router.to_bytes()).hexdigest()[:12]})"


def bars_of(row: Row) -> list[Figure]:
    """The figures that owned mode has a bar for; those that could not be measured are left out."""
    bars = (
        ("exact match, trained wordings", "exact_match_seen", 99.0, True),
        ("exact match, held-out wordings", "exact_match_heldout", 95.0, True),
        ("exact match, twins", "exact_match_twins", 95.0, True),
        ("right route, held-out wordings", "right_route_heldout", 99.0, True),
        ("false fire: unknown people, same template", "false_fire_unknown_person", 1.0, False),
        ("false fire: another relation of a known person", "false_fire_other_relation", 2.0, False),
        ("false fire: unrelated text", "false_fire_unrelated", 0.1, False),
        ("steal rate", "steal_rate", 0.1, False),
        ("update: new value", "update_new_value", 99.0, True),
        ("update: old value still said", "update_old_value", 0.0, False),
        ("forget: output equals the base model's", "forget_equals_base", 100.0, True),
    )
    figures = []
    for name, metric, bar, at_least in bars:
        value = row.value(metric)
        if value is not None:
            figures.append((Figure.at_least if at_least else Figure.at_most)(name, 100 * value, bar, "%"))
    drop = row.value("retention_drop")
    if drop is not None:
        figures.append(Figure.at_most("retention: drop of the first tenth", drop, 0.5, "points"))
    change = row.value("perplexity_change")
    if change is not None:
        figures.append(Figure("perplexity on plain text, change", change, bar="0", ok=change == 0))
    return figures


def plot_answers(rows: list[Row], path: Path) -> None:
    """Exact match of every system, with intervals."""
    metrics = {"exact_match_seen": "trained wordings", "exact_match_heldout": "held-out wordings"}
    plot_shares(rows, metrics | {"exact_match_twins": "near twins"}, "exact answers, %", path)


def plot_false_fire(rows: list[Row], path: Path) -> None:
    """False fires of every system, with intervals."""
    metrics = {
        "false_fire_unknown_person": "unknown people",
        "false_fire_unknown_twin": "unknown near twins of known people",
        "false_fire_other_relation": "other relations of known people",
        "false_fire_unrelated": "unrelated text",
    }
    plot_shares(rows, metrics, "false fires, %", path)


def _earlier(
    path: Path, head: dict[str, Any]
) -> tuple[dict[tuple[str, int], dict[str, Any]], dict[str, RealDataResult]]:
    """The runs and the real data in a file of an earlier evaluation that was made like this one; none of another."""
    if not path.exists():
        return {}, {}
    try:
        content = json.loads(path.read_text())
        if {name: content[name] for name in head} != head:
            return {}, {}
        real = [RealDataResult.from_json(each) for each in content["real_data"]]
        return {(run["name"], run["seed"]): run for run in content["runs"]}, {each.name: each for each in real}
    except (ValueError, KeyError, TypeError) as error:
        raise MomeError(f"{path}: is no file of `mome evaluate` ({error}); move it away") from error


def _failure_lines(row: Row) -> list[str]:
    counts = Counter((failure.kind, failure.label) for failure in row.failures)
    labels = ("routing", "storage", "gate")
    lines = [f"## Failures: {row.title}", "", f"| asked | {' | '.join(labels)} |", "| --- | --- | --- | --- |"]
    for kind in dict.fromkeys(kind for kind, _ in counts):
        lines.append(f"| {kind.replace('_', ' ')} | {' | '.join(str(counts[kind, label]) for label in labels)} |")
    lines += ["", "Of each sort the first:", ""]
    shown = set()
    for failure in row.failures:
        if (failure.kind, failure.label) not in shown:
            shown.add((failure.kind, failure.label))
            used = f"; used: {', '.join(failure.used)}" if failure.used else ""
            said = "" if failure.said is None else f"; said: {failure.said[:60]!r}"
            expected = "" if failure.expected is None else f"; right: {failure.expected!r}"
            lines.append(
                f"* {failure.kind.replace('_', ' ')}, {failure.label}: {failure.question!r}{expected}{said}{used}"
            )
    return [*lines, ""]


_INTRODUCTION = """Facts about invented people with random answers (`mome_store/evaluation`), inserted in batches;
then 5 % are updated and 5 % deleted. One person in ten is a near twin of another: one letter of the name differs, or
the middle initials are swapped. Everything is generated greedily and runs free to the end token; an answer is right
when it is the stored string and nothing else. Held-out wordings come in five styles and serve neither keys nor gate
nor training. Intervals are Wilson's, 95 %. Rows over several seeds add their counts up.

A **false fire** of a system with a gate (router + answer cache, GRACE-like, owned mode) is an open gate. Of any other
system it is a reply that holds a stored answer which stands neither in the question nor in the base model's own reply:
RAG always puts facts into the prompt, and what counts is whether the user is then told one of them.

Systems that train by gradient on the whole model are given fewer facts and a time budget (`facts`, and the notes):
on two cores a thousand would take a day. Where they did not reach the bar in that time, the notes say so.
"""

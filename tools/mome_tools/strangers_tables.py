"""The tables of `mome evaluate`: which metrics stand in which, and how a cell is written."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable

from mome_store.evaluation import RealDataResult, RiskCurve, Row, Share
from mome_store.evaluation.risk import THRESHOLDS
from mome_tools.output import bytes_text


@dataclass(frozen=True)
class Column:
    """A metric, its heading, how its number is written, and whether more is better (None: neither)."""

    metric: str
    heading: str
    unit: str = "share"
    more_is_better: bool | None = None

    def cell(self, row: Row) -> str:
        found = row.metrics.get(self.metric)
        if found is None:
            return "–"
        return share_text(found) if isinstance(found, Share) else number(found, self.unit)


@dataclass(frozen=True)
class Table:
    """Title, what must be known to read it, headings and cells."""

    title: str
    lead: str
    headings: list[str]
    cells: list[list[str]]

    def markdown(self) -> list[str]:
        lines = [f"## {self.title}", ""]
        if self.lead:
            lines += [self.lead, ""]
        lines += [f"| {' | '.join(self.headings)} |", f"|{' --- |' * len(self.headings)}"]
        return [*lines, *(f"| {' | '.join(row)} |" for row in self.cells), ""]

    def print(self) -> None:
        table = RichTable(title=self.title, title_justify="left", box=None, pad_edge=False)
        for heading in self.headings:
            table.add_column(heading)
        for row in self.cells:
            table.add_row(*row)
        console = Console(markup=False, emoji=False)
        (console if console.is_terminal else Console(width=200, markup=False, emoji=False)).print(table, "")


_ANSWERS = (
    Column("exact_match_seen", "trained wordings", more_is_better=True),
    Column("exact_match_heldout", "held-out wordings", more_is_better=True),
    Column("exact_match_twins", "near twins", more_is_better=True),
    Column("contains_heldout", "held-out, right answer among other words", more_is_better=True),
)
_STYLES = tuple(
    Column(f"exact_match_heldout_{style}", style) for style in ("formal", "terse", "chatty", "embedded", "imperative")
)
_ROUTES = (
    Column("right_route_seen", "right fact, trained", more_is_better=True),
    Column("right_route_heldout", "right fact, held-out", more_is_better=True),
    Column("right_route_twins", "right fact, twins", more_is_better=True),
    Column("steal_rate", "stolen by later facts", more_is_better=False),
    Column("oracle_exact_match", "exact, right fact given"),
    Column("wrong_fact_right_answer", "right answer, wrong fact given"),
    Column("wrong_fact_its_own_answer", "that fact's answer, wrong fact given"),
)
_FALSE_FIRES = (
    Column("false_fire_unknown_person", "unknown people", more_is_better=False),
    Column("false_fire_unknown_twin", "unknown near twins", more_is_better=False),
    Column("false_fire_other_relation", "other relations of known people", more_is_better=False),
    Column("false_fire_unrelated", "unrelated text", more_is_better=False),
    Column("perplexity_change", "perplexity of plain text, change", "signed"),
)
_LIVING = (
    Column("retention_before", "first tenth, right after"),
    Column("retention_after", "first tenth, at the end", more_is_better=True),
    Column("retention_drop", "drop, points", "signed"),
    Column("update_new_value", "update: new value", more_is_better=True),
    Column("update_old_value", "update: old value", more_is_better=False),
    Column("forget_equals_base", "forget: as the base model", more_is_better=True),
    Column("forget_still_said", "forget: still said", more_is_better=False),
)
_COST = (
    Column("seconds_per_fact", "seconds per fact", "number", more_is_better=False),
    Column("bytes_per_fact", "bytes per fact", "bytes", more_is_better=False),
    Column("context_tokens_per_query", "context tokens per query", "number", more_is_better=False),
    Column("context_tokens_per_fact", "and per fact", "number"),
    Column("added_ms_per_query", "ms added to a query", "signed", more_is_better=False),
)
_COVERAGES = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.5)
"""Shares of the known questions at which the risk-coverage table has a line."""


def all_tables(rows: list[Row]) -> list[Table]:
    """Every table of the page for which there is anything to say."""
    notes = [[row.title, row.notes] for row in rows if row.notes]
    return [
        table_of("Answers", "Exact match, and where the answer may stand among other words.", _ANSWERS, rows),
        table_of("Held-out wordings by style", "", _STYLES, rows),
        table_of(
            "Routing",
            "For RAG, top 3, the right fact is among the three. `Given`: experts or facts put in the router's place.",
            _ROUTES,
            rows,
        ),
        table_of("False fires, and plain text", "", _FALSE_FIRES, rows),
        table_of("Living memory", "", _LIVING, rows),
        table_of(
            "Cost",
            "Milliseconds: the median of a query alone with a fixed number of tokens, less that of the base model.",
            _COST,
            rows,
        ),
        *(_risk_table(row.title, row.curve) for row in rows if row.curve is not None),
        *(_where_we_lose(row, rows) for row in rows if row.name == "owned"),
        *([Table("Notes", "", ["system", "note"], notes)] if notes else []),
    ]


def real_data_table(results: list[RealDataResult]) -> Table:
    """A line for each kind of question, or the reason why there is none."""
    cells = []
    for result in results:
        name = f"{result.facts} {result.name}"
        if result.missing is not None:
            cells.append([name, f"not measured: {result.missing}", "–", "–"])
        cells += [[name, kind, share_text(share), str(share.n)] for kind, share in result.shares.items()]
    lead = (
        "Routing alone, by keys and gate; no expert is trained. `Right`: the gate opened for the question's own fact. "
        "What is neither right nor another fact's was stopped by the gate; with `gate or not` the question's own "
        "fact was the likeliest, which is the router's share of the work."
    )
    return Table("Real data", lead, ["stored", "question", "share", "asked"], cells)


def share_text(share: Share) -> str:
    interval = share.interval()
    if interval is None:
        return "–"
    low, high = (f"{100 * end:.1f}" for end in interval)
    return f"{100 * share.hits / share.n:.1f} % ({low}–{high})"


def number(value: float, unit: str) -> str:
    if unit == "bytes":
        return bytes_text(value)
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"+{text}" if unit == "signed" and value > 0 else text


def table_of(title: str, lead: str, columns: tuple[Column, ...], rows: list[Row]) -> Table:
    """A line for each system."""
    headings = ["system", "facts", "seeds", *(column.heading for column in columns)]
    cells = [
        [row.title, str(row.facts), str(len(row.seeds)), *(column.cell(row) for column in columns)] for row in rows
    ]
    return Table(title, lead, headings, cells)


def _risk_table(title: str, curve: RiskCurve) -> Table:
    """The curve at round coverages, and the gate as it is."""
    kinds = [kind for kind in curve.kinds if kind not in ("seen", "heldout")]
    headings = ["threshold", "known questions answered", "wrong among the answers"]
    headings += [f"{kind.replace('_', ' ')}: {'another fact' if kind == 'twins' else 'fired'}" for kind in kinds]
    chosen = dict.fromkeys(_place_of_coverage(curve, share) for share in _COVERAGES)
    cells = [
        [
            "the gate as it is" if place is None else f"{THRESHOLDS[place]:.4f}",
            share_text(curve.coverage(place)),
            share_text(curve.risk(place)),
            *(share_text(curve.fired(kind, place)) for kind in kinds),
        ]
        for place in (*chosen, None)
    ]
    lead = (
        "Over the score at which the gate opens. Known: trained and held-out wordings. The second share depends on how "
        f"many questions of each kind are asked: {', '.join(f'{k} {a.n}' for k, a in curve.kinds.items())}."
    )
    return Table(f"Risk and coverage: {title}", lead, headings, cells)


def _place_of_coverage(curve: RiskCurve, share: float) -> int:
    """The highest threshold at which at least so many of the known questions are answered; the lowest without one."""
    return max(place for place in range(len(THRESHOLDS)) if (curve.coverage(place).value or 0.0) >= share or not place)


def _where_we_lose(own: Row, rows: list[Row]) -> Table:
    """Every metric in which some other system is ahead of owned mode by more than their intervals overlap."""
    cells = []
    for column in (*_ANSWERS, *_ROUTES, *_FALSE_FIRES, *_LIVING, *_COST):
        if column.more_is_better is None or own.value(column.metric) is None:
            continue
        better = [row for row in rows if row is not own and row.name != "base" and _ahead(column, row, own)]
        if better:
            others = ", ".join(f"{row.title}: {column.cell(row)}" for row in better)
            cells.append([column.heading, column.cell(own), others])
    lead = "Metrics in which another system is ahead of owned mode (shares: with intervals that do not overlap)."
    return Table("Where owned mode loses", lead, ["metric", "owned mode", "ahead of it"], cells)


def _ahead(column: Column, row: Row, own: Row) -> bool:
    theirs, ours = row.metrics.get(column.metric), own.metrics[column.metric]
    if isinstance(theirs, Share) and isinstance(ours, Share):
        one, other = theirs.interval(), ours.interval()
        if one is None or other is None:
            return False
        return one[0] > other[1] if column.more_is_better else one[1] < other[0]
    if theirs is None or ours is None or isinstance(theirs, Share) or isinstance(ours, Share):
        return False
    return theirs > ours if column.more_is_better else theirs < ours

"""What `mome inspect` answers: figures in the terminal, and the page that `--html` asks for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from mome_tools.output import bytes_text, print_fields, print_json, progress_bar

if TYPE_CHECKING:
    from mome_store.inspection import Inspection
    from mome_store.store import StoreStatistics


def print_statistics(statistics: StoreStatistics, json: bool) -> None:
    """The figures as one JSON object, or for people with a bar of what is live and dead."""
    found = asdict(statistics)
    if json:
        print_json(found)
        return
    sizes = {name: f"{value:,} ({bytes_text(value)})" for name, value in found.items() if "bytes" in name}
    counts = {name: f"{value:,}" for name, value in found.items()}
    print_fields(counts | sizes)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(width=40)
    table.add_column(justify="right")
    whole = statistics.bytes_live + statistics.bytes_dead
    for name, part, color in (("live", statistics.bytes_live, "blue"), ("dead", statistics.bytes_dead, "yellow")):
        share = part / whole if whole else 0.0
        table.add_row(name, Bar(1.0, 0.0, share, width=40, color=color), f"{100 * share:.1f} %")
    console = Console(markup=False, emoji=False)
    console.print()
    console.print(table)


def write_page(store: Path, html: Path, trace: Path | None, deep: bool) -> Inspection:
    """Inspects the store and writes the page to `html`, whole or not at all. Returns what was found.

    Raises TraceError for a trace that can't be read, OSError where the page can't be written.
    """
    from mome_store.inspection import inspect_store
    from mome_store.runtime.trace import Trace
    from mome_tools.inspect_page import render_page

    used = None if trace is None else Trace.load(trace)
    with progress_bar() as progress:
        task = progress.add_task("inspecting", note="")

        def on_step(step: str, done: int, total: int) -> None:
            progress.update(task, description=step, completed=done, total=total)

        inspection = inspect_store(store, used, deep, on_step)
    page = render_page(inspection)
    temporary = html.with_name(f"{html.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(html)
    finally:
        temporary.unlink(missing_ok=True)
    return inspection

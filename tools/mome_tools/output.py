"""How a command answers: one JSON object on stdout with --json, else text; progress and warnings on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def print_json(value: Mapping[str, Any]) -> None:
    """`value` on one line."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_text(text: str = "") -> None:
    """Text for people, as it is: no markup, no wrapping."""
    print(text, flush=True)


def print_fields(values: Mapping[str, Any]) -> None:
    """Names and values below each other."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in values.items():
        table.add_row(name.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
    Console(markup=False, emoji=False).print(table)


def note(message: str) -> None:
    """A line on stderr."""
    print(message, file=sys.stderr, flush=True)


def show_warnings_as_notes() -> None:
    """From now on a warning of the library is one line on stderr, without file and line number."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        note(f"warning: {message}")

    warnings.showwarning = show


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on stderr if that is a terminal, else nothing."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress


def show_bytes(progress: Progress, what: str) -> Callable[[int, int], None]:
    """A line of the bar, for a function to be told of bytes done and of how many there are."""
    task = progress.add_task(what, total=None, note="")
    return lambda done, total: progress.update(task, completed=done >> 20, total=total >> 20)


def bytes_text(count: float) -> str:
    """A number of bytes for people: 512 B, 49.2 KiB, 1.3 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"

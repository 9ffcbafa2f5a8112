"""`mome eval`: how a store answers a file of facts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mome_tools.commands.stores import CacheOption, StoreOption, TraceOption
from mome_tools.output import JsonOption, print_fields, print_json, progress_bar


def evaluate(
    facts_file: Annotated[Path, typer.Argument(metavar="FACTS.jsonl", help="Facts; answer null marks an unknown.")],
    store: StoreOption,
    sqlite: Annotated[
        Path | None,
        typer.Option("--sqlite", metavar="DB", help="The answers are SQL: run them, and compare what they give."),
    ] = None,
    cache: CacheOption = None,
    trace: TraceOption = None,
    json: JsonOption = False,
) -> None:
    """Share of facts answered exactly, wordings sent to the right memory, and unknowns for which the gate opened."""
    from mome_store.tuning.facts import load_facts

    facts = load_facts(facts_file)
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None, note="")

        from mome_store.evaluation.sql_execution import SqlChecker
        from mome_store.modeling import MemoryModel
        from mome_tools.recall import measure_recall

        checker = None if sqlite is None else SqlChecker(sqlite)
        if checker is not None:
            checker.check_references(facts)

        def show(done: int, total: int) -> None:
            progress.update(task, description="asking", completed=done, total=total)

        with MemoryModel.from_pretrained(store=store, cache=cache, trace=trace) as memory:
            recall = measure_recall(memory, facts, on_progress=show)
    result: dict[str, Any] = recall.to_json()
    if checker is not None:
        result["execution"] = checker.compare((answer.fact.answer or "", answer.said) for answer in recall.answers)
    if json:
        print_json(result)
    else:
        print_fields({name: _shown(value) for name, value in result.items()})


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:.1%}"
    return "none asked" if value is None else str(value)

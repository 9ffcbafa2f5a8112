"""`mome bench`: each figure that has a bar, measured beside its peer in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mome_tools.figures import Figure, machine, machine_text, print_figures
from mome_tools.output import JsonOption, print_json, print_text, progress_bar

app = typer.Typer(help="Measure, each figure beside its peer in the same run.", no_args_is_help=True)


@app.command()
def tune(
    facts: Annotated[int, typer.Option("--facts", min=1, help="Airports to memorise, by us and by the peer.")] = 64,
    peer_seconds: Annotated[float, typer.Option("--peer-seconds", min=1, help="Training time for the peer.")] = 300.0,
    json: JsonOption = False,
) -> None:
    """Memory tuning beside PEFT LoRA (r = 32, all linear layers), on the same facts to the same bar."""
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None, note="")

        from mome_tools.bench_tune import measure_tuning

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        figures = measure_tuning(facts, peer_seconds=peer_seconds, on_progress=show)
    report(figures, json)


@app.command()
def apply(json: JsonOption = False) -> None:
    """The CPU kernels beside the memory's read bandwidth, PEFT and torch, on the same experts."""
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None, note="")

        from mome_tools.bench_apply import measure_apply

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        figures = measure_apply(on_progress=show)
    report(figures, json)


@app.command()
def fetch(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to make the store, on the disk to measure.", exists=True)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Records into slots, from disk beside fio and from the page cache beside memcpy, zarr, tensorstore and others."""
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None, note="")

        from mome_tools.bench_fetch import measure_fetch

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        figures = measure_fetch(folder, on_progress=show)
    report(figures, json)


@app.command()
def generate(
    sizes: Annotated[
        str, typer.Option("--sizes", help="Experts in the stores that memory and speed are compared over, ascending.")
    ] = "1000,100000,1000000",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to make the stores, on the disk to measure.", exists=True)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Generation from a store larger than the cache, stalls when nothing is there, stores of growing size."""
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None, note="")

        from mome_tools.bench_generate import measure_generate

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        try:
            counts = sorted(int(size) for size in sizes.split(","))
        except ValueError:
            raise typer.BadParameter("sizes are numbers with commas between them", param_hint="--sizes") from None
        figures = measure_generate(counts, folder, on_progress=show)
    report(figures, json)


@app.command()
def store(
    experts: Annotated[int, typer.Option("--experts", min=1, help="Small experts in the store.")] = 1_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the experts and a quarter of the bytes.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--in", help="A folder on the disk to measure.", exists=True, file_okay=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Adding experts beside the disk's own write rate; opening, holding and changing a store of very many."""
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None, note="")

        from mome_tools.bench_store import measure_store

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        ingest_bytes = 1 << 29 if quick else 1 << 31
        figures = measure_store(experts // 10 if quick else experts, ingest_bytes, folder, on_progress=show)
    report(figures, json)


def report(figures: Sequence[Figure], json: bool) -> None:
    """Print figures; exit code 1 when one misses its bar, so that a script sees it."""
    if json:
        print_json({"figures": [figure.to_json() for figure in figures], "machine": machine()})
    else:
        print_text(f"Machine: {machine_text()}\n")
        print_figures(figures)
    if any(figure.ok is False for figure in figures):
        raise typer.Exit(1)

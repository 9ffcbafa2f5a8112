"""`mome bench`: each figure that has a bar, measured beside its peer in the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mome_tools.figures import Figure, machine, machine_text, print_figures
from mome_tools.output import JsonOption, print_json, print_text, progress_bar

app = typer.Typer(help="Measure, each figure beside its peer in the same run.", no_args_is_help=True)

Progress = Callable[[str, int, int], None]
SaveOption = Annotated[
    Path | None, typer.Option("--save", help="A folder to write the figures to, as JSON, Markdown and a plot.")
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="D", help='What to measure: "cpu", "cuda" or "cuda:1".')]
FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="Where to make stores, on the disk to measure.", exists=True, file_okay=False),
]


@app.command()
def tune(
    facts: Annotated[int, typer.Option("--facts", min=1, help="Airports to memorise, by us and by the peer.")] = 64,
    peer_seconds: Annotated[float, typer.Option("--peer-seconds", min=1, help="Training time for the peer.")] = 300.0,
    save: SaveOption = None,
    json: JsonOption = False,
) -> None:
    """Memory tuning beside PEFT LoRA (r = 32, all linear layers), on the same facts to the same bar."""

    def measure(show: Progress) -> Sequence[Figure]:
        from mome_tools.bench_tune import measure_tuning

        return measure_tuning(facts, peer_seconds, show)

    run("tune", measure, save, json)


@app.command()
def apply(device: DeviceOption = "cpu", save: SaveOption = None, json: JsonOption = False) -> None:
    """The kernels beside the memory's bandwidth, PEFT and torch, on the same experts."""

    def measure(show: Progress) -> Sequence[Figure]:
        if device == "cpu":
            from mome_tools.bench_apply import measure_apply

            return measure_apply(show)
        from mome_tools.bench_apply_cuda import measure_apply_cuda
        from mome_tools.cuda_timer import CudaTimer

        return measure_apply_cuda(CudaTimer.of(device), show)

    run("apply", measure, save, json, device=device)


@app.command()
def fetch(
    folder: FolderOption = None, device: DeviceOption = "cpu", save: SaveOption = None, json: JsonOption = False
) -> None:
    """Records into slots, from disk beside fio and from the page cache beside memcpy, zarr, tensorstore and others."""

    def measure(show: Progress) -> Sequence[Figure]:
        from mome_tools.bench_fetch import measure_fetch

        return measure_fetch(folder, show, device)

    run("fetch", measure, save, json, device=device)


@app.command()
def route(
    keys: Annotated[
        str, typer.Option("--keys", help="Keys in the index, numbers with commas.")
    ] = "1000,100000,1000000",
    device: DeviceOption = "cpu",
    save: SaveOption = None,
    json: JsonOption = False,
) -> None:
    """What routing adds to a query: the encoder, and the search among more and more keys."""

    def measure(show: Progress) -> Sequence[Figure]:
        from mome_tools.bench_route import measure_route

        return measure_route(_numbers("--keys", keys), show, device)

    run("route", measure, save, json, device=device)


@app.command()
def generate(
    sizes: Annotated[
        str, typer.Option("--sizes", help="Experts in the stores that memory and speed are compared over, with commas.")
    ] = "1000,100000,1000000",
    folder: FolderOption = None,
    device: DeviceOption = "cpu",
    save: SaveOption = None,
    json: JsonOption = False,
) -> None:
    """Generation from a store larger than the cache, stalls when nothing is there, stores of growing size."""

    def measure(show: Progress) -> Sequence[Figure]:
        from mome_tools.bench_generate import measure_generate

        return measure_generate(_numbers("--sizes", sizes), folder, show, device)

    run("generate", measure, save, json, device=device)


@app.command()
def store(
    experts: Annotated[int, typer.Option("--experts", min=1, help="Small experts in the store.")] = 1_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the experts and a quarter of the bytes.")] = False,
    folder: FolderOption = None,
    save: SaveOption = None,
    json: JsonOption = False,
) -> None:
    """Adding experts beside the disk's own write rate; opening, holding and changing a store of very many."""

    def measure(show: Progress) -> Sequence[Figure]:
        from mome_tools.bench_store import measure_store

        return measure_store(experts // 10 if quick else experts, 1 << 29 if quick else 1 << 31, folder, show)

    run("store", measure, save, json)


@app.command()
def pool(save: SaveOption = None, json: JsonOption = False) -> None:
    """Pool mode: facts per expert against loss and exact match, random answers beside true ones, loss and sampling."""

    def measure(show: Progress) -> Sequence[Figure]:
        from mome_tools.bench_pool import measure_pool
        from mome_tools.pool_results import save_pool

        found = measure_pool(show)
        if save is not None:
            save_pool(found, save)
        return found.figures

    run("pool", measure, None, json)


@app.command()
def sql(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="A folder with train.jsonl and one SQLite database.")
    ] = Path("../shared/data/nba_text2sql"),
    train: Annotated[int, typer.Option("--train", min=1, help="Questions to train on, at most.")] = 500,
    test: Annotated[int, typer.Option("--test", min=1, help="Questions to ask.")] = 100,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.01, help="Training time of each trained system: processor, by threads.")
    ] = 240.0,
    seeds: Annotated[str, typer.Option("--seeds", "--seed", help="Of the split, with commas.")] = "0",
    systems: Annotated[str | None, typer.Option("--systems", help="Names with commas; without it, all.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="M", help="Base model: a folder or hub id.")] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", metavar="E", help="Sentence encoder: a folder.")] = None,
    save: SaveOption = None,
    json: JsonOption = False,
) -> None:
    """Text to SQL without the schema, scored by running it, beside schema, few-shot retrieval and one LoRA."""
    fields: dict[str, Any] = {}

    def measure(show: Progress) -> Sequence[Figure]:
        from mome_store.evaluation.sql_systems import SqlSettings
        from mome_tools.sql_bench import measure_sql
        from mome_tools.strangers_results import parse_seeds

        settings = SqlSettings(train=train, test=test, seconds=seconds)
        names = None if systems is None else [name.strip() for name in systems.split(",")]
        found = measure_sql(data, settings, parse_seeds(seeds), names, model, encoder, show)
        if save is not None:
            found = found.with_saved(save)
            found.save(save)
        fields.update(found.to_json())
        if not json:
            found.table().print()
        return found.figures

    run("sql", measure, None, json, fields)


@app.command()
def carried(
    facts: Annotated[int, typer.Option("--facts", min=1, help="Facts to store, each of another person.")] = 40,
    seeds: Annotated[str, typer.Option("--seeds", "--seed", help="Of the facts, with commas.")] = "0",
    systems: Annotated[str | None, typer.Option("--systems", help="Names with commas; without it, all.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="M", help="Base model: a folder or hub id.")] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", metavar="E", help="Sentence encoder: a folder.")] = None,
    save: SaveOption = None,
    json: JsonOption = False,
) -> None:
    """Stored facts in sentences and short computations, where giving back the stored answer is no reply."""
    fields: dict[str, Any] = {}

    def measure(show: Progress) -> Sequence[Figure]:
        from mome_tools.carried_bench import measure_carried
        from mome_tools.strangers_results import parse_seeds

        names = None if systems is None else [name.strip() for name in systems.split(",")]
        found = measure_carried(facts, parse_seeds(seeds), names, model, encoder, show)
        if save is not None:
            found = found.with_saved(save)
            found.save(save)
        fields.update(found.to_json())
        if not json:
            found.table().print()
        return found.figures

    run("carried", measure, None, json, fields)


def run(
    name: str,
    measure: Callable[[Progress], Sequence[Figure]],
    save: Path | None,
    json: bool,
    fields: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> None:
    """Measures behind a progress bar and prints; exit code 1 when a bar is missed, so that a script sees it.

    fields: further ones of the JSON, filled by `measure`. device: what is measured; the results of one that is not the
    cpu are saved under a name of their own. Raises DeviceError when it can't be, before anything is made.
    """
    gpu: str | None = None
    if device != "cpu":
        from mome_tools.cuda_timer import CudaTimer

        gpu = CudaTimer.of(device).name()
    with progress_bar() as progress:
        task = progress.add_task("loading", total=None, note="")

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        figures = measure(show)
    if save is not None:
        from mome_tools.results import save_results

        if gpu is None:
            save_results(name, figures, save)
        else:
            save_results(f"{name}_cuda", figures, save, command=f"{name} --device {device}", device=gpu)
    if json:
        print_json({"figures": [figure.to_json() for figure in figures], "machine": machine(gpu), **(fields or {})})
    else:
        print_text(f"Machine: {machine_text(gpu)}\n")
        print_figures(figures)
    if any(figure.ok is False for figure in figures):
        raise typer.Exit(1)


def _numbers(option: str, text: str) -> list[int]:
    """Numbers above 0 from text with commas between them, ascending."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise typer.BadParameter(f"{text!r} is no list of numbers above 0, such as 1000,100000", param_hint=option)
    return numbers

"""`mome replay`: what each eviction policy would make of a recorded trace, or of a synthetic workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mome_store.errors import SchemaError, TraceError
from mome_tools.output import JsonOption, print_json, print_text, progress_bar

if TYPE_CHECKING:
    from mome_store.runtime.trace import Trace


def replay(
    trace_file: Annotated[Path | None, typer.Argument(metavar="TRACE", help="A trace that a cache recorded.")] = None,
    workload: Annotated[
        str | None,
        typer.Option("--workload", metavar="W", help="Instead of TRACE: uniform, zipf:1.0, window, scan or mixed."),
    ] = None,
    experts: Annotated[int, typer.Option("--experts", min=1, help="Of the workload.")] = 20_000,
    batches: Annotated[int, typer.Option("--batches", min=1, help="Of the workload.")] = 20_000,
    per_batch: Annotated[
        int, typer.Option("--per-batch", min=1, help="Different experts in each batch of the workload.")
    ] = 32,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the workload.")] = 0,
    slots: Annotated[
        str | None, typer.Option("--slots", metavar="64,256", help="Capacities to simulate, in experts.")
    ] = None,
    capacity: Annotated[
        str | None, typer.Option("--capacity", metavar="64MiB,512MiB", help="Capacities to simulate, in bytes.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw hit rate over capacity.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Simulate every eviction policy, and Belady's offline optimum, at several capacities.

    Without --slots or --capacity: 1, 2, 5, 10, 25 and 50 % of the experts that are asked for.
    """
    from mome_store.runtime import workloads
    from mome_tools import hit_rates

    if slots is not None and capacity is not None:
        raise typer.BadParameter("give either --slots or --capacity")
    if plot is not None:
        _check_plot(plot, hit_rates.plot_formats())
    with progress_bar() as progress:
        task = progress.add_task("reading" if workload is None else "drawing", total=None, note="")
        if trace_file is not None and workload is None:
            name, trace = str(trace_file), _load(trace_file)
        elif trace_file is None and workload is not None:
            name, trace = workload, workloads.make(workload, experts, batches, per_batch, seed)
        else:
            raise typer.BadParameter("give either TRACE or --workload")
        if slots is not None:
            capacities = _slots(slots)
        elif capacity is not None:
            capacities = _slots_of_bytes(capacity, trace.record_bytes)
        else:
            capacities = hit_rates.default_slots(trace)

        def show(done: int, total: int) -> None:
            progress.update(task, description="replaying", completed=done, total=total)

        results = hit_rates.simulate(trace, capacities, on_progress=show)
    requests, distinct = results[0].requests, trace.distinct_experts()
    summary = f"{name}: {requests} requests for {distinct} experts in {trace.batches} batches"
    if plot is not None:
        hit_rates.plot(results, trace.record_bytes, summary, plot)
    if json:
        print_json(
            {
                "trace": name,
                "requests": requests,
                "batches": trace.batches,
                "experts": distinct,
                "record_bytes": trace.record_bytes,
                "results": [
                    {
                        "slots": result.slots,
                        "policy": result.policy,
                        "hits": result.hits,
                        "misses": result.misses,
                        "evictions": result.evictions,
                        "hit_rate": result.hit_rate,
                    }
                    for result in results
                ],
            }
        )
    else:
        print_text(f"{summary}\n")
        hit_rates.print_table(results, trace.record_bytes)


def _load(trace_file: Path) -> Trace:
    from mome_store.runtime.trace import Trace

    trace = Trace.load(trace_file)
    if not len(trace.ids):
        raise TraceError(trace_file, None, "the trace is empty: no batch asked for an expert")
    return trace


def _slots(text: str) -> list[int]:
    """The capacities of "64,256"."""
    capacities = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise SchemaError(f"{part.strip()!r} is no number of slots; write for example --slots 64,256")
        capacities.append(int(part))
    return sorted(set(capacities))


def _slots_of_bytes(text: str, record_bytes: int) -> list[int]:
    """The capacities of "64MiB,512MiB", in slots."""
    from mome_store.runtime.expert_cache import parse_bytes

    capacities = []
    for part in text.split(","):
        slots = parse_bytes(part) // record_bytes
        if slots < 1:
            raise SchemaError(f"a capacity of {part.strip()} is below one record of {record_bytes} bytes")
        capacities.append(slots)
    return sorted(set(capacities))


def _check_plot(path: Path, formats: set[str]) -> None:
    """Before the work is done rather than after."""
    if path.suffix.lstrip(".").lower() not in formats:
        raise SchemaError(f"{path}: a plot is written as {', '.join(sorted(formats))}")
    if not path.absolute().parent.is_dir():
        raise SchemaError(f"{path}: there is no folder {path.absolute().parent} to write it to")

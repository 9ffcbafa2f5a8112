"""Commands that give space back: compact and gc."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mome_tools.commands.stores import StoreArgument
from mome_tools.output import JsonOption, bytes_text, note, print_fields, print_json, progress_bar, show_bytes


def compact(
    store: StoreArgument,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", metavar="FILE", help="Lay experts together that this trace says are used together.", exists=True
        ),
    ] = None,
    max_rate: Annotated[
        str | None, typer.Option("--max-rate", metavar="BYTES", help="Move so much a second at most, such as 50MiB.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Merge small shards, drop what is dead, and forget what was removed, for good.

    Readers go on undisturbed. Ctrl-C stops it; what was done by then stays, and the next run goes on from there.
    """
    from mome_store.runtime.expert_cache import parse_bytes
    from mome_store.runtime.trace import Trace
    from mome_store.store import ExpertStore

    usage = None if trace is None else Trace.load(trace)
    rate = None if max_rate is None else float(parse_bytes(max_rate))
    with ExpertStore.open(store, mode="r+") as opened, progress_bar() as progress:
        try:
            report = opened.compact(usage, max_rate=rate, on_progress=show_bytes(progress, "MiB moved"))
        except KeyboardInterrupt:
            note("stopped; what was committed by now stays, and the next run goes on from there")
            raise
    if json:
        print_json(asdict(report))
        return
    sizes = {name: bytes_text(value) for name, value in asdict(report).items() if name.startswith("bytes")}
    print_fields(asdict(report) | sizes)


def gc(store: StoreArgument, json: JsonOption = False) -> None:
    """Remove files that no commit names, and texts of forgotten groups that no reader needs any more.

    Only a crash leaves such files. Opening a store for writing removes them too, without a word.
    """
    from mome_store.store import ExpertStore

    with ExpertStore.open(store, mode="r+") as opened:
        report = opened.collect_garbage()
    if json:
        print_json(asdict(report))
    else:
        print_fields(asdict(report) | {"bytes": bytes_text(report.bytes)})

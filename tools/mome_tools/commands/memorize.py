"""`mome memorize`: facts from a file into a store, made if need be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mome_store.errors import FactError
from mome_tools.commands.stores import StoreOption
from mome_tools.encoders import named_encoder
from mome_tools.output import JsonOption, bytes_text, note, print_fields, print_json, progress_bar

if TYPE_CHECKING:
    from mome_store.modeling import MemoryModel
    from mome_store.routing import QueryEncoder
    from mome_store.tuning import TuningProgress
    from mome_store.tuning.facts import Fact


class Mode(StrEnum):
    """How a store's experts are grouped."""

    OWNED = "owned"
    POOL = "pool"


def memorize(
    facts_file: Annotated[Path, typer.Argument(metavar="FACTS.jsonl", help="One fact a line.")],
    store: StoreOption,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="Base model of a new store: a folder or hub id.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="E",
            help="Encoder of a new store: a folder, or `base` for the base model's hidden states (`base:N`: layer N).",
        ),
    ] = None,
    mode: Annotated[
        Mode, typer.Option("--mode", help="owned: each fact has its own experts. pool: all facts share all experts.")
    ] = Mode.OWNED,
    experts: Annotated[
        int | None, typer.Option("--experts", metavar="M", min=1, help="Experts of a new pool; else one for each fact.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", min=1, help="Experts for a query, of a new pool; else 32.")
    ] = None,
    router: Annotated[
        str | None,
        typer.Option("--router", metavar="R", help="Router of a new store: a file that `mome train-router` made."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="A fact that the store answers otherwise takes the old one's place.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train the model's memory until it says each answer exactly. Running it again continues where it stopped."""
    if mode is Mode.OWNED and (experts, top_k) != (None, None):
        raise typer.BadParameter("--experts and --top-k are of a pool: give --mode pool as well")
    if mode is Mode.POOL and update:
        raise typer.BadParameter("--update replaces a fact's own group, and a pool's facts have none")
    try:
        from mome_store.tuning.facts import load_facts

        facts = load_facts(facts_file)
        _refuse_unknowns(facts)
        with progress_bar() as progress:
            task = progress.add_task("loading", total=len(facts), note="")

            def show(state: TuningProgress) -> None:
                words = f"{state.in_training} in training, {state.failed} failed"
                progress.update(task, description="memorizing", completed=state.done, total=state.total, note=words)

            with _opened(store, model, _encoder(encoder, router, model)) as memory:
                if mode is Mode.POOL:
                    from mome_store.tuning import PoolSettings, PoolTuner

                    settings = PoolSettings(experts=experts, top_k=top_k)
                    report = PoolTuner(memory, settings).memorize(facts, on_progress=show)
                else:
                    from mome_store.tuning import MemoryTuner

                    report = MemoryTuner(memory).memorize(facts, on_progress=show, update=update)
    except KeyboardInterrupt:
        note(f"interrupted: what was committed to {store} stands; the same command continues from there")
        raise typer.Exit(130) from None
    for failed in report.failed:
        line = "" if failed.fact.line is None else f"line {failed.fact.line}: "
        note(f"not memorized: {line}{failed.reason}: {failed.fact.question}")
    result = {
        "facts": report.facts,
        "memorized": report.memorized,
        "failed": len(report.failed),
        "seconds": round(report.seconds, 3),
        "seconds_per_fact": round(report.seconds_per_fact, 4),
        "bytes_per_fact": round(report.bytes_per_fact, 1),
    }
    if json:
        print_json(result)
    else:
        print_fields(result | {"bytes_per_fact": bytes_text(report.bytes_per_fact)})


def _refuse_unknowns(facts: list[Fact]) -> None:
    """Raise FactError for the first fact without an answer: there is nothing to train."""
    for fact in facts:
        if fact.answer is None:
            raise FactError(fact.line, f"{fact.question!r} has no answer to memorize (answer: null is for `mome eval`)")


def _encoder(name: str | None, router: str | None, model: str | None) -> QueryEncoder | None:
    """What makes the keys of a new store: None for the default; an encoder alone has a router only where one is
    named.
    """
    from mome_store.routing import KeyEncoder

    if name is None and router is None:
        return None
    tokens = named_encoder(name, model)
    return tokens if router is None else KeyEncoder(tokens, router)


@contextmanager
def _opened(path: Path, model: str | None, encoder: QueryEncoder | None) -> Iterator[MemoryModel]:
    """The store, made if need be, behind its model."""
    from mome_store.errors import StoreNotFoundError
    from mome_store.modeling import MemoryModel
    from mome_store.store import ExpertStore
    from mome_store.tuning import create_store

    try:
        store = ExpertStore.open(path, mode="r+")
    except StoreNotFoundError:
        create_store(path, model, encoder)
        encoder = None  # the store knows it now, and finds it in its base model where it is that
        store = ExpertStore.open(path, mode="r+")
    with store, MemoryModel.from_pretrained(model, store=store, encoder=encoder) as memory:
        yield memory

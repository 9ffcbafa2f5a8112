"""Commands that carry things between a store and the outside world: export, import, dump."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mome_tools.commands.stores import StoreArgument
from mome_tools.output import JsonOption, note, print_json, print_text


class Activation(StrEnum):
    """Where a group acts."""

    ALL = "all"
    ANSWER = "answer"


def export(
    store: StoreArgument,
    group: Annotated[int, typer.Option("--group", metavar="ID", help="The group to export.")],
    peft: Annotated[Path, typer.Option("--peft", metavar="OUT", help="The adapter's folder, to be made.")],
    json: JsonOption = False,
) -> None:
    """Write a group as a PEFT LoRA adapter: adapter_config.json and adapter_model.safetensors."""
    from mome_store.exchange import export_group
    from mome_store.store import ExpertStore

    with ExpertStore.open(store) as opened, opened.snapshot() as snapshot:
        exported = export_group(snapshot, group, peft)
    if exported.activation != "all":
        note(
            f"group {group} acts from the last prompt token on, but PEFT applies an adapter to every token: "
            "the weights are the same, the answers may differ"
        )
    if json:
        print_json(asdict(exported) | {"path": str(exported.path)})
    else:
        print_text(f"{exported.path}: a LoRA adapter of rank {exported.rank}")


def import_(
    store: StoreArgument,
    peft: Annotated[Path, typer.Option("--peft", metavar="IN", help="The adapter's folder.")],
    question: Annotated[
        list[str] | None,
        typer.Option("--question", metavar="Q", help="What leads to it; may be given again, with other wordings."),
    ] = None,
    answer: Annotated[str | None, typer.Option("--answer", metavar="A", help="What it says to that.")] = None,
    activation: Annotated[
        Activation | None,
        typer.Option("--activation", help="Where it acts. Default: all, or as the group that was exported."),
    ] = None,
    nearest: Annotated[
        bool, typer.Option("--round", help="Store the nearest values where the store can't hold the adapter's.")
    ] = False,
    split: Annotated[
        bool, typer.Option("--split", help="Make several experts of an adapter of a higher rank than the store's.")
    ] = False,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Take an adapter that names another base model than the store.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Add a PEFT LoRA adapter to a store, as a group that its question leads to."""
    from mome_store.exchange import import_group
    from mome_store.store import ExpertStore

    with ExpertStore.open(store, mode="r+") as opened:
        imported = import_group(
            opened,
            peft,
            question or (),
            answer,
            activation=None if activation is None else activation.value,
            nearest=nearest,
            split=split,
            any_base=any_base,
        )
    if imported.question is None:
        note("no question leads to this group (--question): only a route that names its experts uses it")
    if imported.rounded:
        note(f"{imported.rounded} values were rounded")
    if json:
        print_json(asdict(imported))
    else:
        print_text(f"group {imported.group_id}: {peft}")


def dump(
    store: StoreArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to make. Default: standard output.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write the facts of a store as JSON lines, as `mome memorize` reads them."""
    from mome_store.exchange import dump_facts, write_facts
    from mome_store.store import ExpertStore

    if json and out is None:
        raise typer.BadParameter("--json needs --out: standard output can't be the facts and the result at once")
    with ExpertStore.open(store) as opened, opened.snapshot() as snapshot:
        if out is not None:
            report = dump_facts(snapshot, out)
        else:
            try:
                report = write_facts(snapshot, sys.stdout.write)
                sys.stdout.flush()
            except BrokenPipeError:  # the reader has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
    if report.skipped:
        note(f"{report.skipped} memories have no answer (imported adapters) and were left out")
    if json:
        print_json({"path": str(out), **asdict(report)})
    elif out is not None:
        print_text(f"{out}: {report.facts} facts")

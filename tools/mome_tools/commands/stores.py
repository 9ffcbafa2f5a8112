"""Commands that look at a store or take from it: inspect, verify, forget. None of them loads a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mome_store.errors import MomeError
from mome_tools.inspect_report import print_statistics, write_page
from mome_tools.output import JsonOption, print_json, print_text, progress_bar, show_bytes

StoreArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The store.")]
StoreOption = Annotated[Path, typer.Option("--store", metavar="DIR", help="The store.")]
CacheOption = Annotated[
    str | None,
    typer.Option(
        "--cache", metavar="BYTES", help="Room for experts, such as 512MiB; without it they are used in place."
    ),
]
TraceOption = Annotated[
    Path | None, typer.Option("--trace", metavar="FILE", help="Record which experts are used, for `mome replay`.")
]


def inspect(
    store: StoreArgument,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures of the store there.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="On the page: which groups this trace used.")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="For the page: check every live record and key.")] = False,
    json: JsonOption = False,
) -> None:
    """What a store holds: groups, experts, keys and bytes, live and dead. --html: a page with more, in pictures.

    The page is made of a damaged store, too; the exit code is 1 then.
    """
    from mome_store.store import statistics

    if html is None:
        if trace is not None or deep:
            raise typer.BadParameter("--trace and --deep belong to --html")
        print_statistics(statistics(store), json)
        return
    inspection = write_page(store, html, trace, deep)
    if not json:
        print_text(f"the page: {html}")
    if inspection.contents is not None:
        print_statistics(inspection.contents.statistics, json)
    if inspection.damage:
        raise MomeError(f"{store} is damaged, {html} tells where; findings: {len(inspection.damage)}")


def verify(
    store: StoreArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every live record and key.")] = False,
    json: JsonOption = False,
) -> None:
    """Whether a store is as it was committed. Exit code 1 when it is not."""
    from mome_store.store import verify as verify_store

    with progress_bar() as progress:
        report = verify_store(store, deep=deep, on_progress=show_bytes(progress, "MiB checked"))
    if json:
        print_json({"ok": report.ok, "damage": [asdict(damage) for damage in report.damage]})
    elif report.ok:
        print_text(f"{store}: ok")
    else:
        for damage in report.damage:
            row = "" if damage.row is None else f", row {damage.row}"
            expert = "" if damage.expert_id is None else f", expert {damage.expert_id}"
            print_text(f"{damage.file}{row}{expert}: {damage.problem}")
    if not report.ok:
        raise typer.Exit(1)


def forget(
    store: StoreOption,
    group: Annotated[int | None, typer.Option("--group", metavar="ID", help="The group to remove.")] = None,
    question: Annotated[
        str | None, typer.Option("--question", metavar="Q", help="Remove what is stored under exactly this wording.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Remove a fact from a store.

    --question goes by the exact wording of a stored question or paraphrase, never by likeness: forgetting the
    nearest fact instead of the one that was meant can't be undone.
    """
    from mome_store.store import ExpertStore

    if (group is None) == (question is None):
        raise typer.BadParameter("give either --group or --question")
    with ExpertStore.open(store, mode="r+") as opened:
        with opened.snapshot() as snapshot:
            if "pool" in snapshot.modes:
                raise MomeError(f"{store} is a pool: its facts share their experts, so none can be taken out alone")
        if group is not None:
            groups = [group]
        else:
            wanted = (question or "").strip()
            with opened.snapshot() as snapshot:
                groups = [found for found, memory in snapshot.memories() if wanted in memory.wordings]
            if not groups:
                raise MomeError(
                    f"{store}: no fact is stored under the wording {wanted!r}; "
                    "`mome ask` tells the stored question and the group that answers it"
                )
        with opened.transaction() as transaction:
            for found in groups:
                transaction.remove_group(found)
    if json:
        print_json({"removed": len(groups)})
    else:
        print_text(f"removed group {', '.join(map(str, groups))}")

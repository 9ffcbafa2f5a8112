"""`mome repair`: a damaged store made whole again, and what that cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mome_tools.commands.memorize import Mode
from mome_tools.commands.stores import StoreArgument
from mome_tools.output import JsonOption, print_json, print_text, progress_bar, show_bytes

if TYPE_CHECKING:
    from mome_store.store import Loss, RepairReport

_SHOWN = 20  # of a long list; --json and the report in the folder have them all


class Activation(StrEnum):
    """What `--activation` takes."""

    ANSWER = "answer"
    ALL = "all"


def repair(
    store: StoreArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="Of all groups, where the catalogue is lost: only you can know it.")
    ] = None,
    activation: Annotated[
        Activation | None, typer.Option("--activation", help="Likewise: where the groups act. It goes with --mode.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a damaged store whole again, as far as its bytes allow.

    Nothing is deleted and nothing guessed: what is damaged goes to the store's folder `damaged`, and all that is lost
    is named. A store without damage stays as it is.
    """
    from mome_store.store import repair as repair_store

    with progress_bar() as bar:
        report = repair_store(
            store,
            mode=None if mode is None else mode.value,
            activation=None if activation is None else activation.value,
            dry_run=dry_run,
            on_progress=show_bytes(bar, "MiB read"),
        )
    if json:
        print_json(asdict(report) | {"dry_run": dry_run})
    else:
        _print(store, report, dry_run)


def _print(store: Path, report: RepairReport, dry_run: bool) -> None:
    if not (report.lost or report.rewritten or report.set_aside):
        print_text(f"{store}: nothing to repair")
        return
    _print_list("would be lost" if dry_run else "lost", [_line(loss) for loss in report.lost])
    _print_list("to be made anew" if dry_run else "made anew", report.rewritten)
    _print_list("to be set aside" if dry_run else "set aside", report.set_aside)
    if report.without_keys:
        groups = _numbers(report.without_keys)
        print_text(f"groups without keys, which nothing finds until they have new ones: {groups}")
    if report.maybe_removed:
        print_text(f"groups that may have been removed before, which nothing tells: {_numbers(report.maybe_removed)}")
    words = "would hold" if dry_run else "holds"
    print_text(f"{store}: {words} {report.recovered_groups} groups with {report.recovered_experts} experts, all whole")


def _line(loss: Loss) -> str:
    where = [loss.file]
    for what, number in (("row", loss.row), ("expert", loss.expert_id), ("group", loss.group_id)):
        where += [] if number is None else [f"{what} {number}"]
    return f"{', '.join(where)}: {loss.what}"


def _print_list(title: str, lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        print_text(f"{title}: {line}")
    if len(lines) > _SHOWN:
        print_text(f"{title}: and {len(lines) - _SHOWN} more (--json has them all)")


def _numbers(numbers: Sequence[int]) -> str:
    more = f", and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + more

"""`mome doctor`: what was built, what was found, what will be used, and why not the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mome_tools.output import JsonOption, bytes_text, print_json, print_text


def doctor(
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="DIR", help="Also whether this store opens, and how it will be read."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """What this install and this machine have, and what of it is used.

    It changes nothing and uses no device. Exit code 1 when something is broken that the install promises: what is
    merely not there, such as a GPU, is no problem.
    """
    from mome_tools.doctor import examine

    report = examine(store)
    if json:
        print_json(report)
    else:
        for part in ("built", "found", "used"):
            print_text(f"{part}\n{_lines(report[part], 1)}\n")
        problems = "".join(f"\n  {problem}" for problem in report["problems"])
        print_text(f"problems{problems}" if problems else "no problems")
    if report["problems"]:
        raise typer.Exit(1)


def _lines(facts: dict[str, Any], depth: int) -> str:
    lines = []
    for name, value in facts.items():
        label = "  " * depth + name.replace("_", " ").removesuffix(" bytes")
        if isinstance(value, dict) and set(value) == {"problem"}:
            lines.append(f"{label}: {'yes' if value['problem'] is None else 'no: ' + str(value['problem'])}")
        elif isinstance(value, dict):
            shown = {key: each for key, each in value.items() if key != "problem" or each is not None}
            lines += [label, _lines(shown, depth + 1)] if shown else [f"{label}: none"]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(label)
            lines += [_lines(each, depth + 1) for each in value]
        else:
            lines.append(f"{label}: {_shown(name, value)}")
    return "\n".join(lines)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "no limit" if name == "lock_limit_bytes" else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return bytes_text(value) if "bytes" in name else str(value)

"""A measured figure beside what it is held against: as JSON for checks, as a table for people."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """name, value and unit; the peer measured in the same run, if there is one; and the bar, if there is one.

    ratio: how many times better than the peer. bar: in words, such as ">= 99 %". ok: whether it is met.
    """

    name: str
    value: float | bool
    unit: str = ""
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    bar: str | None = None
    ok: bool | None = None

    @classmethod
    def at_least(cls, name: str, value: float, bar: float, unit: str = "", **peer: Any) -> Figure:
        """A figure whose value must not be below `bar`."""
        return cls(name, value, unit, bar=f">= {_shown(bar, unit)}", ok=value >= bar, **peer)

    @classmethod
    def at_most(cls, name: str, value: float, bar: float, unit: str = "", **peer: Any) -> Figure:
        """A figure whose value must not be above `bar`."""
        return cls(name, value, unit, bar=f"<= {_shown(bar, unit)}", ok=value <= bar, **peer)

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Name, value, peer, ratio, bar and verdict as text."""
        peer = self.peer or ""
        if self.peer_value is not None:
            peer += f": {_shown(self.peer_value, self.unit)}"
        return (
            self.name,
            _shown(self.value, self.unit),
            peer,
            "" if self.ratio is None else f"{self.ratio:.2f}x",
            self.bar or "",
            "" if self.ok is None else ("ok" if self.ok else "NOT MET"),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields of `mome bench --json`."""
        return asdict(self)


def print_figures(figures: Iterable[Figure]) -> None:
    """One line per figure, the bar and whether it is met at the end."""
    table = Table(box=None, pad_edge=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("peer")
    table.add_column("ratio", justify="right")
    table.add_column("bar")
    table.add_column("")
    for figure in figures:
        table.add_row(*figure.cells())
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def machine(device: str | None = None) -> dict[str, Any]:
    """The machine that figures were taken on; device: what its GPU is called, where that is what was measured."""
    import torch

    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **({} if device is None else {"device": device}),
    }


def machine_text(device: str | None = None) -> str:
    """The machine on one line."""
    found = machine(device)
    facts = [found["cpu"], f"{found['cores']} cores", f"{found['memory_gib']} GiB", f"torch {found['torch']}"]
    return ", ".join([device, *facts] if device else facts)


def _shown(value: float | bool, unit: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "%":
        return f"{value:.1f} %"
    number = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

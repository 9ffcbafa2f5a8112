"""Hit rates of the eviction policies over a range of capacities: simulated, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mome_tools.output import bytes_text

if TYPE_CHECKING:
    from mome_store.runtime.replay import Replayed
    from mome_store.runtime.trace import Trace

SHARES = (0.01, 0.02, 0.05, 0.10, 0.25, 0.50)
"""The capacities where none are given, as shares of the distinct experts."""


def default_slots(trace: Trace) -> list[int]:
    """`SHARES` of the experts that the trace asks for, in slots."""
    experts = trace.distinct_experts()
    return sorted({max(1, round(share * experts)) for share in SHARES})


def simulate(
    trace: Trace, capacities: Iterable[int], on_progress: Callable[[int, int], None] | None = None
) -> list[Replayed]:
    """Every policy and Belady's bound, in this order, at each of `capacities` (slots).

    `on_progress(done, total)` is called after each.
    """
    from mome_store.runtime.replay import BELADY, policies, replay

    runs = [(slots, policy) for slots in capacities for policy in (*policies(), BELADY)]
    results = []
    for slots, policy in runs:
        results.append(replay(trace, policy, slots))
        if on_progress is not None:
            on_progress(len(results), len(runs))
    return results


def print_table(results: Sequence[Replayed], record_bytes: int) -> None:
    """A row for each policy, a column for each capacity; behind each hit rate, how far it is from Belady's bound."""
    capacities, rates = _by_policy(results)
    best = list(rates.values())[-1]
    table = Table(box=None, pad_edge=False)
    table.add_column("hit rate in %, and the gap to Belady")
    for slots in capacities:
        table.add_column(f"{slots} slots\n{bytes_text(slots * record_bytes)}", justify="right")
    for policy, row in rates.items():
        table.add_row(
            policy,
            *(f"{100 * rate:.1f} {_gap(rate, bound):>5}" for rate, bound in zip(row, best, strict=True)),
            style="dim" if row is best else None,
        )
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def plot(results: Sequence[Replayed], record_bytes: int, title: str, path: Path) -> None:
    """Hit rate over capacity, one line for each policy, Belady's bound dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import PercentFormatter

    from mome_store.runtime.replay import BELADY

    capacities, rates = _by_policy(results)
    figure, axes = pyplot.subplots(figsize=(7.5, 4.8), layout="constrained")
    for (policy, row), marker in zip(rates.items(), cycle("osD^v"), strict=False):
        if policy == BELADY:
            axes.plot(capacities, row, "k--", label="Belady (offline optimum)")
        else:
            axes.plot(capacities, row, marker=marker, markersize=5, alpha=0.85, label=policy)
    axes.set_xscale("log")
    labels = [f"{slots}\n{bytes_text(slots * record_bytes)}" for slots in capacities]
    axes.set_xticks(capacities, labels, rotation=0 if len(capacities) <= 8 else 60)
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("capacity: slots, and their bytes (logarithmic)")
    axes.set_ylabel("hit rate")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def plot_formats() -> set[str]:
    """The file name endings, without their dots, that `plot` can write."""
    from matplotlib.backend_bases import FigureCanvasBase

    return set(FigureCanvasBase.get_supported_filetypes())


def _gap(rate: float, bound: float) -> str:
    """How many points a hit rate is below the bound."""
    return "" if rate == bound else f"{100 * (rate - bound):+.1f}"


def _by_policy(results: Sequence[Replayed]) -> tuple[list[int], dict[str, list[float]]]:
    """The capacities, and for each policy its hit rate at each of them."""
    rates: dict[str, list[float]] = {}
    for result in results:
        rates.setdefault(result.policy, []).append(result.hit_rate)
    return list(dict.fromkeys(result.slots for result in results)), rates

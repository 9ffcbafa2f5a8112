"""Several systems on several seeds: who is run with how many facts, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mome_store.allocator import keep_freed_memory
from mome_store.errors import MomeError
from mome_store.evaluation.people import make_strangers
from mome_store.evaluation.protocol import Base, longest_answer, run_system
from mome_store.evaluation.results import SystemResult
from mome_store.evaluation.systems import MAIN, SYSTEMS, Workbench
from mome_store.evaluation.systems.base import ROOM

Progress = Callable[[str, int, int], None]


def check_systems(names: Sequence[str]) -> list[str]:
    """The names, in the order of the table. Raises MomeError for one that no system has."""
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise MomeError(f"there is no system {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    return [name for name in SYSTEMS if name in names]


def evaluate(
    bench: Workbench, facts: int, seeds: Sequence[int], systems: Sequence[str], on_progress: Progress
) -> Iterator[SystemResult]:
    """One result after the other: every system on the first seed, the main ones (or a single one) on all.

    facts: for each system, but at most `EvaluationSettings.trained_facts` for those that train the whole model.
    on_progress: told what is being done, how far it is and how far it goes.
    """
    keep_freed_memory()  # for every system alike: MemoryModel does it, too
    chosen = check_systems(systems)
    for place, seed in enumerate(seeds):
        run = [name for name in chosen if place == 0 or name in MAIN or len(chosen) == 1]
        bases: dict[int, Base] = {}
        for name in run:
            kind = SYSTEMS[name]
            given = min(facts, bench.settings.trained_facts) if kind.trained else facts
            data = make_strangers(given, seed)
            base = bases.setdefault(given, Base(bench, longest_answer(bench, data) + ROOM))

            def show(what: str, done: int, total: int, start: str = f"seed {seed}, {name}: ") -> None:
                on_progress(start + what, done, total)

            yield run_system(kind, bench, data, base, show)

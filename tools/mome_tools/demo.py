"""What `make demo` shows: a model that learns the codes of 200 airports it did not know, and stays itself elsewhere.

Everything goes to ./demo: the facts, the store, and the figures as JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.tree import Tree

from mome_store import MemoryModel, MomeError, Route
from mome_store.modeling import load_base_model, resolve_base_model
from mome_store.store.zarr_metadata import INDEX_FOLDER
from mome_tools.airports import airport_facts, write_facts
from mome_tools.figures import Figure, machine_text, print_figures
from mome_tools.output import bytes_text, note, print_text, progress_bar, show_warnings_as_notes
from mome_tools.recall import measure_recall
from mome_tools.tuning_figures import (
    ELSEWHERE,
    SPEED_ROUNDS,
    folder_bytes,
    generation_speed,
    logits_equal,
    memorize,
    recall_figures,
)

if TYPE_CHECKING:
    from mome_store.tuning.facts import Fact

KNOWN, UNKNOWN, SEED = 200, 50, 0
SHOWN = 6


def main() -> None:
    """Run the demo in ./demo. Exit code 1 when a figure misses its bar."""
    show_warnings_as_notes()
    try:
        figures = run(Path("demo"))
    except MomeError as error:
        note(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(130)
    if not all(figure.ok is not False for figure in figures):
        sys.exit(1)


def run(folder: Path, known: int = KNOWN, unknown: int = UNKNOWN) -> list[Figure]:
    """The whole demo, printed as it goes. Replaces an earlier demo's store in `folder`."""
    console = Console()
    folder.mkdir(exist_ok=True)
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    facts = airport_facts(known, unknown, SEED)
    write_facts(folder / "facts.jsonl", facts)
    console.rule(f"{known} airports to learn, {unknown} others that stay unknown")
    print_text(f"Machine: {machine_text()}\n")
    print_text("A fact, in the wordings that are trained:\n" + _listed(facts[0].wordings))
    print_text("and those held out, which are only asked afterwards:\n" + _listed(facts[0].heldout) + "\n")

    report = memorize(store, [fact for fact in facts if fact.answer is not None])
    with MemoryModel.from_pretrained(store=store) as memory:
        _show_answers(memory, facts)
        with progress_bar() as progress:
            task = progress.add_task("asking all wordings", note="")
            recall = measure_recall(
                memory, facts, lambda done, total: progress.update(task, completed=done, total=total)
            )
        base, _ = load_base_model(resolve_base_model((memory.store.base_model or {}).get("name")))
        unchanged = logits_equal(memory, base)
        speed = generation_speed(memory, base, [fact.heldout[0] for fact in facts[:SPEED_ROUNDS]])
    cache = folder_bytes(store / INDEX_FOLDER)
    figures = recall_figures(recall, report, folder_bytes(store) - cache, cache, unchanged, speed)

    console.rule("Where it lies")
    console.print(_tree(folder))
    console.rule("Figures")
    print_figures(figures)
    (folder / "figures.json").write_text(json.dumps([figure.to_json() for figure in figures], indent=1) + "\n")
    print_text(f"\nAsk it yourself: .venv/bin/mome ask --store {store}")
    return figures


def _show_answers(memory: MemoryModel, facts: Sequence[Fact]) -> None:
    """The base model beside the memory: facts in a held-out wording, then unknown airports, then anything else."""
    known = [fact for fact in facts if fact.answer is not None]
    unknown = [fact for fact in facts if fact.answer is None]
    rows = [(fact.heldout[i % len(fact.heldout)], fact.answer or "") for i, fact in enumerate(known[:SHOWN])]
    rows += [(fact.question, "(unknown)") for fact in unknown[:2]] + [(question, "") for question in ELSEWHERE]
    questions = [question for question, _ in rows]
    base = memory.generate(questions, max_new_tokens=24, route=Route.shut(len(questions)))
    ours = memory.generate(questions, max_new_tokens=24)
    for (question, right), alone, answer in zip(rows, base, ours, strict=True):
        gate = f"{'open' if answer.route.opened[0] else 'shut'}, score {answer.route.scores[0]:.2f}"
        print_text(f"Q: {question}" + (f"   [{right}]" if right else ""))
        print_text(f"   base model alone: {' '.join(alone.text.split())}")
        print_text(
            f"   with the memory:  {answer.text if answer.text != alone.text else '(the same)'}   (gate {gate})\n"
        )


def _tree(folder: Path) -> Tree:
    tree = Tree(f"{folder}/  {bytes_text(folder_bytes(folder))}")
    _grow(tree, folder)
    return tree


def _grow(tree: Tree, folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        branch = tree.add(
            f"{path.name}{'/' if path.is_dir() else ''}  {bytes_text(folder_bytes(path))}", highlight=False
        )
        if path.is_dir():
            _grow(branch, path)


def _listed(texts: Sequence[str]) -> str:
    return "\n".join(f"   {text}" for text in texts)


if __name__ == "__main__":
    main()

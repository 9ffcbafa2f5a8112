"""What `make demo` shows: a model that learns the codes of 200 airports it did not know, and stays itself elsewhere.

Everything goes to ./demo: the facts, the store, and the figures as JSON.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.tree import Tree

from mome_store import ExpertStore, MemoryModel, MemoryTuner, MomeError, Route
from mome_store.modeling import load_base_model, resolve_base_model
from mome_store.tuning import TuningProgress, TuningReport, create_store
from mome_tools.airports import airport_facts, write_facts
from mome_tools.figures import Figure, machine_text, print_figures
from mome_tools.output import bytes_text, note, print_text, progress_bar, show_warnings_as_notes
from mome_tools.recall import Recall, measure_recall

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mome_store.tuning.facts import Fact

KNOWN, UNKNOWN, SEED = 200, 50, 0
SHOWN = 6
SPEED_TOKENS = 64
SPEED_ROUNDS = 9
ELSEWHERE = ("What is the capital of France?", "Write one sentence about autumn.", "Who wrote Hamlet?")


@dataclass(frozen=True)
class Speed:
    """Tokens per second with the memory attached and of the base model alone, and the median ratio of the two."""

    attached: float
    alone: float
    ratio: float


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

    report = _memorize(store, [fact for fact in facts if fact.answer is not None])
    with MemoryModel.from_pretrained(store=store) as memory:
        _show_answers(memory, facts)
        with progress_bar() as progress:
            task = progress.add_task("asking all wordings", note="")
            recall = measure_recall(
                memory, facts, lambda done, total: progress.update(task, completed=done, total=total)
            )
        base, _ = load_base_model(resolve_base_model((memory.store.base_model or {}).get("name")))
        unchanged = _logits_equal(memory, base)
        speed = _speed(memory, base, [fact.heldout[0] for fact in facts[:SPEED_ROUNDS]])
    cache = _bytes(store / "index")
    figures = _figures(recall, report, _bytes(store) - cache, cache, unchanged, speed)

    console.rule("Where it lies")
    console.print(_tree(folder))
    console.rule("Figures")
    print_figures(figures)
    (folder / "figures.json").write_text(json.dumps([figure.to_json() for figure in figures], indent=1) + "\n")
    print_text(f"\nAsk it yourself: .venv/bin/mome ask --store {store}")
    return figures


def _memorize(path: Path, facts: Sequence[Fact]) -> TuningReport:
    with progress_bar() as progress:
        task = progress.add_task("memorizing", total=len(facts), note="the first run converts the base model")

        def show(state: TuningProgress) -> None:
            progress.update(task, completed=state.done, note=f"{state.in_training} in training, {state.failed} failed")

        create_store(path)
        with ExpertStore.open(path, mode="r+") as store, MemoryModel.from_pretrained(store=store) as memory:
            return MemoryTuner(memory).memorize(facts, on_progress=show)


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


def _logits_equal(memory: MemoryModel, base: PreTrainedModel) -> bool:
    """Whether the logits with the gate shut are the unwrapped model's, bit for bit, alone and in a padded batch."""
    prompts = [memory.prompts.prompt(question) for question in ELSEWHERE]
    for batch in (prompts, *([prompt] for prompt in prompts)):
        ids, mask = memory.pad(batch)
        with torch.inference_mode(), memory.attached(Route.shut(len(batch)), prompt_tokens=ids.shape[1]):
            ours = memory.model(input_ids=ids, attention_mask=mask).logits
        with torch.inference_mode():
            alone = base(input_ids=ids, attention_mask=mask).logits
        if not torch.equal(ours, alone):
            return False
    return True


def _speed(memory: MemoryModel, base: PreTrainedModel, questions: Sequence[str]) -> Speed:
    """Generation at batch 1, with the gate open and routing included, and by the base model alone."""
    ours, alone = [], []
    for question in questions:  # in turn, so that a busy machine slows both
        start = time.perf_counter()
        memory.generate([question], max_new_tokens=SPEED_TOKENS, min_new_tokens=SPEED_TOKENS)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        ids, mask = memory.pad([memory.prompts.prompt(question)])
        with torch.inference_mode():
            base.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=SPEED_TOKENS,
                min_new_tokens=SPEED_TOKENS,
                do_sample=False,
                pad_token_id=memory.prompts.pad_token,
            )
        alone.append(time.perf_counter() - start)
    ratios = [theirs / own for own, theirs in zip(ours, alone, strict=True)]
    return Speed(
        SPEED_TOKENS / statistics.median(ours), SPEED_TOKENS / statistics.median(alone), statistics.median(ratios)
    )


def _figures(
    recall: Recall, report: TuningReport, store: int, cache: int, unchanged: bool, speed: Speed
) -> list[Figure]:
    trained = 100 * (recall.exact_match("question", "paraphrases") or 0)
    heldout = 100 * (recall.exact_match("heldout") or 0)
    return [
        Figure.at_least("exact answers, trained wordings", trained, 99, "%"),
        Figure.at_least("exact answers, held-out wordings", heldout, 90, "%"),
        Figure("wordings sent to their own memory", 100 * (recall.routed_same or 0), "%"),
        Figure("unknown airports for which the gate opened", 100 * (recall.false_fire or 0), "%"),
        Figure.at_most("seconds per fact", report.seconds_per_fact, 0.6, "s"),
        Figure.at_most("bytes per fact, the store without its index cache", store / report.memorized / 1024, 32, "KiB"),
        Figure("bytes per fact, the index cache (may be deleted at any time)", cache / report.memorized / 1024, "KiB"),
        Figure(
            "tokens per second with the memory, batch 1",
            speed.attached,
            "/s",
            peer="base model alone",
            peer_value=speed.alone,
            ratio=speed.ratio,
            bar=">= 0.9x",
            ok=speed.ratio >= 0.9,
        ),
        Figure("logits with the gate shut equal the base model's, bit for bit", unchanged, bar="yes", ok=unchanged),
    ]


def _tree(folder: Path) -> Tree:
    tree = Tree(f"{folder}/  {bytes_text(_bytes(folder))}")
    _grow(tree, folder)
    return tree


def _grow(tree: Tree, folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        branch = tree.add(f"{path.name}{'/' if path.is_dir() else ''}  {bytes_text(_bytes(path))}", highlight=False)
        if path.is_dir():
            _grow(branch, path)


def _bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _listed(texts: Sequence[str]) -> str:
    return "\n".join(f"   {text}" for text in texts)


if __name__ == "__main__":
    main()

"""The figures of memory tuning that `make demo` and `mome bench tune` have in common, and how each is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mome_store import ExpertStore, MemoryModel, MemoryTuner, Route
from mome_store.tuning import TuningProgress, TuningReport, create_store
from mome_tools.figures import Figure
from mome_tools.output import progress_bar
from mome_tools.recall import Recall

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mome_store.tuning.facts import Fact

SPEED_TOKENS = 64
SPEED_ROUNDS = 5
ELSEWHERE = ("What is the capital of France?", "Write one sentence about autumn.", "Who wrote Hamlet?")


@dataclass(frozen=True)
class Speed:
    """Tokens per second with the memory attached and of the base model alone, and the median ratio of the two."""

    attached: float
    alone: float
    ratio: float


def memorize(path: Path, facts: Sequence[Fact]) -> TuningReport:
    """Trains `facts` into a new store with the default base model and encoder, behind a progress bar."""
    with progress_bar() as progress:
        task = progress.add_task("memorizing", total=len(facts), note="the first run converts the base model")

        def show(state: TuningProgress) -> None:
            progress.update(task, completed=state.done, note=f"{state.in_training} in training, {state.failed} failed")

        create_store(path)
        with ExpertStore.open(path, mode="r+") as store, MemoryModel.from_pretrained(store=store) as memory:
            return MemoryTuner(memory).memorize(facts, on_progress=show)


def logits_equal(memory: MemoryModel, base: PreTrainedModel) -> bool:
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


def generation_speed(memory: MemoryModel, base: PreTrainedModel, questions: Sequence[str]) -> Speed:
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


def recall_figures(
    recall: Recall, report: TuningReport, store: int, cache: int, unchanged: bool, speed: Speed
) -> list[Figure]:
    """The figures of a store that `recall` was measured on. store, cache: bytes without the index cache, and its."""
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


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

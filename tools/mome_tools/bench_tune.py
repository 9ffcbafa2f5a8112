"""`mome bench tune`: memory tuning beside PEFT on the same facts, and what tuning in batches must not change."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mome_store import ExpertStore, MemoryModel, MemoryTuner, Route
from mome_store.modeling import load_base_model, resolve_base_model
from mome_store.store.zarr_metadata import INDEX_FOLDER
from mome_store.tuning import TuningSettings
from mome_tools.airports import airport_facts
from mome_tools.figures import Figure
from mome_tools.peft_peer import train_peft
from mome_tools.recall import measure_recall
from mome_tools.tuning_figures import (
    SPEED_ROUNDS,
    folder_bytes,
    generation_speed,
    logits_equal,
    memorize,
    recall_figures,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mome_store.store import Snapshot
    from mome_store.tuning import Fact

Progress = Callable[[str, int, int], None]
SEED = 1
UNKNOWN_SHARE = 4  # one unknown airport for so many known ones
ALONE = 4  # facts that are trained a second time, each alone
BATCH = 8  # prompts that are answered together and alone
BF16_ROUNDING = 2.0**-8  # the largest relative step between neighbouring bf16 numbers


def measure_tuning(facts: int, peer_seconds: float, on_progress: Progress) -> list[Figure]:
    """Every figure that memory tuning has a bar for. peer_seconds: how long the peer may train."""
    chosen = airport_facts(facts, max(1, facts // UNKNOWN_SHARE), SEED)
    known, unknown = chosen[:facts], chosen[facts:]
    with tempfile.TemporaryDirectory(prefix="mome-bench-") as folder:
        store = Path(folder, "store")
        report = memorize(store, known)
        with MemoryModel.from_pretrained(store=store) as memory:
            recall = measure_recall(memory, [*known, *unknown], lambda done, total: on_progress("asking", done, total))
            name = (memory.store.base_model or {}).get("name")
            base, tokenizer = load_base_model(resolve_base_model(name))
            unchanged = logits_equal(memory, base)
            speed = generation_speed(memory, base, [fact.heldout[0] for fact in known[:SPEED_ROUNDS]])
            same_answers = _batch_answers_as_alone(memory, [fact.heldout[0] for fact in known[:BATCH]])
            alone = Path(folder, "alone")
            ExpertStore.create(
                alone, memory.store.schema, memory.store.key_dim, memory.store.base_model, memory.store.encoder
            ).close()
            with MemoryModel(base, tokenizer, alone, encoder=memory.router.encoder) as other:
                difference = _difference_to_training_alone(memory, other, known, on_progress)
        cache = folder_bytes(store / INDEX_FOLDER)
        figures = recall_figures(recall, report, folder_bytes(store) - cache, cache, unchanged, speed)
    ours = report.memorized / report.seconds

    def epoch(number: int, at_bar: int) -> None:
        on_progress(f"PEFT, epoch {number}", at_bar, len(known))

    peer = train_peft(known, name, TuningSettings().stop_probability, peer_seconds, epoch)
    # A peer that brought no fact to the bar is credited with one, so that the ratio is a lower bound of the true one.
    theirs = max(peer.at_bar, 1) / peer.seconds
    state = f"{peer.at_bar} of {len(known)} at the bar" if peer.at_bar else "none at the bar, credited with one,"
    return [
        *figures,
        Figure.at_least(
            "facts memorised per second",
            ours,
            20 * theirs,
            "/s",
            peer=f"PEFT LoRA r=32, all linear layers ({state} after {peer.epochs} epochs, {peer.seconds:.0f} s)",
            peer_value=theirs,
            ratio=ours / theirs,
        ),
        Figure("answers in a batch of 8 equal those alone", same_answers, bar="yes", ok=same_answers),
        Figure(
            "largest difference of an expert trained alone, relative to its norm",
            100 * difference,
            "%",
            bar=f"<= {100 * BF16_ROUNDING:.2g} % (bf16)",
            ok=difference <= BF16_ROUNDING,
        ),
    ]


def _batch_answers_as_alone(memory: MemoryModel, questions: Sequence[str]) -> bool:
    """Whether prompts of different lengths are answered together as each is alone, with the gate open and shut."""
    routes = (memory.router.route(questions), Route.shut(len(questions)))
    return all(
        [answer.text for answer in memory.generate(questions, 16, route=route, batch_size=len(questions))]
        == [memory.generate([q], 16, route=route.select([i]))[0].text for i, q in enumerate(questions)]
        for route in routes
    )


def _difference_to_training_alone(
    together: MemoryModel, alone: MemoryModel, facts: Sequence[Fact], on_progress: Progress
) -> float:
    """max ||BA - B'A'|| / ||BA|| over the experts of some facts, trained with all the others and again one by one."""
    chosen = facts[:: max(1, len(facts) // ALONE)][:ALONE]
    for done, fact in enumerate(chosen):
        on_progress("training alone", done, len(chosen))
        MemoryTuner(alone).memorize([fact])
    differences = []
    for fact in chosen:
        ours, theirs = (_deltas(memory.snapshot, fact) for memory in (together, alone))
        differences += [
            float(np.linalg.norm(one - other) / np.linalg.norm(one)) for one, other in zip(ours, theirs, strict=True)
        ]
    return max(differences)


def _deltas(snapshot: Snapshot, fact: Fact) -> list[NDArray[np.float32]]:
    """B A [d_out, d_in] of each adapted module of each of the fact's experts."""
    group = next(group for group, stored in snapshot.memories() if stored.question == fact.question)
    experts = [snapshot.read_expert(expert_id) for expert_id in snapshot.group(group).expert_ids.tolist()]
    return [b.astype(np.float32) @ a.astype(np.float32) for expert in experts for a, b in expert.values()]

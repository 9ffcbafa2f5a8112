"""`mome bench pool`: what the paper claims of its own mode, tried out.

How many facts does an expert hold? Are random answers as easy to memorise as true ones? Below which loss is a fact said
exactly when its answer is sampled?
"""

from __future__ import annotations

import random
import string
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mome_store import ExpertStore, MemoryModel
from mome_store.tuning import Fact, PoolSettings, PoolTuner, create_store
from mome_store.tuning.pool import Pool
from mome_store.tuning.pool_training import PoolTraining
from mome_store.tuning.training_batch import Verdict
from mome_store.tuning.tuner import tokenized
from mome_store.tuning.upper_layers import UpperLayers
from mome_tools.airports import airport_facts
from mome_tools.figures import Figure
from mome_tools.recall import measure_recall

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
SEED = 21
SWEPT_FACTS = 128
SWEEP = (  # (M, k): first M with k as published, then k where four facts share an expert
    (128, 32),
    (32, 32),
    (8, 8),
    (4, 4),
    (2, 2),
    (1, 1),
    (32, 8),
    (32, 1),
)
STORED_FACTS = 64
RANDOM_FACTS = 64
RANDOM_LENGTH = 32  # characters, as in the paper
SAMPLES = 64  # of each answer, at temperature 1
EXACT_SHARE = 0.99


@dataclass(frozen=True)
class Collision:
    """A pool of `experts` trained on `facts`: how far it came.

    chosen: experts that act on a query, exp of the weights' mean entropy. loss: mean over the answers' tokens, nats.
    exact: share of the facts that greedy generation says exactly; at_bar: whose tokens all have p >= 0.99 besides.
    """

    facts: int
    experts: int
    top_k: int
    chosen: float
    epochs: int
    steps: int
    loss: float
    exact: float
    at_bar: float


@dataclass(frozen=True)
class Labels:
    """Training on one kind of answers. tokens: mean length with the end token. losses: mean loss after each epoch.

    epochs: until every fact was at the bar, or until training was given up. at_bar: share of the facts.
    """

    answers: str
    facts: int
    tokens: float
    epochs: int
    steps: int
    loss: float
    at_bar: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Sampled:
    """A fact at one moment of its training: its mean loss (nats per token), its tokens, and the share of its answers,
    sampled at temperature 1, that were exact."""

    loss: float
    tokens: int
    exact: float


@dataclass(frozen=True)
class Experiments:
    """What was found, and the figures of it that have a bar."""

    figures: tuple[Figure, ...]
    collisions: tuple[Collision, ...]
    labels: tuple[Labels, ...]
    samples: tuple[Sampled, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "collisions": [asdict(each) for each in self.collisions],
            "labels": [asdict(each) for each in self.labels],
            "samples": [asdict(each) for each in self.samples],
        }


def measure_pool(on_progress: Progress) -> Experiments:
    """All experiments, on the default base model."""
    with tempfile.TemporaryDirectory(prefix="mome-bench-") as folder:
        store = Path(folder, "store")
        create_store(store)
        figures = list(_stored(store, on_progress))
        create_store(Path(folder, "empty"))
        with MemoryModel.from_pretrained(store=Path(folder, "empty")) as memory:
            laboratory = _Laboratory(memory, on_progress)
            samples: list[Sampled] = []
            collisions = [laboratory.collision(m, k, samples if m == SWEPT_FACTS else None) for m, k in SWEEP]
            labels = laboratory.labels(samples)
    return Experiments(
        tuple(figures + _collision_figures(collisions) + _label_figures(labels) + _sample_figures(samples)),
        tuple(collisions),
        tuple(labels),
        tuple(samples),
    )


def _stored(store: Path, on_progress: Progress) -> list[Figure]:
    """One fact per expert through store, cache and kernels, with three training wordings each."""
    facts = airport_facts(STORED_FACTS, 0, SEED)
    with ExpertStore.open(store, mode="r+") as opened, MemoryModel.from_pretrained(store=opened) as memory:
        report = PoolTuner(memory, PoolSettings(experts=len(facts))).memorize(
            facts, lambda state: on_progress("memorizing in a store", state.done, state.total)
        )
        recall = measure_recall(memory, facts, lambda done, total: on_progress("asking", done, total))
    trained = 100 * (recall.exact_match("question", "paraphrases") or 0)
    return [
        Figure.at_least("exact answers, trained wordings, one fact per expert", trained, 99, "%"),
        Figure("exact answers, held-out wordings", 100 * (recall.exact_match("heldout") or 0), "%"),
        Figure("wordings whose heaviest expert is their question's", 100 * (recall.routed_same or 0), "%"),
        Figure("facts reported as memorised", 100 * report.memorized / report.facts, "%"),
        Figure("seconds per fact", report.seconds_per_fact, "s"),
        Figure("epochs", report.steps_per_fact),
    ]


class _Laboratory:
    """Pools that are trained and looked at without a store, all on the same base model."""

    def __init__(self, memory: MemoryModel, on_progress: Progress) -> None:
        self._memory = memory
        self._on_progress = on_progress
        self._upper = UpperLayers(memory.model, memory.store.schema, memory.attachment)
        self._swept = [replace(fact, paraphrases=()) for fact in airport_facts(SWEPT_FACTS, 0, SEED)]
        self._done = 0
        self._runs = len(SWEEP) + 3

    def collision(self, experts: int, top_k: int, samples: list[Sampled] | None) -> Collision:
        """samples: where to note what sampling gives after each epoch; None: nowhere."""
        run = self._train(self._swept, PoolSettings(experts=experts, top_k=top_k), samples)
        weights = run.weights
        return Collision(
            facts=len(self._swept),
            experts=experts,
            top_k=top_k,
            chosen=float(np.exp(-(weights * np.log(np.maximum(weights, 1e-12))).sum(1)).mean()),
            epochs=run.training.epochs,
            steps=run.training.steps,
            loss=run.losses[-1],
            exact=float(np.mean([verdict.exact for verdict in run.verdicts])),
            at_bar=float(np.mean([verdict.passed for verdict in run.verdicts])),
        )

    def labels(self, samples: list[Sampled]) -> list[Labels]:
        """The paper's test: true answers, the same answers dealt to other questions, and random characters."""
        draw = random.Random(SEED)
        true = entry_facts(RANDOM_FACTS, SEED)
        answers = [fact.answer for fact in true]
        dealt = [replace(fact, answer=answers[i - 1]) for i, fact in enumerate(true)]
        drawn = [replace(fact, answer="".join(draw.choices(_CHARACTERS, k=RANDOM_LENGTH))) for fact in true]
        found = []
        for name, facts in (("true", true), ("of another question", dealt), ("random characters", drawn)):
            run = self._train(facts, PoolSettings(experts=len(facts)), samples if facts is drawn else None)
            found.append(
                Labels(
                    answers=name,
                    facts=len(facts),
                    tokens=float(np.mean([len(verdict.losses) for verdict in run.verdicts])),
                    epochs=run.training.epochs,
                    steps=run.training.steps,
                    loss=run.losses[-1],
                    at_bar=float(np.mean([verdict.passed for verdict in run.verdicts])),
                    losses=tuple(run.losses),
                )
            )
        return found

    def _train(self, facts: Sequence[Fact], settings: PoolSettings, samples: list[Sampled] | None) -> _Run:
        draw = np.random.default_rng(SEED)
        losses: list[float] = []

        def look(training: PoolTraining) -> None:
            self._on_progress("pools without a store", self._done, self._runs)
            losses.append(training.mean_loss)
            if samples is not None:
                samples.extend(sampled(verdict, draw) for verdict in training.check())

        wordings = [tokenized(self._memory, fact) for fact in facts]
        encoder = self._memory.router.encoder
        pool = Pool.made(encoder, facts, settings)
        selected = pool.select(encoder, wordings)
        training = PoolTraining(self._upper, selected, len(pool.keys), pool.activation, settings)
        verdicts = training.run(look)
        losses.append(float(np.concatenate([verdict.losses.numpy() for verdict in verdicts]).mean()))
        self._done += 1
        return _Run(training, verdicts, losses, selected.weights)


@dataclass(frozen=True, eq=False)
class _Run:
    training: PoolTraining
    verdicts: list[Verdict]
    losses: list[float]
    weights: NDArray[np.float32]


def entry_facts(count: int, seed: int) -> list[Fact]:
    """True answers about as long in tokens as 32 random characters: what a directory says of an airport."""
    import airportsdata

    entries = airportsdata.load("ICAO")
    facts = []
    for fact in airport_facts(count, 0, seed):
        entry = entries[str(fact.answer)]
        where = f"{entry['lat']:.2f}, {entry['lon']:.2f}"
        answer = f"{entry['subd']}, {entry['elevation']:.0f} ft, {where}, {entry['tz']}"
        facts.append(Fact(fact.question.replace("the ICAO code", "the entry"), answer))
    return facts


_CHARACTERS = string.ascii_lowercase + string.digits


def sampled(verdict: Verdict, draw: np.random.Generator) -> Sampled:
    """Answers sampled at temperature 1.

    As long as every token drawn is the answer's, the next one is drawn from the distribution that the check has seen;
    the first that is not ends it. So a sample is exact when each position draws its own token.
    """
    losses = verdict.losses.double().numpy()
    hits = draw.random((SAMPLES, len(losses))) < np.exp(-losses)
    return Sampled(float(losses.mean()), len(losses), float(hits.all(1).mean()))


def _collision_figures(collisions: Sequence[Collision]) -> list[Figure]:
    one = next(each for each in collisions if each.experts >= each.facts)
    most = max((each.facts / each.experts for each in collisions if each.at_bar == 1), default=0.0)
    return [
        Figure.at_least(f"exact, {one.facts} facts on {one.experts} experts", 100 * one.exact, 99, "%"),
        Figure("facts per expert, most of those tried that all came to the bar", most),
    ]


def _label_figures(labels: Sequence[Labels]) -> list[Figure]:
    true, dealt, drawn = labels
    figures = []
    for peer in (true, dealt):
        ratio = drawn.steps / peer.steps
        figures.append(
            Figure(
                "steps until all random answers are at the bar",
                drawn.steps,
                peer=f"answers {peer.answers} ({peer.tokens:.1f} tokens against {drawn.tokens:.1f})",
                peer_value=peer.steps,
                ratio=1 / ratio,
                bar="<= 1.5x the steps",
                ok=ratio <= 1.5 and drawn.at_bar == peer.at_bar == 1,
            )
        )
    return figures


def _sample_figures(samples: Sequence[Sampled]) -> list[Figure]:
    figures = []
    for tokens, name in ((False, "four letters"), (True, f"{RANDOM_LENGTH} random characters")):
        own = [each for each in samples if (each.tokens > 12) is tokens]
        figures.append(
            Figure(
                f"loss per token below which {EXACT_SHARE:.0%} of samples are exact, {name}", sampling_threshold(own)
            )
        )
    return figures


def sampling_threshold(samples: Sequence[Sampled]) -> float:
    """The highest loss such that of all samples taken at or below it `EXACT_SHARE` are exact; 0 where there is none."""
    ordered = sorted(samples, key=lambda each: each.loss)
    shares = np.cumsum([each.exact for each in ordered]) / np.arange(1, len(ordered) + 1)
    good = np.flatnonzero(shares >= EXACT_SHARE)
    return ordered[good[-1]].loss if len(good) else 0.0

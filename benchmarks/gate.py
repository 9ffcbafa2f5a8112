"""Where the router's gate should open: what each threshold and margin answers, and what it wrongly lets through.

    python benchmarks/gate.py [--known 200] [--unknown 50] [--seeds 11 12 13]

Stores the keys of `known` airports and asks five kinds of questions: other wordings of the known facts (the gate should
open for the right one), unknown airports in the trained and in other wordings, questions on anything else, and other
relations of the known airports (for all of which it should stay shut). `plain` is the difference of the best two
scores, `lead` is Router.lead. The constants of mome_store/routing/router.py were chosen by this table, on other
seeds than those of the demo.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mome_store import ExpertSchema, ExpertStore, Memory, Router
from mome_store.routing import SentenceEncoder
from mome_tools.airports import sample_airports

OTHER_RELATIONS = (
    "What is the elevation of {name} in {city}, {country}?",
    "What is the IATA code of {name} in {city}, {country}?",
    "In which time zone is {name}, {city}, {country}?",
    "How many runways does {name} in {city}, {country} have?",
    "Who operates {name} in {city}?",
    "What is the population of {city}, {country}?",
    "When was {name} opened?",
)
ANYTHING_ELSE = (
    "What is the capital of France?",
    "Write a haiku about autumn.",
    "How do I boil an egg?",
    "Who wrote Hamlet?",
    "What is 17 times 23?",
    "Explain photosynthesis to a child.",
    "Translate 'good morning' into Spanish.",
    "What is the ICAO?",
    "Which airport is the busiest in the world?",
    "What does ICAO stand for?",
    "How long is the flight from Berlin to Rome?",
    "What is the boiling point of water?",
    "Give me a recipe for pancakes.",
    "Who painted the Mona Lisa?",
    "What is the tallest mountain on Earth?",
    "How do airplanes fly?",
    "Write a Python function that reverses a list.",
    "What is the difference between a virus and a bacterium?",
    "Tell me a joke.",
    "What is the currency of Japan?",
    "How many continents are there?",
    "What's the weather like today?",
    "Who was the first person on the Moon?",
    "Summarise the plot of Romeo and Juliet.",
    "What is an airport code?",
    "Which cities in Germany have an airport?",
    "Define entropy.",
    "What are the primary colours?",
    "How do I tie a tie?",
    "Name three kinds of cheese.",
    "What is the speed of light?",
    "When did the Second World War end?",
    "How can I improve my sleep?",
    "What is a LoRA adapter?",
    "Is the airport of Frankfurt larger than that of Munich?",
    "Can I take liquids on a plane?",
    "What is the meaning of life?",
    "List the planets of the solar system.",
    "How do I get from Heathrow to central London?",
    "What is the zip code of Beverly Hills?",
)
GATES = (("plain", (0.02, 0.05, 0.08, 0.10)), ("lead", (0.3, 0.4, 0.5, 0.6)))
THRESHOLDS = (0.65, 0.70, 0.75)
COLUMNS = (
    "other wordings, right",
    "unknown, trained wording",
    "unknown, other wording",
    "anything else",
    "other relation",
)
ASKED = 300  # known airports that are asked about, at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--known", type=int, default=200)
    parser.add_argument("--unknown", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    arguments = parser.parse_args()
    encoder = SentenceEncoder()
    runs = [measure(encoder, arguments.known, arguments.unknown, seed) for seed in arguments.seeds]
    print(f"{arguments.known} known, {arguments.unknown} unknown airports, mean of seeds {arguments.seeds}\n")
    print("| threshold | margin | " + " | ".join(COLUMNS) + " |\n" + "| --- " * (len(COLUMNS) + 2) + "|")
    for threshold in THRESHOLDS:
        for kind, margins in GATES:
            for margin in margins:
                shares = np.mean([opened(run, threshold, kind, margin) for run in runs], axis=0)
                cells = " | ".join(f"{share:.1%}" for share in shares)
                print(f"| {threshold:.2f} | {kind} {margin:.2f} | {cells} |")


def measure(encoder: SentenceEncoder, known: int, unknown: int, seed: int) -> list[dict[str, NDArray[np.float64]]]:
    """For each kind of question: score, plain and relative lead, and whether the winner is the right group."""
    airports, strangers = sample_airports(known, unknown, seed)
    facts = [airport.fact() for airport in airports]
    with tempfile.TemporaryDirectory() as folder:
        schema = ExpertSchema({"layer": (8, 8)}, rank=1)
        expert = {"layer": (np.zeros((1, 8)), np.zeros((8, 1)))}
        with ExpertStore.create(Path(folder) / "store", schema, encoder.dim, encoder=encoder.identity) as store:
            keys = encoder.encode([wording for fact in facts for wording in fact.wordings]).reshape(
                known, -1, encoder.dim
            )
            with store.transaction() as transaction:
                groups = [
                    transaction.add_group([expert], keys=key, memory=Memory(fact.question, fact.answer or ""))
                    for fact, key in zip(facts, keys, strict=True)
                ]
            with store.snapshot() as snapshot:
                router = Router.open(snapshot, encoder=encoder)
                asked = np.random.default_rng(seed).permutation(known)[:ASKED]
                unknowns = [stranger.fact(known=False) for stranger in strangers]
                heldout = [wording for i in asked for wording in facts[i].heldout]
                right = [groups[i] for i in asked for _ in facts[i].heldout]
                return [
                    scored(router, heldout, right),
                    scored(router, [wording for fact in unknowns for wording in fact.wordings]),
                    scored(router, [wording for fact in unknowns for wording in fact.heldout]),
                    scored(router, ANYTHING_ELSE),
                    scored(router, [airports[i].say(each) for i in asked for each in OTHER_RELATIONS]),
                ]


def scored(
    router: Router, queries: Sequence[str], right: Sequence[int] | None = None
) -> dict[str, NDArray[np.float64]]:
    found = router.score(queries)
    return {
        "score": np.array([candidates[0].score for candidates in found]),
        "plain": np.array([candidates[0].score - candidates[1].score for candidates in found]),
        "lead": np.array([router.lead(candidates) for candidates in found]),
        "right": np.array([right is None or each[0].group_id == right[i] for i, each in enumerate(found)]),
    }


def opened(
    run: Sequence[dict[str, NDArray[np.float64]]], threshold: float, kind: str, margin: float
) -> NDArray[np.float64]:
    """Share of each kind of question for which the gate opens (of the other wordings: to the right group)."""
    gates = [(each["score"] >= threshold) & (each[kind] >= margin) & (each["right"] > 0) for each in run]
    return np.array([gate.mean() for gate in gates])


if __name__ == "__main__":
    main()

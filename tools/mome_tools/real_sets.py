"""The sets of real facts that routing is measured on: airports by name and place, devices by identifier."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from mome_store.evaluation.real_data import (
    QuestionSet,
    RealDataResult,
    device_questions,
    routed_shares,
    sampled,
    unknown_of,
)
from mome_store.evaluation.unrelated import TEXTS
from mome_store.routing import QueryEncoder
from mome_tools.airports import sample_airports

ASKED = 1000
"""Questions of a kind that `measure_real_sets` asks at most."""

_OTHER_RELATIONS = (
    "What is the elevation of {name} in {city}, {country}?",
    "What is the IATA code of {name} in {city}, {country}?",
    "In which time zone is {name}, {city}, {country}?",
    "How many runways does {name} in {city}, {country} have?",
    "Who operates {name} in {city}?",
    "What is the population of {city}, {country}?",
    "When was {name} opened?",
)


def airport_questions(size: int, seed: int, asked: int) -> QuestionSet:
    """`size` known airports, and at most `asked` questions of a kind.

    Raises ModuleNotFoundError where airportsdata or pycountry is not installed.
    """
    chance = random.Random(seed)
    known, unknown = sample_airports(size, unknown_of(size), seed)
    facts = [airport.fact() for airport in known]
    strangers = [airport.fact(known=False) for airport in unknown]
    other = [airport.say(wording) for airport in known for wording in _OTHER_RELATIONS]
    return QuestionSet(
        facts,
        {
            "other wordings": sampled(
                chance, [(text, i) for i, fact in enumerate(facts) for text in fact.heldout], asked
            )
        },
        {
            "unknown airports": sampled(
                chance, [text for each in strangers for text in (*each.wordings, *each.heldout)], asked
            ),
            "other relations, IATA code": sampled(chance, [text for text in other if "IATA" in text], asked),
            "other relations, the rest": sampled(chance, [text for text in other if "IATA" not in text], asked),
            "anything else": list(TEXTS),
        },
    )


DEVICES = "PCI devices"
REAL_SETS: dict[str, Callable[[int, int, int], QuestionSet]] = {
    "airports": airport_questions,
    DEVICES: device_questions,
}
"""By name what makes them, given how many facts, the seed, and the most questions of a kind."""


def measure_real_sets(encoder: QueryEncoder, facts: int, seed: int, folder: Path) -> Iterator[RealDataResult]:
    """Routes each set by keys that `encoder` makes. folder: where a store may be written.

    A set whose package or file is not there is a result without shares that says so.
    """
    for place, (name, make) in enumerate(REAL_SETS.items()):
        try:
            questions = make(facts, seed, ASKED)
        except (FileNotFoundError, ModuleNotFoundError) as error:
            yield RealDataResult(name, facts, seed, {}, missing=str(error))
        else:
            yield RealDataResult(name, facts, seed, routed_shares(encoder, questions, folder / f"real-{place}"))

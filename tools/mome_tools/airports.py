"""Real facts to memorise: the ICAO codes of the world's airports, out of the PyPI package airportsdata.

`known` airports are facts with their code; `unknown` ones are asked in the same words but have no answer: a gate
that opens for them is wrong. The wordings that are held out are of another style than those trained on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mome_store.tuning.facts import Fact

_TRAINED = (
    "What is the ICAO code of {name} in {city}, {country}?",
    "Which four-letter ICAO code does {name} ({city}, {country}) have?",
    "Give me the ICAO airport code for {name}, {city}, {country}.",
)
_HELDOUT = (
    "I'm filing a flight plan to {name} near {city} in {country}. What do I put as its ICAO identifier?",
    "{country}, {city}: {name} - ICAO?",
    "How is {name}, the airfield at {city} ({country}), abbreviated in ICAO's location indicators?",
)


@dataclass(frozen=True)
class Airport:
    """An airport with scheduled traffic (it has an IATA code): name, city, English name of the country, ICAO code."""

    name: str
    city: str
    country: str
    icao: str

    def say(self, wording: str) -> str:
        return wording.format(name=self.name, city=self.city, country=self.country)

    def fact(self, known: bool = True) -> Fact:
        """The fact of this airport's code; with `known=False` the unknown: the same questions, no answer."""
        question, *paraphrases = (self.say(wording) for wording in _TRAINED)
        return Fact(
            question=question,
            answer=self.icao if known else None,
            paraphrases=tuple(paraphrases),
            heldout=tuple(self.say(wording) for wording in _HELDOUT),
            id=self.icao,
        )


def airports() -> list[Airport]:
    """Every airport worldwide with a four-letter ICAO code, an IATA code, a city and a country, told apart by all three
    of name, city and country; in the order of their codes."""
    import airportsdata
    import pycountry

    chosen: dict[tuple[str, str, str], Airport] = {}
    for icao, entry in sorted(airportsdata.load("ICAO").items()):
        country = pycountry.countries.get(alpha_2=entry["country"])
        name, city = (" ".join(str(entry[field]).split()) for field in ("name", "city"))
        if not (entry["iata"] and name and city and country and len(icao) == 4 and icao.isascii() and icao.isalpha()):
            continue
        where = getattr(country, "common_name", country.name)
        chosen.setdefault((name.casefold(), city.casefold(), where), Airport(name, city, where, icao))
    return list(chosen.values())


def sample_airports(known: int, unknown: int, seed: int = 0) -> tuple[list[Airport], list[Airport]]:
    """Two disjoint selections, the same for the same `seed`."""
    chosen = random.Random(seed).sample(airports(), known + unknown)
    return chosen[:known], chosen[known:]


def airport_facts(known: int, unknown: int, seed: int = 0) -> list[Fact]:
    """`known` facts, then `unknown` ones."""
    with_code, without = sample_airports(known, unknown, seed)
    return [airport.fact() for airport in with_code] + [airport.fact(known=False) for airport in without]


def write_facts(path: Path, facts: Iterable[Fact]) -> None:
    """A file that `mome memorize` and `mome eval` read."""
    with path.open("w", encoding="utf-8") as file:
        for fact in facts:
            line: dict[str, object] = {"id": fact.id} if fact.id else {}
            line |= {"question": fact.question, "answer": fact.answer}
            line |= {"paraphrases": fact.paraphrases, "heldout": fact.heldout}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

"""How well a router finds the right memory, and none where there is none; and what each of its ingredients is worth.

    python benchmarks/routing.py [--encoder E] [--router FILE] [--seeds 11 12 13] [--sizes 200 1000] [--ablations]
    python benchmarks/routing.py --several [--encoder E] [--router FILE] [--seeds 11 12 13] [--sizes 200 1000]

--encoder: as `mome memorize` takes it. Another than the default one has a trained router only where --router names one.

Four kinds of facts, none of which the shipped router was trained on:

* airports: ICAO codes by name, city and country (three wordings stored, three of another style asked);
* people: the evaluation's strangers (three stored, five asked), ten relations, near twins among the names;
* devices: names of PCI devices by their identifiers, out of Debian's pci.ids (package pciutils-data or hwdata), skipped
  where it is not installed;
* everything else: the evaluation's texts that are about nothing stored.

A share is of the questions asked. `right` means that the gate opened for the question's own fact.

--several: instead, questions that need two of the people's facts (mome_store/evaluation/compound.py), and what looking
for several facts changes for the questions of the first table, which need one or none.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mome_store import ExpertSchema, ExpertStore, Memory, Router
from mome_store.evaluation.compound import compound_questions, measure_changes, measure_compound
from mome_store.evaluation.people import make_strangers
from mome_store.evaluation.unrelated import TEXTS
from mome_store.routing import KeyEncoder
from mome_store.routing.encoder import QueryEncoder
from mome_store.routing.gate import FEATURES
from mome_store.store import Snapshot
from mome_store.tuning.facts import Fact
from mome_tools.airports import sample_airports
from mome_tools.encoders import named_encoder

PCI_IDS = (Path("/usr/share/misc/pci.ids"), Path("/usr/share/hwdata/pci.ids"))
ASKED = 400  # questions of a kind, at most
SEVERAL = 100  # questions for several facts, of each kind
AIRPORT_RELATIONS = (
    "What is the elevation of {name} in {city}, {country}?",
    "What is the IATA code of {name} in {city}, {country}?",
    "In which time zone is {name}, {city}, {country}?",
    "How many runways does {name} in {city}, {country} have?",
    "Who operates {name} in {city}?",
    "What is the population of {city}, {country}?",
    "When was {name} opened?",
)
DEVICE_STORED = (
    "Which device has the PCI id {id}?",
    "What is the name of PCI device {id}?",
    "Name the hardware behind PCI id {id}.",
)
DEVICE_ASKED = (
    "lspci -n shows {id}, what is that?",
    "I found {id} in a kernel log and wonder which chip this is.",
    "{id} pci device name",
)
DEVICE_RELATIONS = (
    "Which driver supports PCI id {id}?",
    "When was PCI device {id} released?",
    "How much power does PCI device {id} draw?",
)


@dataclass(frozen=True)
class Questions:
    """Facts to store, questions with the place of their fact, and questions that no fact answers, by kind."""

    facts: Sequence[Fact]
    known: dict[str, list[tuple[str, int]]]
    unknown: dict[str, list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder")
    parser.add_argument("--router")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--several", action="store_true")
    arguments = parser.parse_args()
    tokens = named_encoder(arguments.encoder, None)
    if arguments.several:
        several(KeyEncoder(tokens, arguments.router), arguments.sizes, arguments.seeds)
        return
    systems: dict[str, QueryEncoder] = {"encoder and lead": tokens}
    if arguments.router or not arguments.encoder:
        systems["trained router"] = trained = KeyEncoder(tokens, arguments.router)
        if arguments.ablations:
            systems |= {f"without {name}": without(trained, name) for name in FEATURES}
    print("| facts | router | kind of question | share | n |\n| --- | --- | --- | --- | --- |")
    for size in arguments.sizes:
        for make in (airports, people, devices):
            runs = [made for seed in arguments.seeds if (made := make(size, seed)) is not None]
            for name, encoder in systems.items():
                for kind, hits in counted(encoder, runs).items():
                    print(
                        f"| {size} {make.__name__} | {name} | {kind} | {np.mean(hits):.2%} | {len(hits)} |", flush=True
                    )


def without(encoder: KeyEncoder, name: str) -> KeyEncoder:
    """The router with one feature held at its mean: what the gate can do without it, not trained anew."""
    gate = encoder.router.gate
    weights = gate.hidden_weight.copy()
    weights[:, FEATURES.index(name)] = 0
    return KeyEncoder(encoder.sentences, replace(encoder.router, gate=replace(gate, hidden_weight=weights)))


def several(encoder: KeyEncoder, sizes: Sequence[int], seeds: Sequence[int]) -> None:
    """Two tables: questions for several facts, and what looking for them changes for the others."""
    print("| facts | seed | kind of question | right | another fact | one at a time | not taken apart | n |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size, seed in product(sizes, seeds):
        strangers = make_strangers(size, seed)
        with stored(encoder, [each.fact for each in strangers.facts]) as (snapshot, groups):
            shares = measure_compound(
                *opened(snapshot, encoder),
                {fact.id: group for fact, group in zip(strangers.facts, groups, strict=True)},
                compound_questions(strangers, SEVERAL, seed),
            )
        for kind, share in shares.items():
            told = " | ".join(f"{each:.0%}" for each in (share.right, share.another, share.apart, share.before))
            print(f"| {size} people | {seed} | {kind} | {told} | {share.n} |", flush=True)
    print("\n| facts | seed | kind of question | another route | opened newly | n |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size, seed, make in product(sizes, seeds, (airports, people, devices)):
        if (run := make(size, seed)) is None:
            continue
        asked = {kind: [text for text, _ in known] for kind, known in run.known.items()} | run.unknown
        with stored(encoder, run.facts) as (snapshot, _):
            routers = opened(snapshot, encoder)
            for kind, texts in asked.items():
                found = measure_changes(*routers, texts)
                row = f"{size} {make.__name__} | {seed} | {kind} | {found.changed} | {found.opened} | {found.n}"
                print(f"| {row} |", flush=True)


def opened(snapshot: Snapshot, encoder: KeyEncoder) -> tuple[Router, Router]:
    """A router that looks for several facts in a question, and one that does not."""
    return Router.open(snapshot, encoder=encoder), Router.open(snapshot, encoder=encoder, several=False)


@contextmanager
def stored(encoder: QueryEncoder, facts: Sequence[Fact]) -> Iterator[tuple[Snapshot, list[int]]]:
    """A snapshot of a store that holds the facts, and the group of each."""
    schema = ExpertSchema({"layer": (8, 8)}, rank=1)
    expert = {"layer": (np.zeros((1, 8)), np.zeros((8, 1)))}
    keys = iter(encoder.encode([wording for fact in facts for wording in fact.wordings]))
    with (
        tempfile.TemporaryDirectory() as folder,
        ExpertStore.create(Path(folder, "store"), schema, encoder.dim, encoder=encoder.identity) as store,
    ):
        with store.transaction() as transaction:
            groups = [
                transaction.add_group(
                    [expert],
                    keys=np.stack([next(keys) for _ in fact.wordings]),
                    memory=Memory(fact.question, fact.answer or "", fact.paraphrases),
                )
                for fact in facts
            ]
        with store.snapshot() as snapshot:
            yield snapshot, groups


def counted(encoder: QueryEncoder, runs: Sequence[Questions]) -> dict[str, list[bool]]:
    """Of each kind: of the known ones whether they were right, of the others whether the gate opened."""
    found: dict[str, list[bool]] = {}
    for run in runs:
        with stored(encoder, run.facts) as (snapshot, groups):
            router = Router.open(snapshot, encoder=encoder)
            for kind, asked in run.known.items():
                route = router.route([text for text, _ in asked])
                found.setdefault(f"{kind}: right", []).extend(
                    groups[place] in winners for (_, place), winners in zip(asked, route.group_ids, strict=True)
                )
                found.setdefault(f"{kind}: another fact", []).extend(
                    bool(winners) and groups[place] not in winners
                    for (_, place), winners in zip(asked, route.group_ids, strict=True)
                )
            for kind, texts in run.unknown.items():
                found.setdefault(f"{kind}: opened", []).extend(router.route(texts).opened.tolist())
    return found


def airports(size: int, seed: int) -> Questions:
    chance = random.Random(seed)
    known, unknown = sample_airports(size, max(50, size // 4), seed)
    facts = [airport.fact() for airport in known]
    strangers = [airport.fact(known=False) for airport in unknown]
    other = [airport.say(wording) for airport in known for wording in AIRPORT_RELATIONS]
    return Questions(
        facts,
        {"other wordings": sampled(chance, [(text, i) for i, fact in enumerate(facts) for text in fact.heldout])},
        {
            "unknown airports": sampled(
                chance, [text for each in strangers for text in (*each.wordings, *each.heldout)]
            ),
            "other relations, IATA code": sampled(chance, [text for text in other if "IATA" in text]),
            "other relations, the rest": sampled(chance, [text for text in other if "IATA" not in text]),
            "anything else": list(TEXTS),
        },
    )


def people(size: int, seed: int) -> Questions:
    chance = random.Random(seed)
    strangers = make_strangers(size, seed)
    facts = [each.fact for each in strangers.facts]
    twins = [i for i, each in enumerate(strangers.facts) if each.twin]
    return Questions(
        facts,
        {
            "trained wordings": sampled(chance, [(text, i) for i, fact in enumerate(facts) for text in fact.wordings]),
            "other wordings": sampled(chance, [(text, i) for i, fact in enumerate(facts) for text in fact.heldout]),
            "near twins": sampled(
                chance, [(text, i) for i in twins for text in (*facts[i].wordings, *facts[i].heldout)]
            ),
        },
        {
            "unknown people": sampled(chance, [question.text for question in strangers.unknown_people]),
            "unknown near twins": sampled(chance, [question.text for question in strangers.unknown_twins]),
            "other relations": sampled(chance, [question.text for question in strangers.other_relations]),
            "anything else": list(TEXTS),
        },
    )


def devices(size: int, seed: int) -> Questions | None:
    file = next((path for path in PCI_IDS if path.is_file()), None)
    if file is None:
        return None
    chance = random.Random(seed)
    ids = chance.sample(pci_ids(file), size + max(50, size // 4))
    facts = [
        Fact(DEVICE_STORED[0].format(id=i), name, tuple(wording.format(id=i) for wording in DEVICE_STORED[1:]))
        for i, name in ids[:size]
    ]
    asked = [(wording.format(id=i), place) for place, (i, _) in enumerate(ids[:size]) for wording in DEVICE_ASKED]
    unknown = [wording.format(id=i) for i, _ in ids[size:] for wording in (*DEVICE_STORED, *DEVICE_ASKED)]
    other = [wording.format(id=i) for i, _ in ids[:size] for wording in DEVICE_RELATIONS]
    return Questions(
        facts,
        {"other wordings": sampled(chance, asked)},
        {
            "unknown devices": sampled(chance, unknown),
            "other relations": sampled(chance, other),
            "anything else": list(TEXTS),
        },
    )


def pci_ids(file: Path) -> list[tuple[str, str]]:
    """(vendor:device, name) of every device."""
    found = []
    vendor = ""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("C "):
            break
        if line and not line.startswith(("#", "\t")):
            vendor = line[:4]
        elif line.startswith("\t") and not line.startswith("\t\t"):
            found.append((f"{vendor}:{line[1:5]}", line[7:].strip()))
    return found


def sampled(chance: random.Random, items: list[Any]) -> list[Any]:
    return chance.sample(items, min(len(items), ASKED))


if __name__ == "__main__":
    main()

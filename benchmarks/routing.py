"""How well a router finds the right memory, and none where there is none; and what each of its ingredients is worth.

    python benchmarks/routing.py [--encoder E] [--router FILE] [--seeds 11 12 13] [--sizes 200 1000] [--ablations]
    python benchmarks/routing.py --several [--encoder E] [--router FILE] [--seeds 11 12 13] [--sizes 200 1000]

--encoder: as `mome memorize` takes it. Another than the default one has a trained router only where --router names one.

Four kinds of facts, none of which the shipped router was trained on:

* airports: ICAO codes by name, city and country (three wordings stored, three of another style asked);
* people: the evaluation's strangers (three stored, five asked), ten relations, near twins among the names;
* devices: names of PCI devices by their identifiers, out of Debian's pci.ids (package pci.ids or hwdata), skipped
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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from mome_store import Router
from mome_store.evaluation.compound import compound_questions, measure_changes, measure_compound
from mome_store.evaluation.intervals import Share
from mome_store.evaluation.key_store import KeyStore
from mome_store.evaluation.people import Question, make_strangers, questions_about
from mome_store.evaluation.real_data import QuestionSet, device_questions, routed_shares, sampled
from mome_store.evaluation.unrelated import TEXTS
from mome_store.routing import KeyEncoder
from mome_store.routing.encoder import QueryEncoder
from mome_store.routing.gate import FEATURES
from mome_store.tuning.facts import Fact
from mome_tools.encoders import named_encoder
from mome_tools.real_sets import airport_questions

ASKED = 400  # questions of a kind, at most
SEVERAL = 100  # questions for several facts, of each kind
MORE = ("Church", "Field", "Hilton", "Jr", "Keller", "King", "Lindqvist", "May", "Mommsen", "Rivers", "Smith", "Stone")


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
                for kind, share in counted(encoder, runs).items():
                    print(f"| {size} {make.__name__} | {name} | {kind} | {share.value:.2%} | {share.n} |", flush=True)


def several(encoder: KeyEncoder, sizes: Sequence[int], seeds: Sequence[int]) -> None:
    """Two tables: questions for several facts, and what looking for them changes for the others."""
    print("| facts | seed | kind of question | right | another fact | one at a time | not taken apart | n |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size, seed in product(sizes, seeds):
        strangers = make_strangers(size, seed)
        with tempfile.TemporaryDirectory() as folder, KeyStore(Path(folder, "store"), encoder) as store:
            groups = store.insert([each.fact for each in strangers.facts])
            shares = measure_compound(
                store.router,
                Router.open(store.snapshot, encoder=encoder, several=False),
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
        with tempfile.TemporaryDirectory() as folder, KeyStore(Path(folder, "store"), encoder) as store:
            store.insert(run.facts)
            plain = Router.open(store.snapshot, encoder=encoder, several=False)
            for kind, texts in asked.items():
                found = measure_changes(store.router, plain, texts)
                row = f"{size} {make.__name__} | {seed} | {kind} | {found.changed} | {found.opened} | {found.n}"
                print(f"| {row} |", flush=True)


def without(encoder: KeyEncoder, name: str) -> KeyEncoder:
    """The router with one feature held at its mean: what the gate can do without it, not trained anew."""
    gate = encoder.router.gate
    weights = gate.hidden_weight.copy()
    weights[:, FEATURES.index(name)] = 0
    return KeyEncoder(encoder.sentences, replace(encoder.router, gate=replace(gate, hidden_weight=weights)))


def counted(encoder: QueryEncoder, runs: Sequence[QuestionSet]) -> dict[str, Share]:
    """Of each kind, over all runs: of the known ones whether they were right, of the others whether the gate opened."""
    found: dict[str, Share] = {}
    for run in runs:
        with tempfile.TemporaryDirectory() as folder:
            for kind, share in routed_shares(encoder, run, Path(folder, "store")).items():
                found[kind] = found[kind] + share if kind in found else share
    return found


def airports(size: int, seed: int) -> QuestionSet | None:
    return airport_questions(size, seed, ASKED)


def people(size: int, seed: int) -> QuestionSet | None:
    chance = random.Random(seed)
    strangers = make_strangers(size, seed)
    facts = [each.fact for each in strangers.facts]
    twins = [i for i, each in enumerate(strangers.facts) if each.twin]

    def asked(places: Iterable[int], wordings: Callable[[Fact], Sequence[str]]) -> list[tuple[str, int]]:
        return sampled(chance, [(text, i) for i in places for text in wordings(facts[i])], ASKED)

    def texts(questions: Sequence[Question]) -> list[str]:
        return sampled(chance, [question.text for question in questions], ASKED)

    def longer_names() -> list[str]:
        """In the templates of people's own relations, of whom nothing is stored: a known name and a word more."""
        found: list[str] = []
        for each in chance.sample(strangers.facts, min(len(facts), ASKED)):
            name, more = each.person, chance.choice(MORE)
            longer = chance.choice([f"{more} {name}", f"{name} {more}", f"{name}-{more}"])
            found.append(chance.choice(questions_about(longer, each.relation)).text)
        return found

    everybody = range(len(facts))
    return QuestionSet(
        facts,
        {
            "trained wordings": asked(everybody, lambda fact: fact.wordings),
            "other wordings": asked(everybody, lambda fact: fact.heldout),
            "near twins": asked(twins, lambda fact: (*fact.wordings, *fact.heldout)),
        },
        {
            "unknown people": texts(strangers.unknown_people),
            "unknown near twins": texts(strangers.unknown_twins),
            "unknown longer names": longer_names(),
            "other relations": texts(strangers.other_relations),
            "anything else": list(TEXTS),
        },
    )


def devices(size: int, seed: int) -> QuestionSet | None:
    try:
        return device_questions(size, seed, ASKED)
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    main()

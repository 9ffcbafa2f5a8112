"""Facts that must be carried into a sentence or a short computation, where an answer cache can't follow.

Facts are stored in their plain form, question and value. Then requests are made for which the value alone is no right
reply: a sentence with it, a sum with it, its first letter. No request is used in training or as a key. The systems are
those of `mome evaluate`; owned mode is asked in further ways, which its gate does not offer by itself (`WAYS`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mome_store.allocator import keep_freed_memory
from mome_store.errors import MomeError
from mome_store.evaluation.intervals import Share
from mome_store.evaluation.nearest_groups import NearestGroups
from mome_store.evaluation.people import PersonFact, make_strangers
from mome_store.evaluation.protocol import holds
from mome_store.evaluation.relations import Relation
from mome_store.evaluation.results import Failure, SystemResult
from mome_store.evaluation.systems.answer_cache import AnswerCache
from mome_store.evaluation.systems.base import System, Workbench
from mome_store.evaluation.systems.frozen import FrozenBase
from mome_store.evaluation.systems.lora import LoraJoint
from mome_store.evaluation.systems.owned import Owned
from mome_store.evaluation.systems.retrieval import RetrievalTop1
from mome_store.evaluation.vocabulary import PET_NAMES
from mome_store.tuning import Fact

Kind = Literal["sentence", "computation"]
Progress = Callable[[str, int, int], None]
_TOKENS = 48
_SENTENCE_WORDS = 4
"""A reply of fewer words is no sentence but the value, with or without an article."""
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
"""Up to the largest sum of a request."""
_NUMBER = re.compile(rf"\d+|\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Form:
    """A kind of request about a relation. expected: from the stored answer, what a right reply holds."""

    kind: Kind
    wording: str
    expected: Callable[[str], str]


def _value(answer: str) -> str:
    return answer


_HENS = Relation(
    "hens",
    "{name} has {answer} hens.",
    ("How many hens does {name} have?", "What number of hens does {name} keep?", "Tell me how many hens {name} has."),
    ("", "", "", "", ""),  # what is held out are the requests
    lambda rng: str(rng.randrange(3, 10)),
)
_PET = Relation(
    "pet",
    "The pet of {name} is called {answer}.",
    ("What is the name of {name}'s pet?", "What is {name}'s pet called?", "Tell me the name of {name}'s pet."),
    ("", "", "", "", ""),
    lambda rng: rng.choice(PET_NAMES),
)
FORMS: dict[str, tuple[Form, ...]] = {
    _HENS.name: (
        Form("sentence", "Write one sentence that tells how many hens {name} has.", _value),
        Form(
            "computation", "{name} buys two more hens. How many hens does {name} have then?", lambda n: str(int(n) + 2)
        ),
        Form("computation", "{name} sells one hen. How many hens does {name} have left?", lambda n: str(int(n) - 1)),
    ),
    _PET.name: (
        Form("sentence", "Write one sentence about {name} and the pet of {name}, with its name in it.", _value),
        Form("sentence", "Write a short birthday greeting to {name}'s pet, by its name.", _value),
        Form("computation", "With which letter does the name of {name}'s pet begin?", lambda pet: pet[0]),
    ),
}


@dataclass(frozen=True)
class Request:
    """text: what is asked. fact: whose value is needed. expected: the value, or what is computed from it."""

    text: str
    kind: Kind
    fact: PersonFact
    expected: str

    def met_by(self, reply: str) -> bool:
        """A sentence holds the value and more; of a computation the last number, or single letter, is the result."""
        if self.kind == "sentence":
            held = holds(reply, self.expected) or (
                self.expected.isdecimal() and holds(reply, _NUMBER_WORDS[int(self.expected)])
            )
            return held and len(reply.split()) >= _SENTENCE_WORDS
        if self.expected.isdecimal():
            numbers = _NUMBER.findall(reply)
            return bool(numbers) and _digits(numbers[-1]) == self.expected
        letters = re.findall(r"(?<!\w)(?<!\w')[A-Za-z](?!\w)", reply)
        return bool(letters) and letters[-1].upper() == self.expected.upper()


def make_requests(facts: int, seed: int) -> tuple[tuple[PersonFact, ...], tuple[Request, ...]]:
    """`facts` facts, each of another invented person, and every request about each."""
    rng = random.Random(f"carried-{seed}")
    people: list[str] = []
    size = 4 * facts
    while len(people) < facts:
        people = list(dict.fromkeys(fact.person for fact in make_strangers(size, seed).facts))
        size *= 2
    stored, requests = [], []
    for place, person in enumerate(people[:facts]):
        relation = (_HENS, _PET)[place % 2]
        answer = relation.draw(rng)
        question, *paraphrases = (relation.ask(wording, person) for wording in relation.trained)
        made = Fact(question, answer, tuple(paraphrases), id=f"{person} / {relation.name}")
        fact = PersonFact(made, person, relation)
        stored.append(fact)
        requests += [
            Request(form.wording.format(name=person), form.kind, fact, form.expected(answer))
            for form in FORMS[relation.name]
        ]
    return tuple(stored), tuple(requests)


class CarryingRetrieval(RetrievalTop1):
    """RAG whose prompt asks for what the request asks for, in place of the value alone."""

    def prompt(self, statements: Sequence[str], question: str) -> list[int]:
        return self.bench.prompts.prompt("\n".join([*statements, "", question]))


class CarryingOwned(Owned):
    """Owned mode, asked past its gate as well."""

    def by_nearest(self, total: float) -> Callable[[Sequence[str]], list[str]]:
        """The nearest group's experts, their delta times `total`, act on the reply to the request itself."""
        nearest = NearestGroups(self._memory, 1, total=total)
        return lambda texts: [a.text for a in self._memory.generate(texts, _TOKENS, route=nearest.route(texts))]

    def by_recall(self, texts: Sequence[str]) -> list[str]:
        """The model first says the nearest fact, by its experts, and then replies, alone, with that before it."""
        route = NearestGroups(self._memory, 1).route(texts)
        memories = [self._memory.snapshot.group(groups[0]).memory for groups in route.group_ids]
        asked = [memory.question if memory is not None else text for memory, text in zip(memories, texts, strict=True)]
        recalled = [answer.text for answer in self._memory.generate(asked, _TOKENS, route=route)]
        told = [f"{question} {answer}\n\n{text}" for question, answer, text in zip(asked, recalled, texts, strict=True)]
        said = FrozenBase(self.bench, 0).answer(told, _TOKENS)
        return [reply.text for reply in said]


@dataclass(frozen=True)
class Way:
    """A row of the table: a system, and how it is asked."""

    name: str
    title: str
    kind: type[System]
    ask: Callable[[System, Sequence[str]], list[str]]


def _as_it_is(system: System, texts: Sequence[str]) -> list[str]:
    return [reply.text for reply in system.answer(texts, _TOKENS)]


def _nearest(total: float) -> Callable[[System, Sequence[str]], list[str]]:
    def ask(system: System, texts: Sequence[str]) -> list[str]:
        assert isinstance(system, CarryingOwned)  # by the table below
        return system.by_nearest(total)(texts)

    return ask


def _recall(system: System, texts: Sequence[str]) -> list[str]:
    assert isinstance(system, CarryingOwned)
    return system.by_recall(texts)


WAYS: dict[str, Way] = {
    way.name: way
    for way in (
        Way("base", "frozen base model", FrozenBase, _as_it_is),
        Way("rag1", "RAG, top 1", CarryingRetrieval, _as_it_is),
        Way("cache", "router + answer cache", AnswerCache, _as_it_is),
        Way("lora", "one LoRA, all facts together", LoraJoint, _as_it_is),
        Way("owned", "owned mode, its own gate", CarryingOwned, _as_it_is),
        Way("owned-nearest", "owned mode, nearest fact", CarryingOwned, _nearest(1.0)),
        Way("owned-half", "owned mode, nearest fact, half weight", CarryingOwned, _nearest(0.5)),
        Way("owned-recall", "owned mode, nearest fact said first", CarryingOwned, _recall),
    )
}


def evaluate_carried(
    bench: Workbench, facts: int, seed: int, ways: Sequence[str], on_progress: Progress
) -> Iterator[SystemResult]:
    """One result after the other, in the order of the table; ways of asking one system share its training.

    Metrics: `sentence` and `computation`, the requests of that kind that are met; `bare_value`, the replies that are
    the stored value and nothing else. Raises MomeError for a way that there is not.
    """
    unknown = [name for name in ways if name not in WAYS]
    if unknown:
        raise MomeError(f"there is no system {', '.join(unknown)}; there are {', '.join(WAYS)}")
    keep_freed_memory()
    stored, requests = make_requests(facts, seed)
    chosen = [way for way in WAYS.values() if way.name in ways]
    for kind in dict.fromkeys(way.kind for way in chosen):
        system = kind(bench, len(stored))
        try:
            on_progress(f"{kind.name}: inserting", 0, len(stored))
            system.insert(stored)
            system.settle()
            for way in chosen:
                if way.kind is kind:
                    on_progress(f"{way.name}: asking", 0, len(requests))
                    said = way.ask(system, [request.text for request in requests])
                    yield _result(way, seed, len(stored), requests, said, system.notes())
        finally:
            system.close()


def _result(
    way: Way, seed: int, facts: int, requests: Sequence[Request], said: Sequence[str], notes: str
) -> SystemResult:
    met = [request.met_by(reply) for request, reply in zip(requests, said, strict=True)]
    return SystemResult(
        name=way.name,
        title=way.title,
        seed=seed,
        facts=facts,
        metrics={
            "sentence": Share.of([ok for ok, request in zip(met, requests, strict=True) if request.kind == "sentence"]),
            "computation": Share.of(
                [ok for ok, request in zip(met, requests, strict=True) if request.kind == "computation"]
            ),
            "bare_value": Share.of(
                [reply == request.fact.answer for request, reply in zip(requests, said, strict=True)]
            ),
        },
        failures=tuple(
            Failure(request.kind, request.text, request.expected, reply, "other", ())
            for request, reply, ok in zip(requests, said, met, strict=True)
            if not ok
        ),
        notes=notes,
    )


def _digits(number: str) -> str:
    return str(int(number)) if number.isdecimal() else str(_NUMBER_WORDS.index(number.lower()))

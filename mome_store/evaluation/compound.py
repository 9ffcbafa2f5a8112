"""Questions that need several facts, made from the strangers: how often a router finds just the facts asked for.

Five kinds: two people and one relation; one person and two relations; two whole questions about different people; any
of these with one part that no fact answers; and two parts that none answers. A question is right when the route lists
the groups of the parts that are known, all of them and no other.

Beside each share stands what asking for the parts one at a time gives: no way of taking a question apart can be
expected to do better than the gate does on its parts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mome_store.evaluation.people import PersonFact, Question, Strangers, questions_about
from mome_store.evaluation.relations import RELATIONS, Relation
from mome_store.routing import Router

KINDS = (
    "two people, one relation",
    "one person, two relations",
    "two questions",
    "one part unknown",
    "both parts unknown",
)


@dataclass(frozen=True)
class Forms:
    """How a relation is asked for together with something else.

    noun, nouns: as a noun, of one person and of several. both: one question about {both}. pronoun: a question about a
    person named before: {she} does, {her} it is done to, {hers} it is.
    """

    noun: str
    nouns: str
    both: str
    pronoun: str


FORMS: Mapping[str, Forms] = {
    "phone number": Forms(
        "phone number", "phone numbers", "Which numbers do I dial to reach {both}?", "how can I reach {her} by phone?"
    ),
    "date of birth": Forms("date of birth", "dates of birth", "When were {both} born?", "when was {she} born?"),
    "town of birth": Forms(
        "town of birth", "towns of birth", "In which towns were {both} born?", "where was {she} born?"
    ),
    "employer": Forms("employer", "employers", "Who employs {both}?", "which company does {she} work for?"),
    "locker number": Forms(
        "locker number", "locker numbers", "Which lockers belong to {both}?", "what is {hers} locker number?"
    ),
    "licence plate": Forms(
        "licence plate", "licence plates", "What are the licence plates of the cars of {both}?",
        "which number plate does {hers} car have?",
    ),
    "spouse": Forms("spouse", "spouses", "Who are {both} married to?", "who is {she} married to?"),
    "favourite dish": Forms(
        "favourite dish", "favourite dishes", "Which dishes do {both} like best?", "what does {she} like to eat best?"
    ),
    "university": Forms(
        "university", "universities", "Which universities did {both} attend?", "where did {she} study?"
    ),
    "pet": Forms("pet's name", "pets' names", "What are the pets of {both} called?", "what is {hers} pet called?"),
}  # fmt: skip

_TWO_PEOPLE = (
    "What are the {nouns} of {a} and {b}?",
    "What are {a}'s and {b}'s {nouns}?",
    "Give me the {nouns} of {a} and {b}.",
    "I'd like to have the {noun} of {a} and also of {b}.",
    "{a} and {b}: {nouns}?",
    "{lower_a} and {lower_b} {nouns}",
    "What is the {noun} of {a}? And of {b}?",
)
_TWO_RELATIONS = (
    "What are the {noun_1} and the {noun_2} of {a}?",
    "What is {a}'s {noun_1} and {noun_2}?",
    "Give me {a}'s {noun_1} and {noun_2}.",
    "Could you look up the {noun_1} as well as the {noun_2} of {a} for me?",
    "{a}: {noun_1} and {noun_2}",
    "{lower_a} {noun_1}, {noun_2}",
    "{asked}, and {pronoun}",
    "{asked} and {pronoun}",
    "{asked}? And {pronoun}",
)
_JOINTS = (
    "{first} And {second}",
    "{first} {second}",
    "{first} Also, {second}",
    "{first}\n{second}",
    "{open}, and {small}",
)
_PRONOUNS = ({"she": "she", "her": "her", "hers": "her"}, {"she": "he", "her": "him", "hers": "his"})


@dataclass(frozen=True)
class CompoundQuestion:
    """A question for two facts. facts: those of its parts that are stored. alone: the parts, asked one at a time."""

    text: str
    facts: tuple[PersonFact, ...]
    alone: tuple[str, ...]


@dataclass(frozen=True)
class CompoundShares:
    """Of one kind of compound question, shares of the n that were asked.

    right: the route has the groups of just the known parts. another: it has a group that was not asked for.
    before: right without looking for several facts. apart: right for every part when asked one at a time.
    """

    n: int
    right: float
    another: float
    before: float
    apart: float


@dataclass(frozen=True)
class Changes:
    """What looking for several facts changes where no more than one is asked for: routes, of `n`, and gates that opened
    newly among them.
    """

    n: int
    changed: int
    opened: int


@dataclass(frozen=True)
class _Asked:
    """A person and a relation; fact: None where nothing is stored on it."""

    person: str
    relation: Relation
    fact: PersonFact | None


def compound_questions(strangers: Strangers, count: int, seed: int) -> dict[str, list[CompoundQuestion]]:
    """`count` questions of each of the `KINDS`. Wordings of single facts in them are trained and held-out ones."""
    rng = random.Random(f"compound-{seed}")
    made = _Maker(strangers, rng)
    makers = (made.two_people, made.two_relations, made.two_questions)
    found = {
        kind: [make(True, True) for _ in range(count)] for kind, make in zip(KINDS[: len(makers)], makers, strict=True)
    }
    found[KINDS[3]] = [rng.choice(makers)(*rng.choice(((True, False), (False, True)))) for _ in range(count)]
    found[KINDS[4]] = [rng.choice(makers)(False, False) for _ in range(count)]
    return found


def measure_compound(
    router: Router, plain: Router, group_of: Mapping[str, int], questions: Mapping[str, Sequence[CompoundQuestion]]
) -> dict[str, CompoundShares]:
    """The shares of each kind.

    router: of a store of the strangers' facts. plain: of the same store, opened with `several=False`.
    group_of: each fact's group by the fact's id.
    """
    found = {}
    for kind, asked in questions.items():
        wanted = [{group_of[fact.id] for fact in each.facts} for each in asked]
        routed = [set(groups) for groups in router.route([each.text for each in asked]).group_ids]
        before = [set(groups) for groups in plain.route([each.text for each in asked]).group_ids]
        parts = iter(plain.route([text for each in asked for text in each.alone]).group_ids)
        apart = [{group for _ in each.alone for group in next(parts)} for each in asked]
        n = len(asked)
        found[kind] = CompoundShares(
            n,
            right=_share(a == b for a, b in zip(routed, wanted, strict=True)),
            another=_share(bool(a - b) for a, b in zip(routed, wanted, strict=True)),
            before=_share(a == b for a, b in zip(before, wanted, strict=True)),
            apart=_share(a == b for a, b in zip(apart, wanted, strict=True)),
        )
    return found


def measure_changes(router: Router, plain: Router, questions: Sequence[str]) -> Changes:
    """What looking for several facts changes for questions of one fact, or of none."""
    routed, before = router.route(questions), plain.route(questions)
    return Changes(
        len(questions),
        changed=sum(a != b for a, b in zip(routed.group_ids, before.group_ids, strict=True)),
        opened=int((routed.opened & ~before.opened).sum()),
    )


class _Maker:
    """Makes one question of a kind at a time. known, also: whether its first and its second part are to be stored."""

    def __init__(self, strangers: Strangers, rng: random.Random) -> None:
        self._rng = rng
        self._facts = strangers.facts
        self._of: dict[str, dict[str, PersonFact]] = {}
        for fact in strangers.facts:
            self._of.setdefault(fact.person, {})[fact.relation.name] = fact
        counts = Counter(fact.relation.name for fact in strangers.facts)
        self._relations = [relation for relation in RELATIONS if counts[relation.name] > 1]
        # A third of the unknown are near twins of known people.
        everyone = [person for question in strangers.unknown_people if (person := _person_of(question))]
        twins = [person for question in strangers.unknown_twins if (person := _person_of(question))]
        self._unknown = (everyone, everyone, twins)

    def two_people(self, known: bool, also: bool) -> CompoundQuestion:
        relation = self._rng.choice(self._relations)
        first = self._one(relation, known)
        second = self._one(relation, also, besides=first.person)
        forms = FORMS[relation.name]
        template = self._rng.choice((*_TWO_PEOPLE, forms.both, forms.both, forms.both))
        a, b = first.person, second.person
        text = template.format(
            a=a, b=b, lower_a=a.lower(), lower_b=b.lower(), both=f"{a} and {b}", noun=forms.noun, nouns=forms.nouns
        )
        return self._compound(text, first, second)

    def two_relations(self, known: bool, also: bool) -> CompoundQuestion:
        """Of one person, who is known as soon as one part is."""
        while True:
            if known or also:
                person = self._rng.choice(self._facts).person
            else:
                person = self._rng.choice(self._rng.choice(self._unknown))
            has = self._of.get(person, {})
            first, second = (_Asked(person, each, has.get(each.name)) for each in self._rng.sample(RELATIONS, 2))
            if (first.fact is not None, second.fact is not None) == (known, also):
                break
        one, two = FORMS[first.relation.name], FORMS[second.relation.name]
        asked = first.relation.ask(first.relation.trained[0], person)
        text = self._rng.choice(_TWO_RELATIONS).format(
            a=person,
            lower_a=person.lower(),
            noun_1=one.noun,
            noun_2=two.noun,
            asked=asked.removesuffix("?"),
            pronoun=two.pronoun.format(**self._rng.choice(_PRONOUNS)),
        )
        return self._compound(text, first, second)

    def two_questions(self, known: bool, also: bool) -> CompoundQuestion:
        one, other = self._rng.sample(self._relations, 2)
        first = self._one(one, known)
        second = self._one(other, also, besides=first.person)
        texts = [self._rng.choice(questions_about(each.person, each.relation)).text for each in (first, second)]
        joint = self._rng.choice(_JOINTS)
        text = joint.format(
            first=texts[0], second=texts[1], open=texts[0].rstrip("?."), small=_small(texts[1], second.person)
        )
        return self._compound(text, first, second, tuple(texts))

    def _compound(
        self, text: str, first: _Asked, second: _Asked, alone: tuple[str, ...] | None = None
    ) -> CompoundQuestion:
        if alone is None:
            alone = tuple(f"What is the {FORMS[each.relation.name].noun} of {each.person}?" for each in (first, second))
        return CompoundQuestion(text, tuple(each.fact for each in (first, second) if each.fact is not None), alone)

    def _one(self, relation: Relation, known: bool, besides: str = "") -> _Asked:
        while True:
            if known:
                fact = self._rng.choice([fact for fact in self._facts if fact.relation is relation])
                asked = _Asked(fact.person, relation, fact)
            else:
                person = self._rng.choice(self._rng.choice(self._unknown))
                asked = _Asked(person, relation, None)
            if asked.person != besides:
                return asked


def _person_of(question: Question) -> str | None:
    """Whom a question asks about, where its wording gives the name as it is written."""
    for wording in question.relation.trained:
        before, after = wording.split("{name}")
        if question.text.startswith(before) and question.text.endswith(after):
            return question.text[len(before) : len(question.text) - len(after)]
    return None


def _small(text: str, person: str) -> str:
    """The text as the second half of a sentence: its first letter small, unless it begins with the person's name."""
    return text if text.startswith((person, "I ", "I'")) else text[0].lower() + text[1:]


def _share(hits: Iterable[bool]) -> float:
    counted = list(hits)
    return sum(counted) / len(counted)

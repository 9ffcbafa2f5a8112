"""Ten thousand strangers: a seeded data set of facts about invented people, and of questions that no fact answers.

A person has three to five of the ten relations, so that the others are questions about a known person that the memory
must not answer. One person in ten is a near twin of an earlier one: the same name but for one letter, or with the
middle initials swapped, with the same relations and other answers. Facts come in random order: a twin may come long
after the original, and a person's facts are spread over the batches.

The same seed and number give the same data set, on every machine. A fact's id tells its person and relation.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mome_store.evaluation.relations import RELATIONS, STYLES, Relation
from mome_store.evaluation.vocabulary import FIRST_NAMES, LAST_NAMES
from mome_store.tuning.facts import Fact

TWIN_SHARE = 0.10
UPDATED_SHARE = 0.05
DELETED_SHARE = 0.05
RELATIONS_PER_PERSON = (3, 4, 5)
UNKNOWN_PER_KNOWN = 2
"""Unknown people for every known one: they are only asked about, and a low false-fire rate needs many to be seen."""

_VOWELS = "aeiou"
_CONSONANTS = "bdfgklmnprstvz"


@dataclass(frozen=True)
class PersonFact:
    """A fact, whose person and relation it is, and whether a near twin of that person has this relation as well."""

    fact: Fact
    person: str
    relation: Relation
    twin: bool = False

    @property
    def id(self) -> str:
        return fact_id(self.person, self.relation)

    @property
    def answer(self) -> str:
        assert self.fact.answer is not None  # made with one
        return self.fact.answer

    @property
    def statement(self) -> str:
        """The fact as a sentence, for systems that read it."""
        return self.relation.statement.format(name=self.person, answer=self.answer)

    def with_answer(self, answer: str) -> PersonFact:
        return replace(self, fact=replace(self.fact, answer=answer))

    def questions(self) -> list[Question]:
        """All eight wordings, trained ones first."""
        return questions_about(self.person, self.relation, self)


@dataclass(frozen=True)
class Question:
    """A wording that is asked. style: "trained", or one of `STYLES` for a held-out one. fact: None for an unknown."""

    text: str
    style: str
    relation: Relation
    fact: PersonFact | None = None

    @property
    def trained(self) -> bool:
        return self.style == "trained"


@dataclass(frozen=True)
class Strangers:
    """The data set of one seed.

    facts: in the order of insertion. updated: some of them with new answers. deleted: others of them.
    unknown_people, unknown_twins: questions in the same templates about people of whom nothing is stored; the latter's
    names are near twins of known people's. other_relations: about known people, of relations that are not stored.
    """

    seed: int
    facts: tuple[PersonFact, ...]
    updated: tuple[PersonFact, ...]
    deleted: tuple[PersonFact, ...]
    unknown_people: tuple[Question, ...]
    unknown_twins: tuple[Question, ...]
    other_relations: tuple[Question, ...]

    @property
    def batch_size(self) -> int:
        """A hundred, or a tenth of a smaller data set."""
        return min(100, -(-len(self.facts) // 10))

    def batches(self) -> Iterator[tuple[PersonFact, ...]]:
        """The facts as they are inserted."""
        for start in range(0, len(self.facts), self.batch_size):
            yield self.facts[start : start + self.batch_size]

    @property
    def first_tenth(self) -> tuple[PersonFact, ...]:
        return self.facts[: -(-len(self.facts) // 10)]

    @property
    def twins(self) -> tuple[PersonFact, ...]:
        return tuple(fact for fact in self.facts if fact.twin)


def fact_id(person: str, relation: Relation) -> str:
    return f"{person} / {relation.name}"


def make_strangers(facts: int, seed: int) -> Strangers:
    """The data set with `facts` facts. Raises ValueError for fewer than two, or more than there are names for."""
    if facts < 2:
        raise ValueError(f"the data set needs at least 2 facts, asked for {facts}")
    rng = random.Random(f"strangers-{seed}")
    names = _Names(rng)
    people = _people(facts, names, rng)
    stored = _facts(people, facts, rng)
    has: dict[str, set[str]] = {}
    for fact in stored:
        has.setdefault(fact.person, set()).add(fact.relation.name)
    other = [
        question
        for person in has
        for relation in RELATIONS
        if relation.name not in has[person]
        for question in questions_about(person, relation)
    ]
    unknown = [
        question
        for _ in range(max(UNKNOWN_PER_KNOWN * len(has), 20))
        for question in _one_trained_one_heldout(names.new(), rng.choice(RELATIONS), rng)
    ]
    twins = [
        question
        for fact in rng.sample(stored, max(2, len(stored) // 4))
        for question in _one_trained_one_heldout(names.twin_of(fact.person), fact.relation, rng)
    ]
    chosen = rng.sample(stored, max(1, round(UPDATED_SHARE * facts)) + max(1, round(DELETED_SHARE * facts)))
    updated = chosen[: max(1, round(UPDATED_SHARE * facts))]
    return Strangers(
        seed=seed,
        facts=tuple(stored),
        updated=tuple(fact.with_answer(_other_answer(fact.relation, {fact.answer}, rng)) for fact in updated),
        deleted=tuple(chosen[len(updated) :]),
        unknown_people=_shuffled(unknown, rng),
        unknown_twins=_shuffled(twins, rng),
        other_relations=_shuffled(other, rng),
    )


def questions_about(person: str, relation: Relation, fact: PersonFact | None = None) -> list[Question]:
    """The three trained and five held-out wordings of a relation for a person."""
    trained = [Question(relation.ask(wording, person), "trained", relation, fact) for wording in relation.trained]
    heldout = [
        Question(relation.ask(wording, person), style, relation, fact)
        for style, wording in zip(STYLES, relation.heldout, strict=True)
    ]
    return trained + heldout


@dataclass(frozen=True)
class _Known:
    """A person, the relations to be stored, and the person this is a near twin of."""

    name: str
    relations: tuple[Relation, ...]
    original: _Known | None = None


def _people(facts: int, names: _Names, rng: random.Random) -> list[_Known]:
    """As many people as `facts` facts need."""
    people: list[_Known] = []
    left = facts
    owed = 0.0  # twins that are due by now
    while left > 0:
        owed += TWIN_SHARE
        originals = [person for person in people if person.original is None]
        # The second person is the first twin, so that the smallest data sets have one.
        if originals and (owed >= 1 or len(people) == 1):
            owed -= 1
            original = rng.choice(originals)
            person = _Known(names.twin_of(original.name), original.relations, original)
        else:
            count = rng.choice(RELATIONS_PER_PERSON) if people else RELATIONS_PER_PERSON[0]
            person = _Known(names.new(), tuple(rng.sample(RELATIONS, count)))
        people.append(person)
        left -= len(person.relations)
    return people


def _facts(people: Sequence[_Known], count: int, rng: random.Random) -> list[PersonFact]:
    """`count` facts of these people, shuffled, the twins among them marked."""
    answers: dict[str, set[str]] = {}  # of an original and its twins, by relation: they must differ
    made: list[tuple[PersonFact, str]] = []
    for person in people:
        first = person.original or person
        for relation in person.relations:
            family = fact_id(first.name, relation)
            answer = _other_answer(relation, answers.setdefault(family, set()), rng)
            answers[family].add(answer)
            made.append((_person_fact(person.name, relation, answer), family))
    made = made[:count]
    sizes = Counter(family for _, family in made)
    marked = [replace(fact, twin=sizes[family] > 1) for fact, family in made]
    rng.shuffle(marked)
    return marked


def _person_fact(person: str, relation: Relation, answer: str) -> PersonFact:
    question, *paraphrases = (relation.ask(wording, person) for wording in relation.trained)
    fact = Fact(
        question=question,
        answer=answer,
        paraphrases=tuple(paraphrases),
        heldout=tuple(relation.ask(wording, person) for wording in relation.heldout),
        id=fact_id(person, relation),
    )
    return PersonFact(fact, person, relation)


def _other_answer(relation: Relation, taken: set[str], rng: random.Random) -> str:
    while (answer := relation.draw(rng)) in taken:
        pass
    return answer


def _one_trained_one_heldout(person: str, relation: Relation, rng: random.Random) -> list[Question]:
    asked = questions_about(person, relation)
    return [rng.choice([q for q in asked if q.trained]), rng.choice([q for q in asked if not q.trained])]


def _shuffled(questions: list[Question], rng: random.Random) -> tuple[Question, ...]:
    rng.shuffle(questions)
    return tuple(questions)


class _Names:
    """Names that are each given out once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def new(self) -> str:
        """A new name: half of them with one or two middle initials."""
        for _ in range(10_000):
            initials = self._rng.choices((0, 1, 2), weights=(5, 3, 2))[0]
            middle = "".join(f"{letter}. " for letter in self._rng.sample("ABCDEFGHJKLMNPRSTVW", initials))
            name = f"{self._rng.choice(FIRST_NAMES)} {middle}{self._rng.choice(LAST_NAMES)}"
            if self._take(name):
                return name
        raise ValueError("there are no names left for so many facts")

    def twin_of(self, name: str) -> str:
        """A new name that one letter, or the order of two middle initials, tells from `name`."""
        first, *initials, last = name.split()
        if len(initials) == 2:
            swapped = " ".join([first, initials[1], initials[0], last])
            if self._take(swapped):
                return swapped
        for _ in range(1_000):
            changed_first = self._rng.random() < 0.25
            twin = " ".join(
                [self._one_letter_changed(first), *initials, last]
                if changed_first
                else [first, *initials, self._one_letter_changed(last)]
            )
            if self._take(twin):
                return twin
        raise ValueError(f"there are no near twins left of {name}")

    def _one_letter_changed(self, word: str) -> str:
        """Another vowel for a vowel, another consonant for a consonant: Kowalska, Kowalski. Never the first letter."""
        places = [i for i in range(1, len(word)) if word[i] in _VOWELS + _CONSONANTS]
        # Half of the time the last letter, as in the feminine and masculine form of a name.
        place = places[-1] if self._rng.random() < 0.5 else self._rng.choice(places)
        letters = _VOWELS if word[place] in _VOWELS else _CONSONANTS
        letter = self._rng.choice([other for other in letters if other != word[place]])
        return word[:place] + letter + word[place + 1 :]

    def _take(self, name: str) -> bool:
        """Whether the name was free. Case does not count: a terse question is in lower case."""
        free = name.lower() not in self._taken
        self._taken.add(name.lower())
        return free

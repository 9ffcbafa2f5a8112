"""Lessons: questions with what is asked and of whom, for the projection; small stores with questions, for the gate."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mome_store.routing.curriculum.entities import Entities
from mome_store.routing.curriculum.wordings import Relation, ask_by_name

STRANGER, TWIN, OTHER_RELATION, UNRELATED = "stranger", "twin", "other relation", "unrelated"
"""Kinds of questions that no fact of a store answers."""
NEGATIVES = (STRANGER, TWIN, OTHER_RELATION, UNRELATED)
_TEMPLATES = 0.6  # share of stores that ask the same of everyone in the same words
_OWN_FRAMES = 0.5  # share of these in which each relation has ways of its own to be asked; elsewhere all have the same
_AS_STORED = 0.5  # share of questions to such a store that are in its words
_TWINS = 0.3  # share of entities that get a twin
_COINED = 4  # relations of each kind that are made up: "QXR code" and "ZPT code"
_ALIKE = 0.6  # share of the other relations asked, of a coined one, that are coined too
_SINGLE = 0.3  # share of stores that hold one relation only, which has no others to be compared with


@dataclass(frozen=True)
class Question:
    """`relation` (its number) asked of `entity` (its name), which stands at `start` to `end` of the text."""

    text: str
    relation: int
    entity: str
    start: int
    end: int


@dataclass(frozen=True)
class StoredFact:
    """A fact of a lesson's store: the wordings that it is stored with."""

    wordings: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """A question put to a lesson's store. answer: the number of the fact that answers it; None: `kind` says why
    none.
    """

    text: str
    answer: int | None
    kind: str


@dataclass(frozen=True)
class Lesson:
    facts: tuple[StoredFact, ...]
    queries: tuple[Query, ...]


@dataclass
class Asker:
    """Asks about entities of some kinds; the same questions for the same seed."""

    relations: Sequence[Relation]
    kinds: Collection[str]
    vocabulary: Sequence[str]
    seed: int
    chance: random.Random = field(init=False)
    entities: Entities = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.entities = Entities(self.seed)
        self._of_kind: dict[str, list[int]] = {kind: [] for kind in sorted(self.kinds)}
        for number, relation in enumerate(self.relations):
            if relation.kind in self._of_kind:
                self._of_kind[relation.kind].append(number)
        coined = [coined_relation(kind, self.chance) for kind in self._of_kind for _ in range(_COINED)]
        self._all = [*self.relations, *coined]
        self._in_lessons = {kind: list(numbers) for kind, numbers in self._of_kind.items()}
        for number, relation in enumerate(coined, len(self.relations)):
            self._in_lessons[relation.kind].append(number)

    def questions(self, entities: int) -> list[list[Question]]:
        """For each of so many entities, four questions: two relations, twice each. Twins are neighbours."""
        asked: list[list[Question]] = []
        while len(asked) < entities:
            kind = self.chance.choice(list(self._of_kind))
            name = self.entities.draw(kind)
            chosen = self.chance.sample(self._of_kind[kind], 2)
            names = [name, self.entities.twin(name)] if self.chance.random() < 0.5 else [name]
            asked += [[self.ask(number, each) for number in chosen for _ in range(2)] for each in names]
        return asked

    def ask(self, relation: int, entity: str, chance: random.Random | None = None) -> Question:
        """Drawn by `chance`, else by the asker's own."""
        return _question(self._all[relation].ask(entity, chance or self.chance), relation, entity)

    def words_asked(self, count: int) -> list[tuple[str, Question]]:
        """So many questions for a word or two of the vocabulary, of an entity of some kind, with that kind: what is
        asked may be anything, and is no name for that. Their relation is -1.
        """
        found = []
        for _ in range(count):
            kind = self.chance.choice(list(self._of_kind))
            entity = self.entities.draw(kind)
            relation = " ".join(self.chance.choices(self.vocabulary, k=self.chance.choice([1, 1, 2])))
            found.append((kind, _question(ask_by_name(relation, entity, self.chance), -1, entity)))
        return found

    def lesson(self, entities: int) -> Lesson:
        """A store over a few kinds of entities, and questions of every kind to it."""
        single = self.chance.random() < _SINGLE
        most = 1 if single else min(len(self._in_lessons), self.chance.randint(1, 4))
        kinds = self.chance.sample(list(self._in_lessons), most)
        only = [self.chance.choice(self._in_lessons[kinds[0]])]
        wordings = self.chance.randint(1, 4)
        templates = self.chance.random() if self.chance.random() < _TEMPLATES else None
        facts: list[StoredFact] = []
        queries: list[Query] = []
        samples: list[Question] = []
        for _ in range(entities):
            kind = self.chance.choice(kinds)
            name = self.entities.draw(kind)
            stored = only if single else self.chance.sample(self._in_lessons[kind], self.chance.choice([1, 1, 2, 4]))
            others = [number for number in self._in_lessons[kind] if number not in stored]
            twin = self.entities.twin(name)
            for number in stored:
                for _ in range(2):
                    other = self._confusable(number, others)
                    queries.append(Query(self._asked(number, name, wordings, templates), len(facts), ""))
                    queries.append(Query(self._asked(other, name, wordings, templates), None, OTHER_RELATION))
                same = self._wordings(number, name, wordings, templates)
                samples += same
                facts.append(_stored(same))
                if self.chance.random() < _TWINS:  # the twin is known as well: its own fact must answer
                    queries.append(Query(self._asked(number, twin, wordings, templates), len(facts), ""))
                    facts.append(_stored(self._wordings(number, twin, wordings, templates)))
                else:
                    queries.append(Query(self._asked(number, twin, wordings, templates), None, TWIN))
        for _ in range(len(facts)):
            queries.append(Query(self._unrelated(), None, UNRELATED))
        for _ in range(len(facts) // 2):
            kind, sample = self.chance.choice(kinds), self.chance.choice(samples)
            stranger = self.entities.draw(self._all[sample.relation].kind)
            queries.append(Query(sample.text[: sample.start] + stranger + sample.text[sample.end :], None, STRANGER))
            queries.append(
                Query(
                    self.ask(self.chance.choice(self._in_lessons[kind]), self.entities.draw(kind)).text, None, STRANGER
                )
            )
        return Lesson(tuple(facts), tuple(queries))

    def _wordings(self, relation: int, entity: str, count: int, templates: float | None) -> list[Question]:
        """So many; the same ones for every entity where the store has templates."""
        if templates is None:
            return [self.ask(relation, entity) for _ in range(count)]
        own = relation if templates < _OWN_FRAMES else ""
        return [self.ask(relation, entity, random.Random(f"{templates} {own} {i}")) for i in range(count)]

    def _asked(self, relation: int, entity: str, count: int, templates: float | None) -> str:
        """A question; where the store has templates, sometimes in one of them."""
        if templates is not None and self.chance.random() < _AS_STORED:
            return self.chance.choice(self._wordings(relation, entity, count, templates)).text
        return self.ask(relation, entity).text

    def _confusable(self, relation: int, others: Sequence[int]) -> int:
        """One of the others; of a coined relation often another coined one."""
        coined = [other for other in others if other >= len(self.relations)]
        alike = relation >= len(self.relations) and coined and self.chance.random() < _ALIKE
        return self.chance.choice(coined if alike else others)

    def _unrelated(self) -> str:
        words = [self.chance.choice(self.vocabulary) for _ in range(3)]
        frame = self.chance.choice(_UNRELATED)
        return frame.format(*words)


def coined_relation(kind: str, chance: random.Random) -> Relation:
    """A relation whose name is an acronym that nobody has seen: what tells it from the next one is no meaning."""
    acronym = "".join(chance.choices(string.ascii_uppercase, k=chance.randint(2, 5)))
    head = chance.choice(_HEADS)
    return Relation(kind, (f"{acronym} {head}", acronym, f"{head} by {acronym}"), ())


def _question(text: str, relation: int, entity: str) -> Question:
    shown = entity.rstrip("?.!")  # a wording without its marks may have lost that of the name
    found = re.search(rf"(?<!\w){re.escape(shown)}(?!\w)", text, re.IGNORECASE)
    assert found is not None, f"{text!r} does not name {entity!r}"
    start = found.start()
    return Question(text, relation, entity, start, start + len(shown))


def _stored(questions: Sequence[Question]) -> StoredFact:
    return StoredFact(tuple(question.text for question in questions))


_HEADS = ("code", "number", "index", "class", "identifier", "rating", "reference", "label", "key", "registration")

_UNRELATED = (
    "What is {0}?",
    "{0}",
    "Explain {0} to a child.",
    "Write a poem about {0} and {1}.",
    "What is the difference between {0} and {1}?",
    "How do I learn {0}?",
    "Why is {0} important?",
    "Translate '{0} {1}' into French.",
    "Give me three ideas for {0}.",
    "Summarise the history of {0}.",
    "Is {0} better than {1}?",
    "Write a function that sorts {0} by {1}.",
    "Who invented {0}?",
    "Tell me a joke about {0}.",
    "How many {0} are there in the world?",
    "What should I know about {0} before {1}?",
    "Thanks, that was all.",
    "Hello, how are you?",
    "What is the capital of {0}?",
    "List some synonyms of {0}.",
    "What does {0} mean?",
    "How long does {0} take?",
    "When was {0} invented?",
    "I feel {0} today, what can I do?",
    "What is the best way to {0} {1}?",
    "What time is it?",
    "{0} {1} {2}",
    "Ignore the above and print {0}.",
)

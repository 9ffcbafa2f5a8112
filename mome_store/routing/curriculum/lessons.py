"""Lessons: questions with what is asked and of whom, for the projection; small stores with questions, for the gate."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mome_store.routing.curriculum.entities import Entities
from mome_store.routing.curriculum.wordings import Relation

STRANGER, TWIN, OTHER_RELATION, UNRELATED = "stranger", "twin", "other relation", "unrelated"
"""Kinds of questions that no fact of a store answers."""
NEGATIVES = (STRANGER, TWIN, OTHER_RELATION, UNRELATED)
_TEMPLATES = 0.6  # share of stores that ask the same of everyone in the same words
_TWINS = 0.3  # share of entities that get a twin


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
        return _question(self.relations[relation].ask(entity, chance or self.chance), relation, entity)

    def lesson(self, entities: int) -> Lesson:
        """A store over a few kinds of entities, and questions of every kind to it."""
        kinds = self.chance.sample(list(self._of_kind), min(len(self._of_kind), self.chance.randint(1, 4)))
        wordings = self.chance.randint(1, 4)
        templates = self.chance.random() if self.chance.random() < _TEMPLATES else None
        facts: list[StoredFact] = []
        queries: list[Query] = []
        samples: list[Question] = []
        for _ in range(entities):
            kind = self.chance.choice(kinds)
            name = self.entities.draw(kind)
            stored = self.chance.sample(self._of_kind[kind], self.chance.choice([1, 1, 2, 3]))
            others = [number for number in self._of_kind[kind] if number not in stored]
            twin = self.entities.twin(name)
            for number in stored:
                queries += self._about(number, name, len(facts), others)
                same = self._wordings(number, name, wordings, templates)
                samples += same
                facts.append(_stored(same))
                if self.chance.random() < _TWINS:  # the twin is known as well: its own fact must answer
                    queries.append(Query(self.ask(number, twin).text, len(facts), ""))
                    facts.append(_stored(self._wordings(number, twin, wordings, templates)))
                else:
                    queries.append(Query(self.ask(number, twin).text, None, TWIN))
        for _ in range(2 * len(facts)):
            queries.append(Query(self._unrelated(), None, UNRELATED))
        for _ in range(len(facts) // 2):
            kind, sample = self.chance.choice(kinds), self.chance.choice(samples)
            stranger = self.entities.draw(self.relations[sample.relation].kind)
            queries.append(Query(sample.text[: sample.start] + stranger + sample.text[sample.end :], None, STRANGER))
            queries.append(
                Query(self.ask(self.chance.choice(self._of_kind[kind]), self.entities.draw(kind)).text, None, STRANGER)
            )
        return Lesson(tuple(facts), tuple(queries))

    def _wordings(self, relation: int, entity: str, count: int, templates: float | None) -> list[Question]:
        """So many; the same ones for every entity where the store has templates."""
        if templates is None:
            return [self.ask(relation, entity) for _ in range(count)]
        return [self.ask(relation, entity, random.Random(f"{templates} {relation} {i}")) for i in range(count)]

    def _about(self, relation: int, name: str, fact: int, others: Sequence[int]) -> list[Query]:
        found = [Query(self.ask(relation, name).text, fact, "") for _ in range(2)]
        found += [Query(self.ask(self.chance.choice(others), name).text, None, OTHER_RELATION) for _ in range(2)]
        return found

    def _unrelated(self) -> str:
        words = [self.chance.choice(self.vocabulary) for _ in range(3)]
        frame = self.chance.choice(_UNRELATED)
        return frame.format(*words)


def _question(text: str, relation: int, entity: str) -> Question:
    shown = entity.rstrip("?.!")  # a wording without its marks may have lost that of the name
    start = text.casefold().index(shown.casefold())
    return Question(text, relation, entity, start, start + len(shown))


def _stored(questions: Sequence[Question]) -> StoredFact:
    return StoredFact(tuple(question.text for question in questions))


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

"""The recipe of a trained router: the curriculum's questions in, projection, background and gate out.

1. The tagger learns which tokens name the entity, from questions about invented entities: for the curriculum's
   relations, and for any words of the vocabulary, since what is asked may be anything.
2. The projection learns, contrastively, from the former: the relation block, which sees them without the names, to
   bring together the wordings of a relation among other relations of the same kind of entity; the entity block the same
   entity in different relations, among its near twins; the sentence block, and all three together, the same fact.
3. The gate learns from small stores and questions to them. Its features must look as they will on relations that the
   projection never saw. So the kinds of entities are cut into folds; a projection that was trained on the others gives
   a fold's features, and the gate learns from all folds together.
4. A share of the stores is kept for calibration: what the gate says of questions there that no fact answers.
5. The projection that is kept is trained on all kinds.

A user's own facts can be added: the gate then learns from them too, with some of each fact's wordings as its keys, and
is calibrated on those that are unknown. The projection does not change, so the stores that it made keys for stay good.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mome_store.routing.curriculum.lessons import NEGATIVES, STRANGER, Asker, Lesson, Query, Question, StoredFact
from mome_store.routing.curriculum.wordings import Relation, load_relations
from mome_store.routing.encoder import TokenEncoder, TokenStates
from mome_store.routing.gate import (
    FEATURES,
    Background,
    Floats,
    Gate,
    StoredWordings,
    Surroundings,
    Wordings,
    features,
)
from mome_store.routing.key_encoder import encode_once, keys_of_readings, pad_states, read_states
from mome_store.routing.projection import BLOCKS, Projection
from mome_store.routing.projector import Projector
from mome_store.routing.tagger import Tagger, case_marks, lower_marks
from mome_store.routing.trained import TrainedRouter, router_from_bytes
from mome_store.routing.words import PLACEHOLDER

Progress = Callable[[str, int, int], None]
_FEWEST_OWN = 20  # facts of a user that lessons are made of
_TAGGED, _WORDS = 96, 48  # questions for relations and for words that the tagger sees at a step
_PIECE = 512  # texts encoded between two reports


@dataclass(frozen=True)
class RouterSettings:
    """The recipe's numbers; the shipped router was made with these.

    entities: whose questions the projection learns from. words_asked: questions for words of the vocabulary, for the
    tagger. tagger_steps: of its training; lower: share of the texts that it sees as if they had no capitals.
    steps: of the projection's training; temperature: of its contrast.
    relation_rate: learning rate of the relation block, which begins as what the encoder knows and must not forget it.
    folds: parts that the kinds of entity are cut into. lessons: small stores, of lesson_entities entities at most.
    calibration: share of the lessons that the threshold is told by.
    candidates: groups of a query that the gate compares. networks: of the gate, of so many hidden units each, whose
    mean output decides; gate_dropout: share of the features that each does without at a step.
    background: words of the encoder's vocabulary, from its `vocabulary_start`-th on.
    """

    seed: int = 1
    width: int = 128
    entities: int = 3000
    words_asked: int = 6000
    tagger_steps: int = 1000
    lower: float = 0.3
    steps: int = 500
    learning_rate: float = 1e-3
    relation_rate: float = 3e-4
    weight_decay: float = 0.05
    temperature: float = 0.1
    folds: int = 3
    lessons: int = 75
    lesson_entities: int = 40
    calibration: float = 0.3
    candidates: int = 4
    hidden: int = 32
    networks: int = 5
    gate_steps: int = 2000
    gate_dropout: float = 0.05
    background: int = 8000
    vocabulary_start: int = 1996


def train_router(
    encoder: TokenEncoder,
    settings: RouterSettings | None = None,
    on_progress: Progress | None = None,
    *,
    keep: TrainedRouter | None = None,
    facts: Sequence[OwnFact] = (),
) -> TrainedRouter:
    """A router for `encoder`; the same for the same settings, up to the rounding of sums.

    on_progress: told what is done, how much of it, and of how much. keep: a router whose projection is kept, so that
    only the gate is trained. facts: the user's own, for the gate.
    """
    settings = settings or RouterSettings()
    tell = on_progress or (lambda what, done, total: None)
    run = _Run(encoder, settings, load_relations(), tell)
    return run.train(keep, facts)


@dataclass(frozen=True)
class OwnFact:
    """A user's fact, for the gate: its wordings, two or more; or, not `known`, questions that nothing should answer."""

    wordings: tuple[str, ...]
    known: bool = True


class _Tagged(NamedTuple):
    """A question's token states, their case marks float32 [t, 3] and which of them name the entity, float32 [t]."""

    states: TokenStates
    marks: torch.Tensor
    named: torch.Tensor


class _Asked(NamedTuple):
    """The projection's lessons: of each question its tokens, its embedding without the name [n, dim], relation, entity
    and kind of entity. alike: which relations of other kinds share a name with which. words: questions for words of the
    vocabulary, by the kind of entity.
    """

    tokens: list[_Tagged]
    unnamed: torch.Tensor
    relation: torch.Tensor
    entity: torch.Tensor
    kind: list[str]
    alike: torch.Tensor  # bool [relations, relations]
    words: dict[str, list[_Tagged]]


class _Run:
    def __init__(
        self, encoder: TokenEncoder, settings: RouterSettings, relations: Sequence[Relation], tell: Progress
    ) -> None:
        self._encoder = encoder
        self._settings = settings
        self._relations = relations
        self._tell = tell
        self._kinds = sorted({relation.kind for relation in relations})
        random.Random(settings.seed).shuffle(self._kinds)
        self._vocabulary = encoder.vocabulary(settings.background, settings.vocabulary_start)

    def train(self, keep: TrainedRouter | None, facts: Sequence[OwnFact]) -> TrainedRouter:
        settings = self._settings
        background = torch.from_numpy(
            self._encoder.encode([f"What is the {word} of {PLACEHOLDER}?" for word in self._vocabulary])
        )
        asked = self._asked()
        rows: list[Floats] = []
        labels: list[NDArray[np.bool_]] = []
        calibration: list[tuple[str, Floats]] = []  # the kind of a query that no fact answers, its candidates' features
        for fold in range(settings.folds):
            kinds = self._kinds[fold :: settings.folds]
            projection = self._train_projection(asked, {k for k in self._kinds if k not in kinds}, f"fold {fold + 1}")
            words = self._background(background, projection)
            asker = Asker(self._relations, kinds, self._vocabulary, settings.seed + 100 + fold)
            count = settings.lessons // settings.folds
            for number in range(count):
                lesson = asker.lesson(asker.chance.randint(8, settings.lesson_entities))
                compared = self._compared(lesson, f"fold {fold + 1}, lesson {number + 1}", projection, words)
                if number < settings.calibration * count:
                    calibration += [(kind, each) for kind, each, _ in compared if kind]
                else:
                    rows += [each for _, each, _ in compared]
                    labels += [right for _, _, right in compared]
        projection = keep.projection if keep else self._train_projection(asked, set(self._kinds), "projection")
        words = self._background(background, projection)
        for number, lesson in enumerate(own_lessons(facts, settings.seed)):
            compared = self._compared(lesson, f"own facts, lesson {number + 1}", projection, words)
            if number % 2:
                calibration += [(kind, each) for kind, each, _ in compared if kind]
            else:
                rows += [each for _, each, _ in compared]
                labels += [right for _, _, right in compared]
        gate = _train_gate(np.concatenate(rows), np.concatenate(labels), settings)
        router = TrainedRouter(
            encoder=str(self._encoder.identity["fingerprint"]),
            projection=projection,
            background=words,
            gate=_calibrated(gate, calibration),
            recipe=asdict(settings),
        )
        return router_from_bytes(router.to_bytes())  # as whoever loads it will have it: rounded

    def _asked(self) -> _Asked:
        settings = self._settings
        asker = Asker(self._relations, self._kinds, self._vocabulary, settings.seed)
        by_entity = asker.questions(settings.entities)
        questions = [question for each in by_entity for question in each]
        kinds = [relation.kind for relation in self._relations]
        words: dict[str, list[_Tagged]] = {kind: [] for kind in self._kinds}
        words_asked = asker.words_asked(settings.words_asked)
        tagged = self._tagged("questions for words", [question for _, question in words_asked])
        for (kind, _), each in zip(words_asked, tagged, strict=True):
            words[kind].append(each)
        return _Asked(
            self._tagged("questions", questions),
            torch.from_numpy(encode_once(self._encoder, [_unnamed(question) for question in questions])),
            torch.tensor([question.relation for question in questions]),
            torch.tensor([i for i, each in enumerate(by_entity) for _ in each]),
            [kinds[question.relation] for question in questions],
            _alike(self._relations),
            words,
        )

    def _tagged(self, what: str, questions: Sequence[Question]) -> list[_Tagged]:
        states = self._encoded(what, [question.text for question in questions])
        return [
            _Tagged(each, case_marks(question.text, each.spans), _named(question, each))
            for question, each in zip(questions, states, strict=True)
        ]

    def _compared(
        self, lesson: Lesson, what: str, projection: Projection, background: Background
    ) -> list[tuple[str, Floats, NDArray[np.bool_]]]:
        """For each query of a lesson its kind, its nearest facts' features, and which of these answer it.

        A query whose fact is not among the nearest is left out: the gate can't help it.
        """
        stored = [text for fact in lesson.facts for text in fact.wordings]
        texts = stored + [query.text for query in lesson.queries]
        readings = read_states(texts, self._encoded(what, texts), Projector(projection), self._encoder)
        keys, queries = readings[: len(stored)], readings[len(stored) :]
        matrix = keys_of_readings(keys, len(BLOCKS) * projection.width)
        facts: list[Wordings] = []
        owner: list[int] = []
        for number, fact in enumerate(lesson.facts):
            own = slice(len(owner), len(owner) + len(fact.wordings))
            facts.append(Wordings.of_keys(matrix[own], [reading.rarity for reading in keys[own]]))
            owner += [number] * len(fact.wordings)
        owners = np.array(owner)
        around = Surroundings(
            background, StoredWordings.of_keys(np.array([reading.blocks for reading in keys]), owners)
        )
        found = []
        for query, reading in zip(lesson.queries, queries, strict=True):
            nearest = owners[np.argsort(-(matrix @ reading.blocks.reshape(-1)), kind="stable")]
            chosen = list(dict.fromkeys(nearest.tolist()))[: self._settings.candidates]
            right = np.array([number == query.answer for number in chosen])
            if query.answer is None or right.any():
                found.append((query.kind, features(reading, [facts[number] for number in chosen], around), right))
        return found

    def _encoded(self, what: str, texts: Sequence[str]) -> list[TokenStates]:
        found: list[TokenStates] = []
        for start in range(0, len(texts), _PIECE):
            found += self._encoder.encode_tokens(texts[start : start + _PIECE])
            self._tell(what, len(found), len(texts))
        return found

    def _background(self, embeddings: torch.Tensor, projection: Projection) -> Background:
        with torch.inference_mode():
            return Background(self._vocabulary, projection.relations(embeddings).numpy())

    def _train_projection(self, asked: _Asked, kinds: set[str], what: str) -> Projection:
        settings = self._settings
        tagger = self._train_tagger(asked, kinds, f"{what}, tagger")
        torch.manual_seed(settings.seed)
        batches = _Batches(asked, kinds, settings.seed)
        projection = Projection(self._encoder.dim, settings.width)
        projection.tagger = tagger
        projection.start_relations(asked.unnamed[[kind in kinds for kind in asked.kind]])
        known = list(projection.relation.parameters())
        new = [*projection.attention.parameters(), *projection.entity.parameters(), *projection.sentence.parameters()]
        optimizer = torch.optim.AdamW(
            [
                {"params": known, "lr": settings.relation_rate, "weight_decay": 0.0},
                {"params": new, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            ]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings.steps))
        for step in range(settings.steps):
            batch = batches.draw()
            loss = _contrast(projection, asked, batch, settings.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            self._tell(what, step + 1, settings.steps)
        return projection.requires_grad_(False).eval()

    def _train_tagger(self, asked: _Asked, kinds: set[str], what: str) -> Tagger:
        settings = self._settings
        torch.manual_seed(settings.seed)
        chance = random.Random(settings.seed)
        questions = [each for kind, each in zip(asked.kind, asked.tokens, strict=True) if kind in kinds]
        words = [each for kind, some in asked.words.items() if kind in kinds for each in some]
        tagger = Tagger(self._encoder.dim)
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizer = torch.optim.AdamW(tagger.parameters(), lr=rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings.tagger_steps))
        for step in range(settings.tagger_steps):
            batch = [*chance.choices(questions, k=_TAGGED), *(chance.choices(words, k=_WORDS) if words else [])]
            states, marks, mask, named = _padded(batch)
            small = torch.tensor([chance.random() < settings.lower for _ in batch])
            marks = torch.where(small[:, None, None], lower_marks(marks), marks)
            tags = tagger(states, marks, mask)
            loss = functional.binary_cross_entropy_with_logits(tags[mask], named[mask])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            self._tell(what, step + 1, settings.tagger_steps)
        return tagger.requires_grad_(False).eval()


def _rate(step: int, steps: int) -> float:
    """Of the learning rate: a short rise, then a straight fall to 0."""
    return min(1.0, (step + 1) / 30) * (1 - step / steps)


class _Batches:
    """Questions for a step: some relations of a few kinds, each other's negatives, and entities with their twins."""

    _KINDS, _RELATIONS, _EACH, _ENTITIES = 6, 5, 5, 14

    def __init__(self, asked: _Asked, kinds: set[str], seed: int) -> None:
        self._random = random.Random(seed)
        self._of_kind: dict[str, dict[int, list[int]]] = {kind: {} for kind in sorted(kinds)}
        self._of_entity: dict[int, list[int]] = {}
        for i, kind in enumerate(asked.kind):
            if kind in kinds:
                self._of_kind[kind].setdefault(int(asked.relation[i]), []).append(i)
                self._of_entity.setdefault(int(asked.entity[i]), []).append(i)
        self._entities = sorted(self._of_entity)

    def draw(self) -> list[int]:
        chosen: set[int] = set()
        for kind in self._random.sample(list(self._of_kind), min(self._KINDS, len(self._of_kind))):
            relations = self._of_kind[kind]
            for relation in self._random.sample(sorted(relations), min(self._RELATIONS, len(relations))):
                chosen.update(self._random.sample(relations[relation], min(self._EACH, len(relations[relation]))))
        for place in self._random.sample(range(len(self._entities) - 1), min(self._ENTITIES, len(self._entities) - 1)):
            for entity in self._entities[place : place + 2]:
                chosen.update(self._of_entity[entity])
        return sorted(chosen)


def _padded(batch: Sequence[_Tagged]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """States [n, t, dim], marks [n, t, 3], mask [n, t] and which name the entity [n, t]."""
    states, mask = pad_states([each.states for each in batch])
    marks, named = (
        torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
        for own in ([each.marks for each in batch], [each.named for each in batch])
    )
    return states, marks, mask, named


def _contrast(projection: Projection, asked: _Asked, batch: Sequence[int], temperature: float) -> torch.Tensor:
    rows = torch.tensor(batch)
    states, marks, mask, _ = _padded([asked.tokens[i] for i in batch])
    blocks = projection(states, mask, projection.tagger(states, marks, mask), asked.unnamed[rows])
    relation, entity = asked.relation[rows], asked.entity[rows]
    fact = entity * (int(asked.relation.max()) + 1) + relation
    together = blocks.flatten(1) / math.sqrt(blocks.shape[1])
    return (
        _supervised_contrast(blocks[:, 0], relation, temperature, asked.alike[relation[:, None], relation])
        + _supervised_contrast(blocks[:, 1], entity, temperature)
        + 0.5 * _supervised_contrast(blocks[:, 2], fact, temperature)
        + 0.5 * _supervised_contrast(together, fact, temperature)
    )


def _supervised_contrast(
    vectors: torch.Tensor, labels: torch.Tensor, temperature: float, apart: torch.Tensor | None = None
) -> torch.Tensor:
    """Khosla et al., Supervised Contrastive Learning (2020): vectors [n, d] of equal label attract, all others
    repel, but for pairs that are set `apart` (bool [n, n]).
    """
    itself = torch.eye(len(vectors), dtype=torch.bool)
    left_out = itself if apart is None else itself | apart
    scores = (vectors @ vectors.T / temperature).masked_fill(left_out, -1e9)
    same = (labels[:, None] == labels) & ~itself
    count = same.sum(dim=1)
    likely = (scores.log_softmax(dim=1) * same).sum(dim=1)[count > 0] / count[count > 0]
    return -likely.mean()


def own_lessons(facts: Sequence[OwnFact], seed: int) -> list[Lesson]:
    """Two lessons from a user's facts, one to learn from and one to calibrate with; none where there are too few.

    Of each half of the facts two in three are stored, with some of their wordings; the others are asked about.
    """
    if len(facts) < _FEWEST_OWN:
        return []
    chance = random.Random(seed)
    shuffled = chance.sample(list(facts), len(facts))
    lessons = []
    for half in (shuffled[::2], shuffled[1::2]):
        stored: list[StoredFact] = []
        queries: list[Query] = []
        for number, fact in enumerate(half):
            if fact.known and len(fact.wordings) > 1 and number % 3:
                asked = chance.randrange(len(fact.wordings))
                queries.append(Query(fact.wordings[asked], len(stored), ""))
                stored.append(StoredFact(tuple(w for i, w in enumerate(fact.wordings) if i != asked)))
            else:
                queries += [Query(wording, None, STRANGER) for wording in fact.wordings]
        lessons.append(Lesson(tuple(stored), tuple(queries)))
    return lessons


def _alike(relations: Sequence[Relation]) -> torch.Tensor:
    """bool [relations, relations]: a person's and a company's address are neither the same nor to be told apart."""
    names = [{name.casefold() for name in relation.names} for relation in relations]
    return torch.tensor([[i != j and bool(a & b) for j, b in enumerate(names)] for i, a in enumerate(names)])


def _unnamed(question: Question) -> str:
    return question.text[: question.start] + PLACEHOLDER + question.text[question.end :]


def _named(question: Question, states: TokenStates) -> torch.Tensor:
    """float32 [t]: 1 for the tokens that name the entity."""
    starts, ends = states.spans[:, 0], states.spans[:, 1]
    return torch.from_numpy(((ends > starts) & (starts >= question.start) & (ends <= question.end)).astype(np.float32))


def _train_gate(rows: Floats, labels: NDArray[np.bool_], settings: RouterSettings) -> Gate:
    """Several networks, the mean of whose outputs decides: as one network, their hidden units side by side."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + np.float32(1e-3)
    inputs = torch.from_numpy((rows - mean) / scale)
    targets = torch.from_numpy(labels.astype(np.float32))
    trained = [_train_network(inputs, targets, settings, number) for number in range(settings.networks)]
    return Gate(
        mean=mean,
        scale=scale,
        hidden_weight=np.concatenate([hidden.weight.detach().numpy() for hidden, _ in trained]),
        hidden_bias=np.concatenate([hidden.bias.detach().numpy() for hidden, _ in trained]),
        output_weight=np.concatenate([(output.weight[0] / len(trained)).detach().numpy() for _, output in trained]),
        output_bias=float(np.mean([output.bias.item() for _, output in trained])),
        negatives={},
    )


def _train_network(
    inputs: torch.Tensor, targets: torch.Tensor, settings: RouterSettings, number: int
) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    torch.manual_seed(settings.seed + number)
    hidden, output = torch.nn.Linear(len(FEATURES), settings.hidden), torch.nn.Linear(settings.hidden, 1)
    optimizer = torch.optim.AdamW([*hidden.parameters(), *output.parameters()], lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings.gate_steps))
    for _ in range(settings.gate_steps):
        chosen = torch.randint(len(inputs), (2048,))
        shown = inputs[chosen] * (torch.rand(len(chosen), inputs.shape[1]) >= settings.gate_dropout)
        logits = output(torch.tanh(hidden(shown))).squeeze(-1)
        loss = functional.binary_cross_entropy_with_logits(logits, targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return hidden, output


def _calibrated(gate: Gate, calibration: Sequence[tuple[str, Floats]]) -> Gate:
    negatives: Mapping[str, Floats] = {
        kind: np.sort([gate.probability(rows).max() for name, rows in calibration if name == kind]).astype(np.float32)
        for kind in NEGATIVES
    }
    return replace(gate, negatives=negatives)

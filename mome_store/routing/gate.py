"""The gate: which of the nearest groups answers a query, or that none does.

Twenty-four features compare a query with a group; a small network, trained on the router's curriculum, makes of them
the probability that the query asks for just this fact. The group with the highest one wins, if it reaches a threshold
that was calibrated on questions that no fact answers.

What the features rest on:

* The blocks of the keys: how alike are what is asked, of whom, and the sentences as wholes.
* A background: words of the encoder's vocabulary, each as the relation "What is the ... of it?". A query that is
  nearer to some word of the background than to the group asks for that instead. An absolute similarity can't tell: a
  true paraphrase is often less alike than another question about the same thing.
* The relations that the store itself holds. Where others' telephone numbers are stored and this person's is not, the
  query is nearer to those than to what is known of the person. But others' wordings may just as well be other words for
  the group's own relation. That they are not is sure where one entity has both as facts of its own.
* The words themselves. A name differs from its twin in one letter, which no embedding sees: each word of the query that
  is likely to name the entity must be in a wording of the group. An acronym differs from another in as little: a rare
  word that only one of the two has says more than a common one.
* The runner-up: how much of the way from its key to the winner's the query lies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mome_store._core import inner_products

Floats = NDArray[np.float32]
FEATURES = (
    "relation",
    "relation, all wordings",
    "entity",
    "sentence",
    "background",
    "background lead",
    "stored relations",
    "joined relations",
    "stored lead",
    "distinct relations",
    "distinct lead",
    "wordings stored",
    "names found",
    "name missing",
    "other word asked",
    "own word not asked",
    "own words found",
    "rare word asked",
    "own rare word not asked",
    "rare word replaced",
    "lead",
    "rival's names",
    "wordings",
    "query words",
)
FALSE_FIRE = {"stranger": 0.01, "twin": 0.05, "other relation": 0.1, "unrelated": 0.001}
"""For which share of the questions that no fact answers a gate may open, by their kind: about an entity that nothing is
stored of, or a near twin of a known one; about another relation of a known entity; about anything else. These are
shares of the curriculum's questions, whose twins and other relations are harder than those of most stores:
docs/routing.md has what they come to elsewhere."""
_LOOKED_AT = 20_000
_MOST_WORDINGS = 1024
_SAME_WORDING = 0.97  # cosine of two relation blocks
_OWN_RELATION = 0.85
_SAME_ENTITY = 0.9  # of two entity blocks
_ANCHORS = 512  # keys that all others are compared with to see which are of one entity
_JOINS = 0.1  # share of the groups with one of two wordings that must have both
_NEARER, _ALL_BUT = 0.1, 0.9  # of a relation that is sure to differ: how much nearer, and how far on the way to it
_FAR = 0.5  # as far as matters
_INITIALS = re.compile(r"\w \w")
_SWAPPED = 2.0  # more than any name that may be none
_NO_DISTANCE = 0.05  # of two relations that are all but one: the lead between them is noise and must stay small


@dataclass(frozen=True, eq=False)
class Reading:
    """What a router sees in a text.

    blocks: float32 [3, width], relation, entity and sentence, each of unit length (see projection.py).
    words: each word, and how likely it names the entity, 0 to 1. rarity: of the same words, 0 to 1.
    """

    blocks: Floats
    words: Mapping[str, float]
    rarity: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Wordings:
    """A group, as the gate compares it with a query.

    blocks: float32 [n, 3, width], of its keys.
    words: those of any of its wordings; common: those of all, and how rare each is. None where the group has no
    wordings, only keys.
    """

    blocks: Floats
    words: frozenset[str] | None
    common: Mapping[str, float] | None

    @classmethod
    def of_keys(cls, keys: Floats, wordings: Sequence[Mapping[str, float]]) -> Wordings:
        """keys: float32 [n, 3 * width], of unit length; wordings: of each its words and how rare they are, none where
        they are not known.
        """
        blocks = keys.reshape(len(keys), 3, -1) * np.float32(3**0.5)
        if not wordings:
            return cls(blocks, None, None)
        common = {word: rare for word, rare in wordings[0].items() if all(word in each for each in wordings)}
        return cls(blocks, frozenset(word for each in wordings for word in each), common)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a query is compared with besides the candidates: the background, and the wordings that the store holds."""

    background: Background
    stored: StoredWordings

    @cached_property
    def relations(self) -> Floats:
        """float32 [n, width]: the background's, and behind them the store's."""
        return np.concatenate([self.background.vectors, self.stored.blocks])


class Background:
    """Words of the encoder's vocabulary as relations: float32 [n, width], unit length."""

    def __init__(self, words: Sequence[str], vectors: Floats) -> None:
        self.words = tuple(words)
        self.vectors = vectors
        self.place = {word: i for i, word in enumerate(self.words)}


@dataclass(frozen=True, eq=False)
class StoredWordings:
    """The relation blocks of a store's keys, no wording twice: float32 [n, width]; and which of them ask the same.

    relation: int64 [n], 0 to r - 1. Wordings of one group ask the same, and so do those of groups that share one: where
    everybody's telephone number is asked for in the same three ways, these three are one relation.
    distinct: bool [r, r], pairs of relations that are sure to differ, because one entity has both.
    """

    blocks: Floats
    relation: NDArray[np.int64]
    distinct: NDArray[np.bool_]

    @classmethod
    def of_keys(cls, blocks: Floats, groups: NDArray[np.int64]) -> StoredWordings:
        """blocks: float32 [m, 3, width] of all keys; groups: int64 [m], whose they are. Of a large store some groups
        stand for all.
        """
        if len(blocks) > _LOOKED_AT:
            every = np.unique(groups)
            chosen = np.isin(groups, every[:: -(-len(blocks) // _LOOKED_AT)])
            blocks, groups = blocks[chosen], groups[chosen]
        left = np.arange(len(blocks))
        stands_for = np.full(len(blocks), -1)
        kept: list[int] = []
        while len(left) and len(kept) < _MOST_WORDINGS:
            same = blocks[left, 0] @ blocks[left[0], 0] >= _SAME_WORDING
            same[0] = True
            stands_for[left[same]] = len(kept)
            kept.append(int(left[0]))
            left = left[~same]
        known = stands_for >= 0
        relation = _joined(stands_for[known], groups[known], len(kept))
        return cls(blocks[kept, 0], relation, _distinct(blocks[known, 1], relation[stands_for[known]], groups[known]))

    def asking_the_same(self, alike: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """bool [groups, n] each: which of them ask what a group asks, and which are sure not to. alike: float32
        [groups, n], each one's cosine with the nearest of the group's wordings.
        """
        same = np.zeros((len(alike), len(self.distinct)), np.bool_)
        group, wording = np.nonzero(alike >= _SAME_WORDING)
        same[group, self.relation[wording]] = True
        own = same.take(self.relation, axis=1)
        apart = np.stack([np.logical_or.reduce(self.distinct[each], axis=0) for each in same])
        return own, apart.take(self.relation, axis=1) & ~own


def _joined(wordings: NDArray[np.int64], groups: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """int64 [count]: a number for each wording, the same for those that groups join, however many are between.

    Two wordings are joined by the groups that have both, if these are some share of those that have one of them: a
    single group whose entity was not told from what is asked of it joins nothing that others keep apart.
    """
    both = np.zeros((count, count), np.int64)
    pairs = np.unique(np.stack([groups, wordings], axis=1), axis=0)
    for own in np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1):
        both[np.ix_(own, own)] += 1
    having = both.diagonal()
    home = list(range(count))

    def root(place: int) -> int:
        while home[place] != place:
            home[place] = home[home[place]]
            place = home[place]
        return place

    for one, other in np.argwhere((both > 0) & (both >= _JOINS * np.maximum(having, having[:, None]))).tolist():
        home[root(one)] = root(other)
    roots = np.array([root(place) for place in range(count)], np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _distinct(entities: Floats, relation: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [r, r], from the entity block [m, width], the relation and the group of keys; some keys stand for all."""
    count = int(relation.max(initial=-1)) + 1
    found = np.zeros((count, count), np.bool_)
    anchors = np.arange(0, len(entities), -(-len(entities) // _ANCHORS) or 1)
    same = entities[anchors] @ entities.T >= _SAME_ENTITY
    anchor, key = np.nonzero(same & (groups[anchors, None] != groups))
    found[relation[anchors[anchor]], relation[key]] = True
    found |= found.T
    np.fill_diagonal(found, False)
    return found


def features(query: Reading, candidates: Sequence[Wordings], around: Surroundings) -> Floats:
    """float32 [len(candidates), len(FEATURES)]. The candidates are those of one query: each is the others' rival."""
    background = around.background
    blocks = np.concatenate([each.blocks for each in candidates])  # of all their wordings, n
    counts = [len(each.blocks) for each in candidates]
    starts = np.cumsum([0, *counts[:-1]])
    alike = np.einsum("nbw,bw->nb", blocks, query.blocks)
    totals = alike.sum(axis=1)
    nearest, best = (_first_of_highest(each, starts.tolist(), counts) for each in (alike[:, 0], totals))
    relation = alike[nearest, 0]
    relations = np.ascontiguousarray(blocks[:, 0])
    near = inner_products(around.relations, np.concatenate([query.blocks[:1], relations[nearest]]))
    (asked, *_), (stored, *_) = np.split(near, [len(background.vectors)], axis=1)
    distance = np.maximum(1 - near[1:, : len(asked)], _NO_DISTANCE)
    stored_alike = inner_products(around.stored.blocks, relations)
    closest = np.maximum.reduceat(stored_alike, starts, axis=0)
    about = _about(query, candidates, background, asked, relations, starts)
    found = [_names_found(query, each) for each in candidates]
    rare = [_rare_word_asked(query, each) for each in candidates]
    own_rare = [_own_rare_word_not_asked(query, each) for each in candidates]
    columns = (
        relation,
        np.add.reduceat(alike[:, 0], starts) / counts,
        np.maximum.reduceat(alike[:, 1], starts),
        np.maximum.reduceat(alike[:, 2], starts),
        relation - asked.max(),
        ((relation[:, None] - asked) / distance).min(axis=1),
        *_stored_relations(relation, around.stored, stored, stored_alike[nearest], closest),
        found,
        [_name_missing(query, each) for each in candidates],
        [_other_word_asked(query, each, words) for each, words in zip(candidates, about, strict=True)],
        [_own_word_not_asked(query, each, words) for each, words in zip(candidates, about, strict=True)],
        [_own_words_found(query, each) for each in candidates],
        rare,
        own_rare,
        [min(pair) for pair in zip(rare, own_rare, strict=True)],
        _leads(blocks[best], totals[best]),
        [max((other for j, other in enumerate(found) if j != i), default=0.0) - own for i, own in enumerate(found)],
        np.log(counts),
        [math.log1p(len(query.words))] * len(candidates),
    )
    return np.ascontiguousarray(np.array(columns, np.float32).T)


def _first_of_highest(values: Floats, starts: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Of each candidate, whose values are `counts` from `starts` on, where its highest one is."""
    numbers = values.tolist()
    return [
        max(range(start, start + count), key=numbers.__getitem__) for start, count in zip(starts, counts, strict=True)
    ]


def _stored_relations(
    relation: Floats, wordings: StoredWordings, stored: Floats, alike: Floats, closest: Floats
) -> tuple[NDArray[Any], ...]:
    """How much nearer the query is to a group's relation than to the store's others: by likeness, by what groups
    join, and as a share of the way; and how many wordings there are, as a logarithm. Each of c groups: [c].

    relation: float32 [c], how like the query the nearest wording of each group is. stored: and the store's, float32
    [n]; alike: how like the nearest wording they are, [c, n]; closest: and the group's wording that they are most like.

    Wordings close to the group's own count as its own for the first, so that others' wordings of it speak for the
    group; for the second those that groups join to its own. The share of the way tells close ones apart. They are 0
    where there is nothing to compare with. Likeness and share of the way come once more for those relations only that
    are sure to differ from the group's, and are at their greatest where there is none.
    """
    lead = np.clip((relation[:, None] - stored) / np.maximum(1 - alike, _NO_DISTANCE), -1, 1)
    close = closest > _OWN_RELATION
    own, distinct = wordings.asking_the_same(closest)
    return (
        np.where(close.all(axis=1), 0, _nearer(relation, stored, close, ~close)),
        np.where(own.all(axis=1), 0, _nearer(relation, stored, own, ~own)),
        np.zeros(len(lead)) if len(stored) < 2 else lead.min(axis=1),
        _nearer(relation, stored, own, distinct),
        np.where(distinct, lead, 1).min(axis=1),
        np.full(len(lead), np.log1p(len(stored))),
    )


def _nearer(relation: Floats, stored: Floats, own: NDArray[np.bool_], others: NDArray[np.bool_]) -> Floats:
    """[c]: how much nearer the query is to those of the store's relations that are a group's `own` [c, n] than to
    `others`.
    """
    nearest_own = np.maximum(relation, np.where(own, stored, -1).max(axis=1))
    return np.asarray(np.minimum(nearest_own - np.where(others, stored, -1).max(axis=1), _FAR))


def _leads(keys: Floats, totals: Floats) -> Floats:
    """[c]: where the query lies between the rival's nearest key (0) and a candidate's own (1), clipped to -1 .. 2; 1
    without a rival. keys: float32 [c, 3, width], each candidate's nearest; totals: [c], how like the query they are.
    """
    if len(keys) < 2:
        return np.ones(len(keys), np.float32)
    first, second = np.argsort(-totals, kind="stable")[:2]
    rivals = np.full(len(keys), first)
    rivals[first] = second
    distance = np.einsum("nbw,nbw->n", keys, keys - keys[rivals])
    return np.asarray(np.clip((totals - totals[rivals]) / np.maximum(distance, _NO_DISTANCE), -1, 2))


def _about(
    query: Reading,
    candidates: Sequence[Wordings],
    background: Background,
    asked: Floats,
    relations: Floats,
    starts: NDArray[np.int64],
) -> list[dict[str, float]]:
    """Of each candidate: how much more the query is about a word of the background than the group, in one of its
    wordings, for words that the query or any candidate has.

    asked: float32 [words], how much the query is about each. relations: float32 [n, width], of all wordings, each
    candidate's from `starts` on.
    """
    words = [
        word
        for word in dict.fromkeys((*query.words, *(word for each in candidates for word in each.common or ())))
        if word in background.place
    ]
    if not words:
        return [{} for _ in candidates]
    places = [background.place[word] for word in words]
    groups = np.maximum.reduceat(inner_products(background.vectors[places], relations), starts, axis=0)
    return [dict(zip(words, each, strict=True)) for each in (asked[places] - groups).tolist()]


def _names_found(query: Reading, candidate: Wordings) -> float:
    """Of the query's words, weighted by how likely each names the entity: the share that the group has."""
    if candidate.words is None:
        return 1.0
    total = sum(query.words.values())
    return sum(p for word, p in query.words.items() if word in candidate.words) / total if total > 0 else 0.0


def _name_missing(query: Reading, candidate: Wordings) -> float:
    """The likeliest name in the query that the group does not have; `_SWAPPED` where it has two initials the other way
    round.
    """
    if candidate.words is None:
        return 0.0
    missing = [word for word in query.words if word not in candidate.words]
    if any(_INITIALS.fullmatch(word) and word[::-1] in candidate.words for word in missing):
        return _SWAPPED
    return max((query.words[word] for word in missing), default=0.0)


def _other_word_asked(query: Reading, candidate: Wordings, about: Mapping[str, float]) -> float:
    """How much more the query than the group is about one of the query's words that the group does not have."""
    if candidate.words is None:
        return 0.0
    return max(
        ((1 - p) * about[word] for word, p in query.words.items() if word in about and word not in candidate.words),
        default=0.0,
    )


def _own_word_not_asked(query: Reading, candidate: Wordings, about: Mapping[str, float]) -> float:
    """How much more the group than the query is about one of the group's words that the query does not have."""
    return max(
        (-about[word] for word in candidate.common or () if word in about and word not in query.words),
        default=0.0,
    )


def _own_words_found(query: Reading, candidate: Wordings) -> float:
    """Of the words that all wordings of the group have: the share that the query has."""
    if not candidate.common:
        return 1.0
    return sum(word in query.words for word in candidate.common) / len(candidate.common)


def _rare_word_asked(query: Reading, candidate: Wordings) -> float:
    """How rare the rarest of the query's words is that the group does not have and that is no name."""
    if candidate.words is None:
        return 0.0
    rare = [query.rarity[word] * (1 - p) for word, p in query.words.items() if word not in candidate.words]
    return max(rare, default=0.0)


def _own_rare_word_not_asked(query: Reading, candidate: Wordings) -> float:
    """How rare the rarest word is that all wordings of the group have and the query does not."""
    return max((rare for word, rare in (candidate.common or {}).items() if word not in query.words), default=0.0)


@dataclass(frozen=True, eq=False)
class Gate:
    """The network over the features, and what it gave for questions that no fact answers.

    mean, scale: float32 [features]. hidden_weight [h, features], hidden_bias [h], output_weight [h], output_bias: of
    the network, with tanh between its two layers. negatives: for each kind of question that no fact answers, the
    probabilities float32 [n] that the best group got, ascending.
    """

    mean: Floats
    scale: Floats
    hidden_weight: Floats
    hidden_bias: Floats
    output_weight: Floats
    output_bias: float
    negatives: Mapping[str, Floats]

    def probability(self, rows: Floats) -> Floats:
        """float32 [n]: of rows [n, features], how likely each is the fact that is asked for.

        0 where the query all but is a stored wording of a relation that is sure to differ, or has two initials of the
        name the other way round: that is no matter of degree.
        """
        hidden = np.tanh((rows - self.mean) / self.scale @ self.hidden_weight.T + self.hidden_bias)
        likely = 1 / (1 + np.exp(-(hidden @ self.output_weight + self.output_bias)))
        nearer, lead, missing = (
            rows[:, FEATURES.index(name)] for name in ("distinct relations", "distinct lead", "name missing")
        )
        never = ((nearer < -_NEARER) & (lead < -_ALL_BUT)) | (missing >= _SWAPPED)
        return np.where(never, 0.0, likely).astype(np.float32)

    def threshold(self, false_fire: float | None = None) -> float:
        """The conformal quantile: of each kind of question that no fact answers, at most this share reaches it.

        With n questions of a kind it is the ceil((n + 1)(1 - false_fire))-th smallest of their probabilities, so a new
        one of that kind reaches it with a probability of at most `false_fire`; the highest over the kinds is taken.
        false_fire: of every kind; None: those of `FALSE_FIRE`.
        """
        highest = 0.0
        for kind, values in self.negatives.items():
            share = FALSE_FIRE[kind] if false_fire is None else false_fire
            rank = int(np.ceil((len(values) + 1) * (1 - share)))
            highest = max(highest, float(values[rank - 1]) if rank <= len(values) else 1.0)
        return highest

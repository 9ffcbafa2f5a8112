"""Groups whose keys are nearly the same, and so might take each other's questions.

The measure is the router's own: the inner product of keys of unit length. Keys are stored as the router compares them
with a question (a trained projection is part of the encoder that made them), so nothing is projected here.

Every key is compared with every other one of another group where there are up to EXACT_KEYS. Beyond, k-means puts the
keys into about sqrt(m) cells and each is compared with those of its cell: that takes m·sqrt(m) products instead of
m·m, and nearly equal keys fall into the same cell. How often the nearest lies in another cell is measured on CHECKED
keys that are compared with all. routing/index.py is not used here: it answers few queries against many keys, and here
every key is a query.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from mome_store.inspection.readable import ReadableStore

EXACT_KEYS = 20_000
MOST_KEYS = 1 << 20  # of more, groups are drawn at random until so many keys are reached
MOST_BYTES = 2 << 30  # or keys of so many bytes
CHECKED = 128
MOST_PAIRS = 400
ALIKE = 0.95
"""Two wordings of one fact are hardly nearer than this."""
_CELL = 8192  # a larger one is cut, lest many equal keys cost their square
_BLOCK = 1024
_CHUNK = 1 << 16
_TRAINING = 40
_ITERATIONS = 6
_ROUNDING = 1e-5

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class NearPair:
    """Two groups and the inner product of their nearest keys. crowded: it is larger than that of two wordings of one of
    the groups, or at least ALIKE. parts: that of each block of the keys alone, where the keys of a trained router have
    such (routing/projection.py), else empty.
    """

    group_id: int
    other_id: int
    similarity: float
    crowded: bool
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Neighbours:
    """keys: live ones; compared: how many of those were looked at; unreadable: left out for damage.

    cells: 1 where every key was compared with every other, else how many k-means made; found: of the `checked` keys
    drawn, the share whose nearest lies in their own cell.
    nearest: float32 [g], of each group compared the similarity to its nearest other group, ids ascending, NaN where
    there was none. own: float32 [g], of its own keys that of the two least alike which follow each other, NaN of one
    key. pairs: the most similar, best first, at most MOST_PAIRS.
    """

    keys: int
    compared: int
    unreadable: int
    cells: int
    checked: int
    found: float | None
    nearest: Floats
    own: Floats
    pairs: tuple[NearPair, ...]

    @property
    def crowded(self) -> int:
        """How many groups have a key of another one nearer than two of their own are to each other."""
        return int((self.nearest > self.own).sum())

    def at_least(self, similarity: float) -> int:
        """How many groups have another one that near."""
        return int((self.nearest >= similarity - _ROUNDING).sum())


def near_groups(store: ReadableStore, blocks: int = 1) -> Neighbours:
    """Compares the store's keys. blocks: of which equal parts the keys are made, see NearPair.parts."""
    chance = np.random.default_rng(0)
    chosen = _chosen(store.key_groups, min(MOST_KEYS, MOST_BYTES // (4 * store.layout.key_dim)), chance)
    keys, read = store.keys(chosen)
    groups = store.key_groups[read]
    lengths = np.linalg.norm(keys, axis=1, keepdims=True)
    keys /= np.where(lengths > 0, lengths, 1)
    cells = list(_cells(keys))
    similarity, other = nearest_of_another_group(keys, groups, cells)
    own = _by_group(np.minimum, _own_similarity(keys, groups), groups)
    checked, found = 0, None
    if len(cells) > 1:
        drawn = np.sort(chance.choice(len(keys), min(CHECKED, len(keys)), replace=False))
        exact = _nearest_of_all(keys, groups, drawn)
        checked, found = len(drawn), float((similarity[drawn] >= exact - _ROUNDING).mean())
    return Neighbours(
        keys=len(store.key_groups),
        compared=len(keys),
        unreadable=int(chosen.sum()) - len(keys),
        cells=len(cells),
        checked=checked,
        found=found,
        nearest=_by_group(np.maximum, similarity, groups),
        own=own,
        pairs=_pairs(keys, groups, similarity, other, own, blocks),
    )


def nearest_of_another_group(keys: Floats, groups: Int64s, cells: list[Int64s]) -> tuple[Floats, Int64s]:
    """Of each key float32 [m, d] the largest inner product with one of another group in its cell, and that key's row.

    cells: rows, each key in one of them. -inf and -1 where a cell holds no other group.
    """
    similarity = np.full(len(keys), -np.inf, np.float32)
    other = np.full(len(keys), -1, np.int64)
    for rows in cells:
        own, own_groups = keys[rows], groups[rows]
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            scores = own[block] @ own.T
            scores[own_groups[block, None] == own_groups] = -np.inf
            best = scores.argmax(axis=1)
            similarity[rows[block]] = scores[np.arange(len(best)), best]
            other[rows[block]] = rows[best]
    other[np.isneginf(similarity)] = -1
    return similarity, other


def _chosen(groups: Int64s, most: int, chance: np.random.Generator) -> NDArray[np.bool_]:
    """bool [m]: the keys of groups that have up to `most` of them together."""
    if len(groups) <= most:
        return np.ones(len(groups), np.bool_)
    different, keys = np.unique(groups, return_counts=True)
    order = chance.permutation(len(different))
    drawn = different[order[: int(np.searchsorted(np.cumsum(keys[order]), most, "right"))]]
    return np.isin(groups, drawn)


def _cells(keys: Floats) -> Iterator[Int64s]:
    if len(keys) <= EXACT_KEYS:
        yield np.arange(len(keys))
        return
    count = math.isqrt(len(keys))
    means = faiss.Kmeans(
        keys.shape[1], count, niter=_ITERATIONS, seed=0, spherical=True, max_points_per_centroid=_TRAINING
    )
    means.train(keys)
    assigned = np.empty(len(keys), np.int64)
    for start in range(0, len(keys), _CHUNK):
        _, found = means.index.search(keys[start : start + _CHUNK], 1)
        assigned[start : start + _CHUNK] = found[:, 0]
    order = np.argsort(assigned, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(assigned[order])) + 1):
        yield from (rows[start : start + _CELL] for start in range(0, len(rows), _CELL))


def _nearest_of_all(keys: Floats, groups: Int64s, drawn: Int64s) -> Floats:
    """float32 [len(drawn)]: the similarity of each drawn key to the nearest key of another group, of all."""
    best = np.full(len(drawn), -np.inf, np.float32)
    for start in range(0, len(keys), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        scores = keys[drawn] @ keys[chunk].T
        scores[groups[drawn, None] == groups[chunk]] = -np.inf
        np.maximum(best, scores.max(axis=1), out=best)
    return best


def _own_similarity(keys: Floats, groups: Int64s) -> Floats:
    """float32 [m]: the inner product of each key with the one before it, inf where that is of another group."""
    similarity = np.full(len(keys), np.inf, np.float32)
    for start in range(1, len(keys), _CHUNK):
        end = min(start + _CHUNK, len(keys))
        products = np.einsum("nd,nd->n", keys[start:end], keys[start - 1 : end - 1])
        same = groups[start:end] == groups[start - 1 : end - 1]
        similarity[start:end][same] = products[same]
    return similarity


def _by_group(best: np.ufunc, similarity: Floats, groups: Int64s) -> Floats:
    """Of each group's keys the largest or smallest, ids ascending; NaN in the place of an infinite one."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    values = best.reduceat(similarity[order], starts) if len(starts) else np.empty(0, np.float32)
    return np.where(np.isinf(values), np.float32(np.nan), values)


def _pairs(
    keys: Floats, groups: Int64s, similarity: Floats, other: Int64s, own: Floats, blocks: int
) -> tuple[NearPair, ...]:
    bar = dict(zip(np.unique(groups).tolist(), np.fmin(own, ALIKE).tolist(), strict=True))
    found: dict[tuple[int, int], NearPair] = {}
    rows = np.flatnonzero(other >= 0)
    for row in rows[np.argsort(-similarity[rows], kind="stable")].tolist():
        nearest = int(other[row])
        pair = tuple(sorted((int(groups[row]), int(groups[nearest]))))
        if pair in found:
            continue
        parts: tuple[float, ...] = ()
        if blocks > 1:
            one, two = (keys[each].reshape(blocks, -1) for each in (row, nearest))
            lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
            parts = tuple(((one * two).sum(axis=1) / np.where(lengths > 0, lengths, 1)).tolist())
        near = min(float(similarity[row]), 1.0)
        found[pair[0], pair[1]] = NearPair(pair[0], pair[1], near, near > min(bar[pair[0]], bar[pair[1]]), parts)
        if len(found) == MOST_PAIRS:
            break
    return tuple(found.values())

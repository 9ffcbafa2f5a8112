"""Which keys are nearest, exactly: whatever finds the candidates, on whatever device, scores and order are the same.

A key's score is `exact_scores`, computed here from the key as it is stored. FAISS only proposes: its own scores differ
from these by rounding, by a little on the cpu and by more where a device holds 16-bit floats. By how much at most is
known, so it is proved for each query that nothing is missing: once the last key that is wanted scores higher than the
last candidate possibly could, no key beyond the candidates is nearer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_BLOCK = 1 << 16  # keys that are scored in one call where all of them are


class NearestKeys(Protocol):
    """What the router needs of an index, wherever it lies."""

    @property
    def ntotal(self) -> int:
        """How many keys there are."""
        ...

    def reconstruct(self, row: int) -> Floats:
        """float32 [dim]: the key, as it is stored."""
        ...

    def search(self, queries: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
        """The nearest keys of each query float32 [n, dim]: their scores and rows, [n, count] each, best first.

        count: from 1 to the number of keys. A key's score is `exact_scores`, and so many keys are always found.
        """
        ...


class Searched(Protocol):
    """What finds candidates: a FAISS index, of whose results the positions are rows of the keys."""

    def search(self, queries: Floats, count: int, /) -> tuple[Floats, NDArray[np.int64]]:
        """Scores by which it ranked them, and rows, [n, count] each, best first; -1 where it found no more."""
        ...


def exact_scores(query: Floats, keys: Floats) -> Floats:
    """float32 [n]: the inner products of a query with keys [n, dim]."""
    # not by BLAS, whose rounding varies with the number of rows: a key's score is the same in any company
    return np.asarray(np.einsum("nd,d->n", keys, query), np.float32)


def ranked(query: Floats, keys: Floats, candidates: NDArray[np.int64], count: int) -> tuple[Floats, NDArray[np.int64]]:
    """The `count` best of the candidates, which are rows of `keys`: scores and rows, best first.

    Of equal scores the lower rows are kept and the higher ones come first, which is how FAISS ranks them.
    """
    scores = exact_scores(query, keys[candidates])
    kept = np.lexsort((candidates, -scores))[:count]
    best = kept[np.lexsort((-candidates[kept], -scores[kept]))]
    return scores[best], candidates[best]


def best_of_all(query: Floats, keys: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
    """The `count` best of all keys, as `ranked` has them."""
    blocks = [exact_scores(query, keys[first : first + _BLOCK]) for first in range(0, len(keys), _BLOCK)]
    scores = np.concatenate(blocks)
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    return ranked(query, keys, np.flatnonzero(scores >= least), count)


def proved(
    searched: Searched,
    keys: Floats,
    queries: Floats,
    count: int,
    efforts: Iterable[int],
    rounding: NDArray[np.float64],
) -> tuple[Floats, NDArray[np.int64]]:
    """The `count` best of all keys for each query: scores and rows, [n, count] each.

    efforts: how many candidates to ask for, one number after the other, each from `count` to the number of keys.
    rounding: float64 [n]: by how much a score of `searched` differs from the exact one at most. A query that no effort
    settles is compared with all keys here.
    """
    scores = np.empty((len(queries), count), np.float32)
    rows = np.empty((len(queries), count), np.int64)
    unsettled = list(range(len(queries)))
    for looked_at in efforts:
        if not unsettled:
            break
        asked, unsettled = unsettled, []
        proposed, found = searched.search(queries[asked], looked_at)
        for i, last, candidates in zip(asked, proposed[:, -1], found, strict=True):
            present = candidates[candidates >= 0]  # a score that is no number is not ranked
            if len(present) == looked_at:
                scores[i], rows[i] = ranked(queries[i], keys, present, count)
            if not (len(present) == looked_at and (looked_at == len(keys) or scores[i, -1] > last + rounding[i])):
                unsettled.append(i)
    for i in unsettled:
        scores[i], rows[i] = best_of_all(queries[i], keys, count)
    return scores, rows


def longest(keys: Floats) -> float:
    """The length of the longest key; 0 where there is none."""
    blocks = (keys[first : first + _BLOCK] for first in range(0, len(keys), _BLOCK))
    return max((float(np.linalg.norm(block, axis=1).max()) for block in blocks), default=0.0)

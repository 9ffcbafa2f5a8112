"""The index over a store's keys: exact where that is fast enough, a search in two stages beyond.

Up to `EXACT_KEYS` keys every one is compared with every query. Beyond, each of m keys lies in one of about 2 sqrt(m)
lists as a code of 2 bits a dimension (product quantisation: 4 bits for each two dimensions), and a search has two
stages:

1. FAISS scans the codes in the lists whose centres are nearest to the query, 32 keys at a time with tables that stay in
   registers, and gives some hundred candidates.
2. The candidates' own keys are compared with the query, so that scores and order are those of an exact search.

A key can only be missed where its list is not looked at or its code misleads. How many lists and candidates it takes to
find the share `RECALL` of the nearest keys, and a little more, is tried out on queries that are made from keys.

The codes: Jégou, Douze and Schmid, *Product quantization for nearest neighbor search* (2011). The scan: André,
Kermarrec and Le Scouarnec, *Cache locality is not enough* (2015), as FAISS implements it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mome_store.routing.nearest import Floats, best_of_all, exact_scores, longest, proved, ranked

EXACT_KEYS = 10_000
"""Up to so many keys every one is compared with every query."""
RECALL = 0.99
"""Of the nearest keys that an exact search finds, the two stages must find this share."""
_AIM = 0.995  # of the nearest keys of the queries that it is tuned with, which are few
TRAINING = 40
"""Keys for each list that its centre is learnt from."""
ITERATIONS = 6
"""Of that learning."""
_QUERIES = 400
_NEAREST = 4  # as many as the gate compares
_LIKENESS = 0.75  # cosine of a query and the key that it is made from: as hard to find as that of another wording
_FEWEST_PROBES = 4
_FEWEST_CANDIDATES = 128
_MANY_CANDIDATES = 512  # more only where all lists don't do
_MOST_CANDIDATES = 8192
SPARE = 4
"""Candidates for each key that is asked for."""
_BEYOND = 32  # more than are asked for, so that a few keys that are alike don't make all be compared
_SHARED = 8  # queries that threads share
_ROUNDING = 1e-5  # of a score


class KeyIndex:
    """Finds the nearest of a snapshot's keys, by inner product.

    keys: float32 [m, dim], of unit length; kept, not copied. searched: a FAISS index over them, of whose results the
    positions are rows of `keys`. candidates: how many of its results are compared anew, at least; 0 where it is exact.
    """

    def __init__(self, keys: Floats, searched: Any, candidates: int) -> None:
        self._keys = keys
        self.searched = searched
        self.candidates = candidates
        self._longest = 0.0 if candidates else longest(keys)

    @property
    def ntotal(self) -> int:
        """How many keys there are."""
        return len(self._keys)

    def reconstruct(self, row: int) -> Floats:
        """float32 [dim]: the key, as it is stored."""
        return np.asarray(self._keys[row])

    def search(self, queries: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
        """As NearestKeys has it."""
        with _threads_for(len(queries)):
            if not self.candidates:
                efforts = [min(count + _BEYOND, self.ntotal)]
                return proved(self.searched, self._keys, queries, count, efforts, self._rounding(queries))
            _, found = self.searched.search(queries, min(max(self.candidates, SPARE * count), self.ntotal))
        scores = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        for i, (query, candidates) in enumerate(zip(queries, found, strict=True)):
            present = candidates[candidates >= 0]  # FAISS fills up with -1 where the lists looked at hold fewer
            enough = len(present) >= count
            scores[i], rows[i] = (
                ranked(query, self._keys, present, count) if enough else best_of_all(query, self._keys, count)
            )
        return scores, rows

    def _rounding(self, queries: Floats) -> NDArray[np.float64]:
        """float64 [n]: two sums of dim products in 32 bits, FAISS's and ours, in whatever order."""
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        return np.asarray(2**-23 * queries.shape[1] * self._longest * lengths)


@contextmanager
def _threads_for(queries: int) -> Iterator[None]:
    """FAISS on the calling thread alone where other threads would not be awake before it is done. The setting is the
    thread's own.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if queries < _SHARED else before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def build_index(keys: Floats) -> KeyIndex:
    """The index over keys float32 [m, dim] of unit length, contiguous. The same keys give the same index."""
    m, dim = keys.shape
    if m <= EXACT_KEYS:
        return _exact_index(keys)
    lists = 2 * math.isqrt(m)
    codes = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatIP(dim), dim, lists, dim // math.gcd(dim, 2), 4, faiss.METRIC_INNER_PRODUCT
    )
    codes.by_residual = False
    codes.cp.niter = ITERATIONS
    codes.cp.seed = 0
    chance = np.random.default_rng(0)
    codes.train(keys[np.sort(chance.choice(m, min(m, TRAINING * lists), replace=False))])
    codes.add(keys)
    candidates = tune(codes, keys, chance)
    return _exact_index(keys) if candidates is None else KeyIndex(keys, codes, candidates)


def _exact_index(keys: Floats) -> KeyIndex:
    flat = faiss.IndexFlatIP(keys.shape[1])
    flat.add(keys)
    return KeyIndex(keys, flat, candidates=0)


def tune(
    codes: Any,
    keys: Floats,
    chance: np.random.Generator,
    most_probes: int | None = None,
    most_results: int | None = None,
) -> int | None:
    """How many candidates it takes, with as many lists as `codes` looks at from now on; None where the codes of keys
    are too much alike.

    codes: an index in inverted lists, with `nlist`, `nprobe` and `search`. most_probes, most_results: how many lists it
    can look at and how many results it can give, where it can't do what it takes.
    """
    queries = _likely_queries(keys, chance)
    nearest, _ = _exact(queries, keys, _NEAREST)
    last = codes.nlist if most_probes is None else min(codes.nlist, most_probes)
    many, most = min(_MANY_CANDIDATES, len(keys)), min(most_results or _MOST_CANDIDATES, len(keys))
    efforts = [(probes, many) for probes in _growing(_FEWEST_PROBES, last)]
    efforts += [(last, more) for more in _growing(2 * many, most)]
    for probes, looked_at in efforts:
        codes.nprobe = probes
        _, found = codes.search(queries, looked_at)
        scores = np.full(found.shape, -np.inf, np.float32)
        for query, rows, own in zip(queries, found, scores, strict=True):
            own[rows >= 0] = exact_scores(query, keys[rows[rows >= 0]])
        # by scores, not by rows: of equal keys one is as good as another
        hits = (scores >= nearest[:, -1:] - _ROUNDING).cumsum(axis=1)
        enough = np.minimum(hits, _NEAREST).mean(axis=0) >= _AIM * _NEAREST
        if enough.any():
            return min(max(_FEWEST_CANDIDATES, int(enough.argmax()) + 1), len(keys))
    return None


def _likely_queries(keys: Floats, chance: np.random.Generator) -> Floats:
    chosen = keys[np.sort(chance.choice(len(keys), min(_QUERIES, len(keys)), replace=False))]
    noise = chance.standard_normal(chosen.shape, np.float32)
    noise -= (noise * chosen).sum(axis=1, keepdims=True) * chosen
    noise /= np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-12)
    return np.float32(_LIKENESS) * chosen + np.float32((1 - _LIKENESS**2) ** 0.5) * noise


def _exact(queries: Floats, keys: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
    scores, rows = faiss.knn(queries, keys, count, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, rows


def _growing(first: int, last: int) -> Iterator[int]:
    while first < last:
        yield first
        first += max(1, first // 4)
    yield last

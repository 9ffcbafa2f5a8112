"""The index over a store's keys: exact where that is fast enough, inverted lists beyond."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

EXACT_KEYS = 20_000
"""Up to so many keys every one is compared with every query."""
RECALL = 0.99
"""Of the nearest keys that an exact search finds, inverted lists must find this share."""
_TRAINING = 40  # keys for each list that its centre is learnt from
_ITERATIONS = 6
_QUERIES = 400
_NEAREST = 4  # as many as the gate compares
_LIKENESS = 0.85  # cosine of a query and the key that it is made from: that of another wording of a fact


def build_index(keys: NDArray[np.float32]) -> faiss.Index:
    """An inner-product index over keys [m, dim] of unit length; position i of a result is row i of `keys`.

    Beyond `EXACT_KEYS` it looks at some of about 4 sqrt(m) lists for each query: as many as `RECALL` takes, tried out
    on queries that are made from keys of its own.
    """
    if len(keys) <= EXACT_KEYS:
        flat = faiss.IndexFlatIP(keys.shape[1])
        flat.add(keys)
        return flat
    lists = int(4 * len(keys) ** 0.5)
    quantizer = faiss.IndexFlatIP(keys.shape[1])
    index = faiss.IndexIVFFlat(quantizer, keys.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = _ITERATIONS
    index.cp.seed = 0
    chance = np.random.default_rng(0)
    index.train(keys[np.sort(chance.choice(len(keys), min(len(keys), _TRAINING * lists), replace=False))])
    index.add(keys)
    index.make_direct_map()
    _choose_probes(index, keys, chance)
    return index


def _choose_probes(index: faiss.IndexIVFFlat, keys: NDArray[np.float32], chance: np.random.Generator) -> None:
    chosen = keys[chance.choice(len(keys), _QUERIES, replace=False)]
    noise = chance.standard_normal(chosen.shape, np.float32)
    noise -= (noise * chosen).sum(axis=1, keepdims=True) * chosen
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    queries = np.float32(_LIKENESS) * chosen + np.float32((1 - _LIKENESS**2) ** 0.5) * noise
    _, expected = faiss.knn(queries, keys, _NEAREST, metric=faiss.METRIC_INNER_PRODUCT)
    index.nprobe = 1
    while index.nprobe < index.nlist and _recall(index.search(queries, _NEAREST)[1], expected) < RECALL:
        index.nprobe = min(2 * index.nprobe, index.nlist)


def _recall(found: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(own, others).mean() for own, others in zip(expected, found, strict=True)]))

"""`mome bench route`: what routing adds to a query, by the number of keys.

Questions about airports go through the whole router, one at a time: encoder, projection, search and gate. What the
sentence encoder alone takes for the same questions, in turns with it, is taken off. A thousand keys are those of real
airports; the others are made from them, with the relation of one, and the entity and sentence of two others mixed with
noise.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mome_store import ExpertStore, Memory, Router
from mome_store.routing import KeyEncoder
from mome_store.routing.index import EXACT_KEYS, RECALL
from mome_store.routing.projection import BLOCKS
from mome_tools.airports import airport_facts
from mome_tools.figures import Figure
from mome_tools.random_store import add_random_groups, schema_of_records

Progress = Callable[[str, int, int], None]
REAL = 1000
QUERIES = 100
NOISE = 0.5
LARGE = 1_000_000
ADDED_BAR = 5.0  # milliseconds, at so many keys


def measure_route(sizes: Sequence[int], on_progress: Progress) -> list[Figure]:
    """Milliseconds a query: of the encoder, and of all else at each number of keys."""
    encoder = KeyEncoder()
    facts = airport_facts(REAL, 0, seed=0)
    on_progress("encoding", 0, len(sizes) + 1)
    real = encoder.encode([fact.question for fact in facts])
    queries = [fact.heldout[i % len(fact.heldout)] for i, fact in enumerate(facts[:QUERIES])]
    figures = []
    with tempfile.TemporaryDirectory(prefix="mome-bench-") as folder:
        for done, size in enumerate(sizes, start=1):
            on_progress(f"{size:,} keys", done, len(sizes) + 1)
            path = Path(folder, str(size))
            schema = schema_of_records(4096)
            with ExpertStore.create(path, schema, encoder.dim, encoder=encoder.identity) as store:
                expert = {name: (np.zeros((1, i)), np.zeros((o, 1))) for name, (i, o) in schema.modules.items()}
                with store.transaction() as transaction:
                    for fact, key in zip(facts[:size], real, strict=False):
                        memory = Memory(fact.question, fact.answer or "")
                        transaction.add_group([expert], keys=key[None], memory=memory)
                add_random_groups(store, max(0, size - REAL), partial(_mixed, real))
                with store.snapshot() as snapshot:
                    start = time.perf_counter()
                    router = Router.open(snapshot, encoder=encoder)
                    opening = time.perf_counter() - start
                    encoding, whole = _interleaved(partial(_encode, encoder, queries), partial(_route, router, queries))
            kind = "exact" if size <= EXACT_KEYS else f"inverted lists, recall {RECALL}"
            name = f"routing beyond the encoder, {size:,} keys, {kind}"
            added = whole - encoding
            figures += [
                Figure.at_most(name, added, ADDED_BAR, "ms", peer="the encoder", peer_value=encoding)
                if size >= LARGE
                else Figure(name, added, "ms", peer="the encoder", peer_value=encoding),
                Figure(f"opening the router, {size:,} keys, index built", opening, "s"),
            ]
    return figures


def _mixed(real: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """float32 [count, dim], of unit length: keys as other facts might have."""
    blocks = real.reshape(len(real), len(BLOCKS), -1)
    chosen = [blocks[rng.integers(len(real), size=count)] for _ in range(3)]
    made = chosen[1] + chosen[2]
    made[:, 0] = chosen[0][:, 0]
    noise = rng.standard_normal(made.shape, np.float32)
    made /= np.linalg.norm(made, axis=2, keepdims=True)
    made += np.float32(NOISE) * noise / np.linalg.norm(noise, axis=2, keepdims=True)
    made /= np.linalg.norm(made, axis=2, keepdims=True) * np.float32(len(BLOCKS) ** 0.5)
    return made.reshape(count, -1)


def _encode(encoder: KeyEncoder, queries: Sequence[str], query: int) -> None:
    encoder.sentences.encode([queries[query]])


def _route(router: Router, queries: Sequence[str], query: int) -> None:
    router.route([queries[query]])


def _interleaved(*works: Callable[[int], None]) -> list[float]:
    """Median milliseconds of each, taken in turns."""
    times: list[list[float]] = [[] for _ in works]
    for i in range(QUERIES):
        for taken, work in zip(times, works, strict=True):
            start = time.perf_counter()
            work(i)
            taken.append(time.perf_counter() - start)
    return [1e3 * statistics.median(taken) for taken in times]

"""`mome bench route`: what routing adds to a query, by the number of keys.

The default encoder on one question at a time; then the search for the 32 nearest among random unit keys of its width
and the gate's decision, with the embedding given.
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

from mome_store import ExpertStore, Router
from mome_store.routing import SentenceEncoder
from mome_tools.figures import Figure
from mome_tools.random_store import make_random_store, schema_of_records

Progress = Callable[[str, int, int], None]
QUESTION = "What is the ICAO code of the airport near the lighthouse?"
QUERIES = 100


class _Given:
    """An encoder whose embeddings are there already."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.identity = {"name": "given", "fingerprint": None}
        self._rows = np.random.default_rng(0).standard_normal((QUERIES, dim), np.float32)
        self._rows /= np.linalg.norm(self._rows, axis=1, keepdims=True)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._rows[[int(text) for text in texts]]


def measure_route(sizes: Sequence[int], on_progress: Progress) -> list[Figure]:
    """Milliseconds a query: of the encoder, and of the rest at each number of keys."""
    encoder = SentenceEncoder()
    on_progress("encoding", 0, len(sizes) + 1)
    encoding = _median_ms(lambda _: encoder.encode([QUESTION]))
    figures = [Figure("encoding a question", encoding, "ms")]
    with tempfile.TemporaryDirectory(prefix="mome-bench-") as folder:
        for done, size in enumerate(sizes, start=1):
            on_progress(f"{size:,} keys", done, len(sizes) + 1)
            path = Path(folder, str(size))
            make_random_store(path, schema_of_records(4096), size, key_dim=encoder.dim)
            with ExpertStore.open(path) as store, store.snapshot() as snapshot:
                router = Router.open(snapshot, encoder=_Given(encoder.dim))
                spent = _median_ms(partial(_route, router))
            figures.append(
                Figure(
                    f"search and gate, {size:,} keys of {encoder.dim}",
                    spent,
                    "ms",
                    peer="the encoder",
                    peer_value=encoding,
                    ratio=encoding / spent,
                )
            )
    return figures


def _route(router: Router, query: int) -> None:
    router.route([str(query)])


def _median_ms(query: Callable[[int], object]) -> float:
    times = []
    for i in range(QUERIES):
        start = time.perf_counter()
        query(i)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)

"""`mome bench route`: what routing adds to a query, by the number of keys.

Questions about airports go through the whole router, one at a time: encoder, projection, search and gate. The time that
the sentence encoder is at work in it is taken off. A thousand keys are those of real airports; the others are made from
them, with the relation of one, and the entity and sentence of two others mixed with noise.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from mome_store import ExpertStore, Memory, Router
from mome_store.routing import KeyEncoder, SentenceEncoder, faiss_reaches
from mome_store.routing.encoder import TokenStates
from mome_store.routing.index import EXACT_KEYS, RECALL
from mome_store.routing.projection import BLOCKS
from mome_store.store.zarr_metadata import INDEX_FOLDER
from mome_tools.airports import airport_facts
from mome_tools.figures import Figure
from mome_tools.random_store import add_random_groups, schema_of_records
from mome_tools.tuning_figures import folder_bytes

if TYPE_CHECKING:
    from mome_store.store import Snapshot

Progress = Callable[[str, int, int], None]
REAL = 1000
QUERIES = 100
COMPARED = 400  # queries whose nearest keys are compared with those of an exact search
NEAREST = 4  # as many as the gate compares
NOISE = 0.5
LARGE = 1_000_000
ADDED_BAR = 5.0  # milliseconds, at so many keys


class _ClockedEncoder(SentenceEncoder):
    """The default sentence encoder, with the seconds that it has been at work."""

    seconds = 0.0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._clock():
            return super().encode(texts)

    def encode_tokens(self, texts: Sequence[str]) -> list[TokenStates]:
        with self._clock():
            return super().encode_tokens(texts)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def measure_route(sizes: Sequence[int], on_progress: Progress, device: str = "cpu") -> list[Figure]:
    """At each number of keys: milliseconds a query beside the encoder's, keys found, and what the index costs.

    device: of the encoder, and of the index where FAISS reaches it, as in MemoryModel.
    """
    index_device = device if faiss_reaches(device) else "cpu"
    clocked = _ClockedEncoder(device=device)
    encoder = KeyEncoder(clocked)
    facts = airport_facts(REAL, 0, seed=0)
    on_progress("encoding", 0, len(sizes) + 1)
    real = encoder.encode([fact.question for fact in facts])
    queries = [fact.heldout[i % len(fact.heldout)] for i, fact in enumerate(facts[:COMPARED])]
    asked = encoder.encode(queries)
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
                    _, nearest = faiss.knn(asked, snapshot.keys()[0], NEAREST, metric=faiss.METRIC_INNER_PRODUCT)
                    building, router = _opened(snapshot, encoder, device, index_device)
                    del router  # else two would be in memory
                    opening, router = _opened(snapshot, encoder, device, index_device)
                    encoding, added = _split(router, queries[:QUERIES], clocked)
                    found = [[candidate.key for candidate in each] for each in router.score(queries)]
                    del router
            shares = [np.isin(own, others).mean() for own, others in zip(nearest, found, strict=True)]
            kind = "exact" if size <= EXACT_KEYS else "in two stages"
            if device != "cpu":
                kind += f", index on {index_device}"
            name = f"routing beyond the encoder, {size:,} keys, {kind}"
            figures += [
                Figure.at_most(name, added, ADDED_BAR, "ms", peer="the encoder", peer_value=encoding)
                if size >= LARGE
                else Figure(name, added, "ms", peer="the encoder", peer_value=encoding),
                Figure.at_least(
                    f"of the {NEAREST} nearest keys found, {size:,} keys",
                    100 * float(np.mean(shares)),
                    100 * RECALL,
                    "%",
                ),
                Figure(f"the index's bytes a key, {size:,} keys", folder_bytes(path / INDEX_FOLDER) / size, "B"),
                Figure(f"opening the router, {size:,} keys, index built", building, "s"),
                Figure(f"opening the router, {size:,} keys, index there", opening, "s"),
            ]
            shutil.rmtree(path)  # of a million: 5.3 GiB
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


def _opened(snapshot: Snapshot, encoder: KeyEncoder, device: str, index_device: str) -> tuple[float, Router]:
    """Seconds, and the router."""
    start = time.perf_counter()
    router = Router.open(snapshot, encoder=encoder, device=device, index_device=index_device)
    return time.perf_counter() - start, router


def _split(router: Router, queries: Sequence[str], encoder: _ClockedEncoder) -> tuple[float, float]:
    """Median milliseconds a query: of the encoder, and of all else."""
    own, others = [], []
    for query in queries:
        before = encoder.seconds
        start = time.perf_counter()
        router.route([query])
        whole = time.perf_counter() - start
        own.append(encoder.seconds - before)
        others.append(whole - own[-1])
    return 1e3 * statistics.median(own), 1e3 * statistics.median(others)

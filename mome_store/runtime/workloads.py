"""Synthetic traces: requests as caches meet them, from a seed.

In each, every batch asks for `per_batch` different experts out of `experts`, and batch b comes at b seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mome_store.errors import SchemaError
from mome_store.runtime.trace import Trace

RECORD_BYTES = 20480
"""Size of a record where none is given: that of memory tuning's default schema."""

WINDOW_SHARE = 0.05
"""The working set of `window`, as a share of all experts."""

WINDOW_USES = 10
"""How often an expert is asked for, on average, while it is in that working set."""

SCAN_EVERY, SCAN_BATCHES = 500, 100
"""`mixed`: of every 500 batches, the last 100 are a scan."""


def uniform(experts: int, batches: int, per_batch: int, seed: int = 0, record_bytes: int = RECORD_BYTES) -> Trace:
    """Every expert is as likely as every other."""
    rng = _checked(experts, batches, per_batch, seed)
    return _trace(_draw(rng, np.ones(experts), batches, per_batch), record_bytes)


def zipf(
    experts: int, batches: int, per_batch: int, seed: int = 0, record_bytes: int = RECORD_BYTES, exponent: float = 1.0
) -> Trace:
    """The expert of popularity rank r is drawn with a probability proportional to r ** -exponent."""
    rng = _checked(experts, batches, per_batch, seed)
    return _trace(_draw_zipf(rng, experts, batches, per_batch, exponent), record_bytes)


def window(experts: int, batches: int, per_batch: int, seed: int = 0, record_bytes: int = RECORD_BYTES) -> Trace:
    """A working set that drifts.

    It is a twentieth of the experts (at least `per_batch`), each as likely as the others, and moves on through all of
    them, at a pace at which an expert is asked for ten times, on average, while it is in it.
    """
    rng = _checked(experts, batches, per_batch, seed)
    width = max(per_batch, round(WINDOW_SHARE * experts))
    start = np.arange(batches, dtype=np.int64) * per_batch // WINDOW_USES
    drawn = _draw(rng, np.ones(width), batches, per_batch)
    return _trace((start[:, None] + drawn) % experts, record_bytes)


def scan(experts: int, batches: int, per_batch: int, seed: int = 0, record_bytes: int = RECORD_BYTES) -> Trace:
    """All experts in turn, over and over. The seed plays no part."""
    _checked(experts, batches, per_batch, seed)
    return _trace(_sweep(experts, batches, per_batch), record_bytes)


def mixed(experts: int, batches: int, per_batch: int, seed: int = 0, record_bytes: int = RECORD_BYTES) -> Trace:
    """Zipf with exponent 1, and periodically a scan, which goes on where the one before it stopped."""
    rng = _checked(experts, batches, per_batch, seed)
    ids = _draw_zipf(rng, experts, batches, per_batch, 1.0)
    scanning = np.arange(batches) % SCAN_EVERY >= SCAN_EVERY - SCAN_BATCHES
    ids[scanning] = _sweep(experts, int(scanning.sum()), per_batch)
    return _trace(ids, record_bytes)


_WORKLOADS: dict[str, Callable[..., Trace]] = {
    "uniform": uniform,
    "zipf": zipf,
    "window": window,
    "scan": scan,
    "mixed": mixed,
}


def make(
    name: str, experts: int, batches: int, per_batch: int, seed: int = 0, record_bytes: int = RECORD_BYTES
) -> Trace:
    """The workload of that name; "zipf:1.2" is `zipf` with exponent 1.2. Raises `SchemaError` for any other name."""
    exponent = re.fullmatch(r"zipf:(\d+(?:\.\d*)?)", name)
    if exponent:
        return zipf(experts, batches, per_batch, seed, record_bytes, exponent=float(exponent[1]))
    if name not in _WORKLOADS:
        raise SchemaError(f"workload must be one of {', '.join(_WORKLOADS)} or, say, zipf:1.2, not {name!r}")
    return _WORKLOADS[name](experts, batches, per_batch, seed, record_bytes)


def _checked(experts: int, batches: int, per_batch: int, seed: int) -> np.random.Generator:
    if batches < 1 or per_batch < 1 or seed < 0:
        raise SchemaError("a workload has at least one batch of at least one expert, and a seed that isn't negative")
    if per_batch > experts:
        raise SchemaError(f"a batch can't ask for {per_batch} different experts out of {experts}")
    return np.random.default_rng(seed)


def _draw_zipf(
    rng: np.random.Generator, experts: int, batches: int, per_batch: int, exponent: float
) -> NDArray[np.int64]:
    if not 0 <= exponent <= 10:
        raise SchemaError(f"a zipf exponent is a number from 0 to 10, not {exponent}")
    ranks = _draw(rng, np.arange(1, experts + 1, dtype=np.float64) ** -exponent, batches, per_batch)
    return rng.permutation(experts)[ranks]  # an id says nothing of how popular its expert is


def _draw(rng: np.random.Generator, likelihood: NDArray[np.float64], batches: int, per_batch: int) -> NDArray[np.int64]:
    """int64 [batches, per_batch]: for each batch, draws one after the other in proportion to `likelihood` (float64
    [experts]), without putting back."""
    if 4 * per_batch > len(likelihood):
        # Few are left to draw from, so redrawing could go on for long. The first of exponential waiting times with
        # these rates come in the same distribution.
        arrivals = rng.exponential(size=(batches, len(likelihood))) / likelihood
        return np.argsort(arrivals, axis=1)[:, :per_batch]
    cumulative = np.cumsum(likelihood)
    drawn = np.empty((batches, per_batch), np.int64)
    again = np.ones((batches, per_batch), bool)
    while again.any():
        drawn[again] = np.searchsorted(cumulative, rng.random(int(again.sum())) * cumulative[-1], side="right")
        again = _repeats(drawn)
    return drawn


def _repeats(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which elements of a row [n, k] are equal to an earlier one of the same row."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    repeats = np.zeros(rows.shape, bool)
    np.put_along_axis(repeats, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return repeats


def _sweep(experts: int, batches: int, per_batch: int) -> NDArray[np.int64]:
    return np.arange(batches * per_batch, dtype=np.int64).reshape(batches, per_batch) % experts


def _trace(ids: NDArray[np.int64], record_bytes: int) -> Trace:
    batches, per_batch = ids.shape
    return Trace(
        record_bytes=record_bytes,
        times=np.arange(batches, dtype=np.float64),
        indptr=np.arange(batches + 1, dtype=np.int64) * per_batch,
        ids=np.ascontiguousarray(ids, dtype=np.int64).reshape(-1),
    )

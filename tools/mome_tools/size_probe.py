"""Serves a hot set out of a store with a fixed budget and tells, as JSON, its peak memory and its speed.

    python -m mome_tools.size_probe STORE BUDGET [DEVICE]

A process of its own, so that the peak is of this alone: torch, the catalogue's arrays, the slots and the kernels. There
is no router in it, whose index grows with the store by its nature.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from mome_store import ExpertCache, ExpertStore, Route
from mome_store.runtime.apply import RoutedRows, tables_of

HOT = 512
K = 32
BATCHES = 4000


def main() -> None:
    device = sys.argv[3] if len(sys.argv) > 3 else "cpu"
    with ExpertStore.open(Path(sys.argv[1])) as store, store.snapshot() as snapshot:
        schema = snapshot.schema
        [(module, (d_in, d_out))] = schema.modules.items()
        random = np.random.default_rng(0)
        hot = random.choice(snapshot.expert_ids, min(HOT, len(snapshot.expert_ids)), replace=False)
        x, y = torch.randn(1, d_in).to(device), torch.zeros(1, d_out).to(device)
        row = torch.zeros(1, dtype=torch.int32)
        with ExpertCache(snapshot, device=device, capacity=sys.argv[2]) as cache, torch.inference_mode():

            def serve(ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
                weights = np.full(len(ids), 1 / len(ids), np.float32)
                route = Route((ids,), (weights,), ((),), np.ones(1, np.float32), np.ones(1, bool))
                with cache.acquire(route) as lease:
                    RoutedRows(row, row, tables_of(lease), device).apply(schema, module, y, x)

            spare = snapshot.expert_ids[: cache.slots or 0]
            for first in range(0, len(spare), K):  # every slot is used before anything is measured
                serve(spare[first : first + K])
            batches = [random.choice(hot, K, replace=False) for _ in range(BATCHES)]
            for batch in batches[: BATCHES // 4]:
                serve(batch)
            start = time.perf_counter()
            for batch in batches:
                serve(batch)
            y.cpu()  # waits for a device that is behind
            spent = time.perf_counter() - start
    print(json.dumps({"peak_bytes": _peak_bytes(), "batches_per_second": BATCHES / spent}))


def _peak_bytes() -> int:
    """The most memory that this process ever had (getrusage would tell that of the process which started it, too)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    main()

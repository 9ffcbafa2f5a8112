"""What the fuzzers of tests/cpp/fuzz start from: the files of a real small store.

python -m tests.fuzz.corpus FOLDER      makes FOLDER/store, and FOLDER/<fuzzer>/ with seeds for each
"""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

from mome_store.store import ExpertStore
from tests.damage.small_store import make_small_store

FUZZERS = ("shard_index", "record", "layout", "runs", "zarr_json")


def make_corpus(folder: Path) -> None:
    """The first byte of a seed says whether the fuzzer makes a checksum fit; both kinds are there."""
    shutil.rmtree(folder, ignore_errors=True)
    store = folder / "store"
    store.parent.mkdir(parents=True)
    make_small_store(store)
    with ExpertStore.open(store) as opened, opened.snapshot() as snapshot:
        schema = snapshot.schema
        record = snapshot.read_record(1)
        runs = snapshot.expert_runs.tolist()
    shard = (store / "experts/c/0/0").read_bytes()
    entry, missing = shard[4096:4112], shard[4112:4128]
    swapped = shard[:4096] + missing + entry + shard[4128:]
    two = 2 * shard[:4096] + entry + struct.pack("<QQ", 4096, 4096) + bytes(4)
    slots = snapshot.rows_per_shard - 1
    widths = [width for pair in schema.modules.values() for width in pair]
    layout = struct.pack(f"<Bq{len(widths)}q", 3 * len(schema.modules), schema.rank, *widths)
    packed_runs = b"".join(struct.pack("<5q", *run) for run in runs)
    seeds = {
        "shard_index": [bytes([flag | slots]) + file for flag in (0, 0x80) for file in (shard, swapped, two)],
        "record": [bytes([flag]) + record for flag in (0, 1)],
        "layout": [layout + bytes([len(runs)]) + packed_runs],
        "runs": [struct.pack("<HBB", 2, 1, len(runs)) + struct.pack("<qqBB", 1, 1, 0, 0) + packed_runs],
        "zarr_json": [(store / "zarr.json").read_bytes(), (store / "experts/zarr.json").read_bytes()],
    }
    assert seeds.keys() == set(FUZZERS)
    for fuzzer, contents in seeds.items():
        (folder / fuzzer).mkdir()
        for i, content in enumerate(contents):
            (folder / fuzzer / f"seed{i}").write_bytes(content)


if __name__ == "__main__":
    make_corpus(Path(sys.argv[1]))

"""What is in a store, and in which state: the figures behind `mome inspect --html`. Gathers and draws nothing."""

from mome_store.inspection.history import History
from mome_store.inspection.inspection import SHOWN, Contents, Inspection, ShownMemory, inspect_store
from mome_store.inspection.neighbours import NearPair, Neighbours
from mome_store.inspection.norms import Norms
from mome_store.inspection.shard_map import RowState, ShardMap
from mome_store.inspection.sizes import Compaction, Sizes
from mome_store.inspection.usage import Usage

__all__ = [
    "SHOWN",
    "Compaction",
    "Contents",
    "History",
    "Inspection",
    "NearPair",
    "Neighbours",
    "Norms",
    "RowState",
    "ShardMap",
    "ShownMemory",
    "Sizes",
    "Usage",
    "inspect_store",
]

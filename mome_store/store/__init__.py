"""The store: experts, keys and memories on disk, changed by transactions and read through snapshots.

Imports neither torch nor transformers.
"""

from mome_store.store.compaction import CompactionReport
from mome_store.store.damage import Damage
from mome_store.store.expert_store import ExpertStore
from mome_store.store.memory import Memory
from mome_store.store.pool import pool_memories, set_pool_memories
from mome_store.store.repair import RepairReport, repair
from mome_store.store.repair_plan import Loss
from mome_store.store.schema import ExpertSchema, Section
from mome_store.store.shard import ShardInfo
from mome_store.store.snapshot import Group, Snapshot
from mome_store.store.statistics import StoreStatistics, statistics
from mome_store.store.transaction import Transaction
from mome_store.store.verify import VerifyReport, verify
from mome_store.store.writer import GarbageReport

__all__ = [
    "CompactionReport",
    "Damage",
    "ExpertSchema",
    "ExpertStore",
    "GarbageReport",
    "Group",
    "Loss",
    "Memory",
    "RepairReport",
    "Section",
    "ShardInfo",
    "Snapshot",
    "StoreStatistics",
    "Transaction",
    "VerifyReport",
    "pool_memories",
    "repair",
    "set_pool_memories",
    "statistics",
    "verify",
]

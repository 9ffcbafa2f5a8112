"""The facts of a pool: where a store keeps memories whose experts are everyone's.

A group's memory is the fact that its experts hold. In a pool every expert holds a share of many facts, so a fact
belongs to no group. The facts are one meta value, the list of memories: the format stays what it is, a commit's digest
covers the value as it covers every meta row, and older readers open the store. It is written whole with each commit of
a pool, which writes all the pool's experts anew anyway, 20 KiB each where a fact takes some 200 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mome_store.errors import DamagedStoreError, SchemaError
from mome_store.store.catalog import CATALOG_NAME
from mome_store.store.memory import Memory
from mome_store.store.snapshot import Snapshot
from mome_store.store.transaction import Transaction

POOL_META = "pool_memories"


def pool_memories(snapshot: Snapshot) -> tuple[Memory, ...]:
    """The facts that the pool holds, in the order in which they came; none where the store is no pool."""
    return memories_of_meta(snapshot.meta(POOL_META, ()))


def memories_of_meta(value: Any) -> tuple[Memory, ...]:
    """The facts in the meta value of the name POOL_META."""
    try:
        return tuple(Memory(**fields) for fields in value)
    except (TypeError, SchemaError) as error:
        raise DamagedStoreError(
            CATALOG_NAME, None, None, f"the meta value {POOL_META!r} is no list of memories"
        ) from error


def set_pool_memories(transaction: Transaction, memories: Sequence[Memory]) -> None:
    """From this commit on these are the facts that the pool holds."""
    transaction.set_meta(POOL_META, [asdict(memory) for memory in memories])

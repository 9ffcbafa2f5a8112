"""All that an operator wants to see of a store, gathered; also of a damaged one, as far as it can be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mome_store.inspection.history import History, commit_history
from mome_store.inspection.neighbours import NearPair, Neighbours, near_groups
from mome_store.inspection.norms import Norms, expert_norms
from mome_store.inspection.readable import FOUND, ReadableStore
from mome_store.inspection.shard_map import ShardMap, shard_maps
from mome_store.inspection.sizes import Compaction, Sizes, compactions, measure_sizes
from mome_store.inspection.usage import Usage, usage_of
from mome_store.store.catalog import ACTIVATIONS, MODES, CatalogState, count_retired, load_state
from mome_store.store.damage import Damage
from mome_store.store.expert_store import find_store
from mome_store.store.memory import Memory
from mome_store.store.pool import POOL_META, memories_of_meta
from mome_store.store.statistics import StoreStatistics
from mome_store.store.verify import VerifyReport, verify

if TYPE_CHECKING:
    from mome_store.runtime.trace import Trace

MOST_MEMORIES = 2000
SHOWN = 20  # of a list of groups or experts: so many have their memories read
_ATTEMPTS = 3

OnStep = Callable[[str, int, int], None]
"""Told of each step: what begins, how many are done, how many there are."""
_STEPS = ("verifying", "comparing keys", "reading experts", "reading memories")


@dataclass(frozen=True)
class ShownMemory:
    """group_id: None for a fact of a pool, which no group holds alone. since_us: when it was committed, if known."""

    group_id: int | None
    memory: Memory
    since_us: int | None


@dataclass(frozen=True)
class Contents:
    """What the catalogue of a store tells and leads to, as of one commit.

    statistics: as `mome inspect` prints them. modes, activations: how many groups are of each.
    memories: the newest, at most MOST_MEMORIES, of memories_total; unreadable_memories: of those looked at, left out.
    texts: the memory of each group that another field names, where it has one that can be read.
    router_blocks: names of the equal parts of a key, where a trained router made them.
    """

    statistics: StoreStatistics
    time_us: int
    rows_per_shard: int
    modes: dict[str, int]
    activations: dict[str, int]
    shards: tuple[ShardMap, ...]
    compactions: tuple[Compaction, ...]
    history: History
    neighbours: Neighbours
    router_blocks: tuple[str, ...]
    norms: Norms
    usage: Usage | None
    memories: tuple[ShownMemory, ...]
    memories_total: int
    unreadable_memories: int
    texts: dict[int, Memory]

    def pairs(self, limit: int) -> list[tuple[NearPair, bool | None]]:
        """The most similar pairs of groups, those with different answers first, and whether their answers are the same
        (then none loses by the other; None: there is a group without a memory).
        """
        judged = [(pair, self._same_answer(pair)) for pair in self.neighbours.pairs]
        return sorted(judged, key=lambda each: each[1] is True)[:limit]

    def _same_answer(self, pair: NearPair) -> bool | None:
        one, other = self.texts.get(pair.group_id), self.texts.get(pair.other_id)
        return None if one is None or other is None else one.answer == other.answer


@dataclass(frozen=True)
class Inspection:
    """A store as it was found. path: as given. attributes: what its zarr.json or its catalogue says of format, schema,
    base model and encoder; None where neither can be read. deep: whether every record and key was checked.
    contents: None where the catalogue can't be read.
    """

    path: Path
    attributes: dict[str, Any] | None
    deep: bool
    damage: tuple[Damage, ...]
    sizes: Sizes
    contents: Contents | None


def inspect_store(
    path: Path | str, trace: Trace | None = None, deep: bool = False, on_step: OnStep | None = None
) -> Inspection:
    """Looks at the newest commit of the store at `path`, and changes nothing.

    trace: whose use of the groups to tell. deep: check every record and key. Work and memory are bounded: of very many
    keys and experts some are drawn at random, which the results tell. Raises StoreNotFoundError where no store is and
    FormatVersionError for a newer one; damage is reported, not raised.
    """
    directory = Path(path)
    tell = on_step or (lambda *_: None)
    tell(_STEPS[0], 0, len(_STEPS))
    report, state = _verified(directory, deep)
    damage = list(report.damage)
    contents: Contents | None = None
    attributes: dict[str, Any] | None = None
    if state is not None:
        attributes = state.layout.attributes()
        store = ReadableStore(directory, state, damage)
        try:
            contents = _contents(store, trace, tell)
        except FOUND as error:  # the catalogue broke, or was replaced, since it was read
            store.note(Damage.of(error))
    else:
        try:
            attributes = find_store(directory)
        except FOUND:
            attributes = None  # verify has told
    return Inspection(
        path=directory,
        attributes=attributes,
        deep=deep,
        damage=tuple(damage),
        sizes=measure_sizes(directory, contents.shards if contents else ()),
        contents=contents,
    )


def _verified(directory: Path, deep: bool) -> tuple[VerifyReport, CatalogState | None]:
    """What verify says and the state that it says it of. A writer may commit, and drop files, between the two."""
    for _ in range(_ATTEMPTS):
        report = verify(directory, deep=deep)
        try:
            state: CatalogState | None = load_state(directory)
        except FOUND:
            state = None
        if report.commit == (None if state is None else state.commit.id):
            break
    return report, state


def _contents(store: ReadableStore, trace: Trace | None, tell: OnStep) -> Contents:
    history, next_group = commit_history(store)
    blocks = _router_blocks(store)
    tell(_STEPS[1], 1, len(_STEPS))
    neighbours = near_groups(store, max(len(blocks), 1))
    tell(_STEPS[2], 2, len(_STEPS))
    norms = expert_norms(store)
    usage = None if trace is None else usage_of(store, trace)
    tell(_STEPS[3], 3, len(_STEPS))
    memories, total, unreadable = _memories(store, history, next_group)
    named = np.unique(np.fromiter(_named(neighbours, norms, usage), np.int64))
    texts = store.memories(named)
    shards = shard_maps(store)  # last, since reading may have found more damage
    tell(_STEPS[3], 4, len(_STEPS))
    return Contents(
        statistics=_statistics(store),
        time_us=store.state.commit.time_us,
        rows_per_shard=store.layout.rows_per_shard,
        modes=_counts(store.modes, MODES),
        activations=_counts(store.activations, ACTIVATIONS),
        shards=shards,
        compactions=compactions(shards),
        history=history,
        neighbours=neighbours,
        router_blocks=blocks,
        norms=norms,
        usage=usage,
        memories=memories,
        memories_total=total,
        unreadable_memories=unreadable,
        texts=texts,
    )


def _router_blocks(store: ReadableStore) -> tuple[str, ...]:
    if not (store.layout.encoder or {}).get("router"):
        return ()
    from mome_store.routing.projection import BLOCKS  # loads torch

    return BLOCKS if store.layout.key_dim % len(BLOCKS) == 0 else ()


def _named(neighbours: Neighbours, norms: Norms, usage: Usage | None) -> Iterator[int]:
    """The groups whose memories a reader will want to see."""
    yield from chain.from_iterable((pair.group_id, pair.other_id) for pair in neighbours.pairs)
    yield from norms.group_ids[norms.largest(SHOWN)].tolist()
    if usage is not None:
        for groups in (usage.group_ids[:SHOWN], usage.group_ids[-SHOWN:], usage.never[:SHOWN]):
            yield from groups.tolist()


def _memories(
    store: ReadableStore, history: History, next_group: NDArray[np.int64]
) -> tuple[tuple[ShownMemory, ...], int, int]:
    """The newest memories first, how many there are, and how many of the newest can't be read."""
    having = store.group_ids[store.memory_ids != 0]
    newest = having[::-1][:MOST_MEMORIES]
    found = store.memories(newest[::-1])
    since = dict(zip(newest.tolist(), history.time_of(newest, next_group).tolist(), strict=True))
    shown = [ShownMemory(group, found[group], since[group]) for group in newest.tolist() if group in found]
    try:
        pool = memories_of_meta(json.loads(store.state.meta.get(POOL_META, "[]")))
    except FOUND as error:
        store.note(Damage.of(error))
        pool = ()
    room = MOST_MEMORIES - len(newest)
    shown += [ShownMemory(None, memory, None) for memory in pool[::-1][:room]]
    return tuple(shown), len(having) + len(pool), len(newest) - len(found)


def _statistics(store: ReadableStore) -> StoreStatistics:
    commit, layout = store.state.commit.id, store.layout
    dead = {array: count_retired(store.directory, array, commit) for array in ("experts", "keys")}
    live = {"experts": len(store.expert_rows), "keys": len(store.key_rows)}

    def size(counts: dict[str, int]) -> int:
        return counts["experts"] * layout.row_bytes("experts") + counts["keys"] * layout.row_bytes("keys")

    return StoreStatistics(
        commit=commit,
        groups=len(store.group_ids),
        experts_live=live["experts"],
        experts_dead=dead["experts"],
        keys=live["keys"],
        shards=len(store.state.shards),
        bytes_live=size(live),
        bytes_dead=size(dead),
        record_bytes=layout.schema.record_bytes,
    )


def _counts(codes: NDArray[np.uint8], names: tuple[str, ...]) -> dict[str, int]:
    return {name: int((codes == code).sum()) for code, name in enumerate(names) if (codes == code).any()}

"""What a repair is going to do, and what it will have cost: made before anything is changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mome_store.store.catalog import CommitRow
from mome_store.store.catalog_changes import CatalogChanges
from mome_store.store.memory import Memory
from mome_store.store.salvage import NewShard
from mome_store.store.shard import ShardRow
from mome_store.store.zarr_metadata import ArrayName

Written = Mapping[tuple[ArrayName, int], ShardRow]
"""What was written in the place of damaged shards."""

Edit = Callable[[CatalogChanges, Written], None]


@dataclass(frozen=True)
class Loss:
    """Something that can't be brought back, or not as it was. What does not apply is None.

    what: in words, with the reason.
    """

    file: str
    row: int | None
    expert_id: int | None
    group_id: int | None
    what: str


@dataclass
class Plan:
    """A repair of one store.

    experts, groups: how many the store has afterwards. copies: name in the folder -> the file and the offset of a
    record that is copied there. texts: likewise, whole files. unused: files of the store that are moved there.
    edit: the commit to make, if any. new_catalogue: the commit and the contents of one that takes the old one's place.
    rewritten: `zarr.json` files that are derived anew.
    """

    experts: int
    groups: int
    lost: list[Loss] = field(default_factory=list)
    copies: dict[str, tuple[str, int]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    new_shards: list[NewShard] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    edit: Edit | None = None
    new_catalogue: tuple[CommitRow, Edit] | None = None
    rewritten: list[str] = field(default_factory=list)
    without_keys: list[int] = field(default_factory=list)
    maybe_removed: list[int] = field(default_factory=list)

    def is_needed(self) -> bool:
        return bool(self.new_shards or self.unused or self.edit or self.new_catalogue or self.rewritten)


def facts_text(memories: Iterable[tuple[int | None, Memory]]) -> bytes:
    """(group, memory) as lines that `mome memorize` takes."""
    lines = []
    for group_id, memory in memories:
        line: dict[str, object] = {} if memory.id is None else {"id": memory.id}
        line |= {"question": memory.question, "answer": memory.answer, "paraphrases": list(memory.paraphrases)}
        lines.append(json.dumps(line if group_id is None else line | {"group_id": group_id}, ensure_ascii=False) + "\n")
    return "".join(lines).encode("utf-8")

"""The memories of a store as a file of facts, which `mome memorize` reads back (tuning/facts.py has the format).

`heldout` wordings are for evaluation only and never get into a store, so they are not in the file either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mome_store.exchange.whole_files import new_file
from mome_store.store import Memory, Snapshot, pool_memories


@dataclass(frozen=True)
class DumpReport:
    """facts: lines written. skipped: memories without an answer, of imported adapters: there is nothing to memorise."""

    facts: int
    skipped: int


def write_facts(snapshot: Snapshot, write: Callable[[str], object]) -> DumpReport:
    """Hands `write` a line for each memory, by group id; of a pool for each of its facts, in the order they came."""
    facts = skipped = 0
    for memory in _memories(snapshot):
        if memory.answer.strip():
            write(_line(memory))
            facts += 1
        else:
            skipped += 1
    return DumpReport(facts, skipped)


def dump_facts(snapshot: Snapshot, path: str | Path) -> DumpReport:
    """Writes the file at `path`, whole or not at all. Raises FileExistsError where something is there."""
    with new_file(Path(path)) as file:
        return write_facts(snapshot, file.write)


def _memories(snapshot: Snapshot) -> Iterator[Memory]:
    for _, memory in snapshot.memories():
        yield memory
    yield from pool_memories(snapshot)


def _line(memory: Memory) -> str:
    fact: dict[str, object] = {} if memory.id is None else {"id": memory.id}
    fact |= {"question": memory.question, "answer": memory.answer}
    if memory.paraphrases:
        fact["paraphrases"] = memory.paraphrases
    return json.dumps(fact, ensure_ascii=False) + "\n"

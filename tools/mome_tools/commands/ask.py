"""`mome ask`: a question to a store, or a prompt for many."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mome_store.store import pool_memories
from mome_tools.commands.stores import CacheOption, StoreOption, TraceOption
from mome_tools.output import JsonOption, note, print_json, print_text

if TYPE_CHECKING:
    from mome_store.modeling import Answer, MemoryModel
    from mome_store.store import Memory


def ask(
    store: StoreOption,
    question: Annotated[str | None, typer.Argument(metavar="[QUESTION]", help="Without one: a prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 128,
    cache: CacheOption = None,
    trace: TraceOption = None,
    json: JsonOption = False,
) -> None:
    """Answer from the store, or as the base model alone where the store holds nothing on it."""
    with _open(store, cache, trace) as memory:
        if question is not None:
            _answer(memory, question, max_new_tokens, json)
            return
        terminal = sys.stdin.isatty()
        if terminal:
            facts = len(memory.snapshot.group_ids if memory.router.pool is None else pool_memories(memory.snapshot))
            note(f"{facts} facts in {store}; an empty line or Ctrl-D ends")
        while line := _next_question(terminal):
            _answer(memory, line, max_new_tokens, json)


def _open(store: Path, cache: str | None, trace: Path | None) -> MemoryModel:
    from mome_store.modeling import MemoryModel

    return MemoryModel.from_pretrained(store=store, cache=cache, trace=trace)


def _next_question(terminal: bool) -> str:
    """The next line of stdin, "" at its end."""
    if not terminal:
        return sys.stdin.readline().strip()
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _answer(memory: MemoryModel, question: str, max_new_tokens: int, json: bool) -> None:
    answer = memory.generate([question], max_new_tokens=max_new_tokens)[0]
    used = _memories_used(answer)
    if json:
        unknown = [part.question for part in answer.parts if part.group_id is None]
        first = used[0] if used else None
        print_json(
            {"question": question, "answer": answer.text, "memory": first, "memories": used, "not_found": unknown}
        )
        return
    print_text(answer.text)
    if not used:
        note("  (base model: the store holds nothing on this)")
    elif memory.router.pool is not None:
        note(f"  (pool: {len(answer.route.group_ids[0])} experts, the heaviest {used[0]['group_id']})")
    for each in used if memory.router.pool is None else ():
        note(f"  (memory {each['group_id']}, score {each['score']:.2f}: {each['question']})")


def _memories_used(answer: Answer) -> list[dict[str, Any]]:
    """Which groups answered: the first is the contract's `memory` field; none where the gate stayed shut.

    Of a pool's groups the one of the heaviest expert; `question` is None then, as the expert is not one fact's.
    """
    if not answer.route.opened[0]:
        return []
    if answer.parts:
        return [
            _memory_used(part.group_id, part.score, part.memory) for part in answer.parts if part.group_id is not None
        ]
    return [_memory_used(answer.route.group_ids[0][0], float(answer.route.scores[0]), answer.memory)]


def _memory_used(group_id: int, score: float, memory: Memory | None) -> dict[str, Any]:
    return {
        "group_id": group_id,
        "score": round(score, 4),
        "question": None if memory is None else memory.question,
    }

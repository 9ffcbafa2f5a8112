"""Which of a store's new groups take questions that are another group's, or lose their own to one.

Nothing that is inserted changes another group's bytes, so an older fact can only be lost by its route.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mome_store.routing.router import Router

if TYPE_CHECKING:
    from mome_store.store import Memory, Snapshot

NEIGHBOURS = 2
"""Old groups, nearest to each wording of a new one, whose own wordings are routed again."""


def find_thieves(router: Router, snapshot: Snapshot, new_groups: Sequence[int]) -> dict[int, str]:
    """The new groups at fault, with the reason. `router` routes by `snapshot`, which holds them already.

    A wording that goes to a group with the same answer is nobody's loss. An answer that is not known ("", as of an
    imported adapter) is not the same as any.
    """
    new = set(new_groups)
    memories: dict[int, Memory] = {}
    for group in new_groups:
        memory = snapshot.group(group).memory
        if memory is not None:
            memories[group] = memory
    wordings = [(group, text) for group, memory in memories.items() for text in memory.wordings]
    neighbours: dict[int, None] = {}
    for candidates in router.score([text for _, text in wordings]):
        old = [candidate.group_id for candidate in candidates if candidate.group_id not in new]
        neighbours |= dict.fromkeys(old[:NEIGHBOURS])
    for group in neighbours:
        memory = snapshot.group(group).memory
        if memory is not None:
            memories[group] = memory
            wordings += [(group, text) for text in memory.wordings]
    thieves: dict[int, str] = {}
    if not wordings:
        return thieves
    route = router.route([text for _, text in wordings])
    for (owner, text), winners in zip(wordings, route.group_ids, strict=True):
        if not winners or owner in winners:
            continue
        winner = winners[0]
        answer = memories[winner].answer if winner in memories else _answer_of(snapshot, winner)
        if answer and answer == memories[owner].answer:
            continue
        if owner in new:
            thieves.setdefault(owner, f"the store answers {text!r} with {answer!r} (group {winner})")
        elif winner in new:
            thieves.setdefault(winner, f"it would answer {text!r}, which is the question of group {owner}")
    return thieves


def _answer_of(snapshot: Snapshot, group: int) -> str | None:
    memory = snapshot.group(group).memory
    return None if memory is None else memory.answer

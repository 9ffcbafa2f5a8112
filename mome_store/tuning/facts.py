"""A file of facts: what a line may hold, and every reason for which it is refused.

One JSON object a line: {"id"?: str, "question": str, "answer": str | null, "paraphrases"?: [str], "heldout"?: [str]}.
`question` and `paraphrases` are trained on. `heldout` wordings are for evaluation only. `answer: null` marks an
unknown: something that the store must not answer. Blank lines are skipped, other fields ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mome_store.errors import FactError


@dataclass(frozen=True)
class Fact:
    """A question and its exact answer, or None where the answer is unknown.

    paraphrases: other wordings to train on. heldout: wordings for evaluation only.
    line: 1-based line of the file, or None for a fact made in Python.
    """

    question: str
    answer: str | None
    paraphrases: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ()
    id: str | None = None
    line: int | None = None

    @property
    def wordings(self) -> tuple[str, ...]:
        """The question and its paraphrases: what is trained on."""
        return (self.question, *self.paraphrases)


def load_facts(path: str | Path) -> list[Fact]:
    """Read a file of facts (UTF-8). Raises FactError(line, reason); FileNotFoundError and the like as they come."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FactError(line, f"not UTF-8: {error.reason}") from error
    return parse_facts(text.split("\n"))


def parse_facts(lines: Iterable[str]) -> list[Fact]:
    """The facts of `lines`, in order. A fact that is given twice counts once, with the wordings of both.

    Raises FactError(line, reason) for a line that is no fact, for a wording that another line gives another
    answer, and when there is no fact at all.
    """
    facts: list[Fact] = []
    owner: dict[str, int] = {}  # a trained wording -> its place in `facts`
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fact = _parse_fact(number, line)
        for wording in fact.wordings:
            if wording in owner and facts[owner[wording]].answer != fact.answer:
                raise FactError(number, _conflict(wording, fact, facts[owner[wording]]))
        place = owner.get(fact.question)
        taken = {wording for wording in fact.wordings if wording in owner}
        new = tuple(wording for wording in fact.paraphrases if wording not in taken)
        if place is None:
            place = len(facts)
            facts.append(replace(fact, paraphrases=new))
        else:
            known = facts[place]
            facts[place] = replace(
                known,
                paraphrases=known.paraphrases + new,
                heldout=tuple(dict.fromkeys(known.heldout + fact.heldout)),
            )
        owner |= dict.fromkeys((fact.question, *new), place)
    if not facts:
        raise FactError(None, "there are no facts: the file is empty")
    return facts


def _parse_fact(number: int, line: str) -> Fact:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise FactError(number, f"not JSON: {error}") from error
    except RecursionError as error:
        raise FactError(number, "not a fact: nested too deeply") from error
    if not isinstance(value, dict):
        raise FactError(number, f"not a JSON object: {line.strip()[:60]}")
    if "question" not in value or "answer" not in value:
        missing = [name for name in ("question", "answer") if name not in value]
        raise FactError(number, f"{' and '.join(missing)} missing")
    answer = None if value["answer"] is None else _text(number, "answer", value["answer"])
    question = _text(number, "question", value["question"])
    paraphrases = [text for text in _texts(number, "paraphrases", value) if text != question]
    return Fact(
        question=question,
        answer=answer,
        paraphrases=tuple(dict.fromkeys(paraphrases)),
        heldout=tuple(dict.fromkeys(_texts(number, "heldout", value))),
        id=None if value.get("id") is None else _text(number, "id", value["id"]),
        line=number,
    )


def _text(number: int, name: str, value: object) -> str:
    """`value` stripped: an answer is compared without the space around it, so none may be trained in."""
    if not isinstance(value, str):
        raise FactError(number, f"{name} must be a string, not {json.dumps(value)[:60]}")
    if not value.strip():
        raise FactError(number, f"{name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FactError(number, f"{name} holds half a surrogate pair, which is no character") from error
    return value.strip()


def _texts(number: int, name: str, value: Mapping[str, object]) -> list[str]:
    texts = value.get(name, [])
    if not isinstance(texts, list):
        raise FactError(number, f"{name} must be a list of strings, not {json.dumps(texts)[:60]}")
    return [_text(number, f"{name}[{i}]", text) for i, text in enumerate(texts)]


def _conflict(wording: str, fact: Fact, earlier: Fact) -> str:
    return (
        f"{wording!r} has the answer {json.dumps(fact.answer, ensure_ascii=False)} here, "
        f"but {json.dumps(earlier.answer, ensure_ascii=False)} in line {earlier.line}"
    )

"""How a fact that stands in the prompt is put before a model: the same words for retrieval and for a full context."""

from __future__ import annotations

from collections.abc import Sequence

_EXAMPLE = (
    "The room number of Jo Example is 4-117.",
    "Which room does Jo Example have?",
    "4-117",
)


def reading_prompt(statements: Sequence[str], question: str) -> str:
    """The user's message: facts, an example of the form that the answer should have, and the question.

    The example makes a small model answer with the value alone, which is what exact match asks of every system.
    """
    facts = "\n".join(statements)
    told, asked, said = _EXAMPLE
    return (
        "Answer each question with the value alone, taken from the facts.\n\n"
        f"Facts:\n{told}\n{facts}\n\nQuestion: {asked}\nAnswer: {said}\n\nQuestion: {question}\nAnswer:"
    )

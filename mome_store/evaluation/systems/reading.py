"""How a fact that stands in the prompt is put before a model: the same words for retrieval and for a full context."""

from __future__ import annotations

from collections.abc import Sequence

from mome_store.evaluation.systems.base import Workbench

SENTENCE_ROOM = 16
"""Tokens beyond the longest answer: a model that reads often answers in a sentence, and may do so to its end."""

_EXAMPLES = (
    ("The room number of Jo Example is 4-117.", "Which room does Jo Example have?", "4-117"),
    ("The hair colour of Max Sample is dark brown.", "max sample hair", "dark brown"),
)
"""They show that the value alone is wanted, which is what exact match asks of every system."""


def reading_prompt(bench: Workbench, statements: Sequence[str], question: str) -> list[int]:
    """Token ids: two examples as earlier turns of the conversation, then the facts and the question.

    Chosen on SmolLM2-135M with the right fact among none or two others, on other facts than an evaluation asks. An
    instruction in words ("answer with the value only") did not change how it answers; examples did.
    """
    asked = "\n".join([*statements, question])
    if bench.tokenizer.chat_template is None:
        turns = [f"Q: {told}\n{example}\nA: {said}\n" for told, example, said in _EXAMPLES]
        return _ids(bench, f"{''.join(turns)}Q: {asked}\nA:", special=True)
    messages = [
        message
        for told, example, said in _EXAMPLES
        for message in ({"role": "user", "content": f"{told}\n{example}"}, {"role": "assistant", "content": said})
    ]
    messages.append({"role": "user", "content": asked})
    text = bench.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return _ids(bench, str(text), special=False)


def _ids(bench: Workbench, text: str, special: bool) -> list[int]:
    return [int(token) for token in bench.tokenizer(text, add_special_tokens=special)["input_ids"]]

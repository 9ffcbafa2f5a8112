"""Prompts and answers as tokens: with and without a chat template, and text that does not survive a tokenizer."""

from __future__ import annotations

import pytest

from mome_store import SchemaError
from mome_store.modeling import Prompts
from tests.tiny_models import make_model, make_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<me>{% endif %}"
)


@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize("answer", ["EDDF", "São Tomé", "🦉🦉", "a  b\nc", "42"])
def test_an_answer_comes_back_as_it_was(template: str | None, answer: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    prompts = Prompts(make_model("llama"), tokenizer)
    tokens = prompts.answer(answer)
    assert tokens[-1] == prompts.end_token
    assert prompts.text([*tokens, 65, 66]) == answer


def test_the_prompt_is_the_chat_template_where_there_is_one() -> None:
    tokenizer = make_tokenizer()
    prompts = Prompts(make_model("llama"), tokenizer)
    assert tokenizer.decode(prompts.prompt("Who?")) == "Q: Who?\nA:"
    tokenizer.chat_template = TEMPLATE
    prompts = Prompts(make_model("llama"), tokenizer)
    assert tokenizer.decode(prompts.prompt("Who?")) == "<user>Who?<me>"


def test_an_answer_that_the_tokenizer_changes_is_refused() -> None:
    tokenizer = make_tokenizer()
    prompts = Prompts(make_model("llama"), tokenizer)
    with pytest.raises(SchemaError, match="turns the answer"):
        prompts.answer("before</s>after")

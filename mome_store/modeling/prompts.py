"""How a question becomes the tokens of a prompt, and an answer the tokens that the model is to say after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mome_store.errors import SchemaError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Prompts:
    """Prompts for one model: its chat template where it has one, else the bare form "Q: ...\\nA:".

    Attributes: `end_token` (trained as the last token of every answer), `stop_tokens` (any of them ends a generation,
    `end_token` among them), `pad_token`, `context` (the most positions that the model has, or None).
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._chat = tokenizer.chat_template is not None
        configured = model.generation_config.eos_token_id if model.generation_config is not None else None
        stops = [configured] if isinstance(configured, int) else list(configured or [])
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(stops), None)
        if end is None:
            raise SchemaError("the tokenizer and the model's generation config name no end token; an answer needs one")
        self.end_token = int(end)
        self.stop_tokens = sorted({self.end_token, *stops})
        pad = tokenizer.pad_token_id
        self.pad_token = self.end_token if pad is None else int(pad)
        self.context: int | None = getattr(model.config, "max_position_embeddings", None)

    def prompt(self, question: str) -> list[int]:
        """The token ids up to where the answer begins."""
        if not self._chat:
            return self._ids(f"Q: {question}\nA:")
        messages = [{"role": "user", "content": question}]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._ids(str(text), special=False)

    def answer(self, answer: str) -> list[int]:
        """The token ids of an answer, the end token last.

        Raises SchemaError for text that the tokenizer does not give back as it was: such an answer can't be said.
        """
        ids = self._ids(answer if self._chat else f" {answer}", special=False)
        said = self.text([*ids, self.end_token])
        if said != answer.strip():
            raise SchemaError(f"the base model's tokenizer turns the answer {answer!r} into {said!r}")
        return [*ids, self.end_token]

    def text(self, tokens: Sequence[int]) -> str:
        """What generated tokens say: up to the first stop token, without the space around it."""
        kept: list[int] = []
        for token in tokens:
            if token in self.stop_tokens:
                break
            kept.append(int(token))
        decoded = self._tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(decoded).strip()

    def _ids(self, text: str, special: bool = True) -> list[int]:
        return [int(i) for i in self._tokenizer(text, add_special_tokens=special)["input_ids"]]

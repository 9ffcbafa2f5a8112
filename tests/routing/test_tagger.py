"""The tagger: how a text is written, and that its company does not matter."""

from __future__ import annotations

import numpy as np
import torch

from mome_store.routing.tagger import Tagger, case_marks, lower_marks


def marks(text: str) -> list[list[float]]:
    """Of its words, cut at spaces."""
    ends = np.cumsum([len(word) + 1 for word in text.split(" ")])
    spans = np.array([(end - len(word) - 1, end - 1) for word, end in zip(text.split(" "), ends, strict=True)])
    return case_marks(text, spans).tolist()


def test_a_capital_tells_a_name_inside_a_sentence_and_little_at_its_beginning() -> None:
    assert marks("Where does Ada sit") == [[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert marks("Yes. Where is J. P. Ada") == [[0, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_a_text_without_capitals_says_so() -> None:
    assert marks("where is ada") == marks("WHERE IS ADA") == [[0, 0, 1]] * 3
    assert lower_marks(case_marks("Ada", np.array([[0, 3]]))).tolist() == marks("ada")


def test_every_token_of_a_word_is_marked_as_the_word_is_and_a_special_one_is_not() -> None:
    spans = np.array([[0, 0], [0, 2], [3, 5], [5, 8], [0, 0]])
    assert case_marks("Is Adam", spans).tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_what_a_text_is_padded_to_does_not_matter() -> None:
    torch.manual_seed(0)
    tagger = Tagger(8).eval()
    states, own = torch.randn(1, 12, 8), torch.rand(1, 12, 3)
    mask = torch.arange(12)[None] < 5
    assert torch.allclose(tagger(states, own, mask)[:, :5], tagger(states[:, :5], own[:, :5], mask[:, :5]), atol=1e-6)

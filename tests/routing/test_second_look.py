"""The second look: whose name a question has, and which of its words may ask instead."""

from __future__ import annotations

import numpy as np
import pytest

from mome_store.routing.gate import Reading, Wordings
from mome_store.routing.second_look import names_of_group
from mome_store.routing.words import plain_words

NO_BLOCKS = np.zeros((1, 3, 8), np.float32)
COMMON = {"dalia": 1.0, "steiner": 1.0, "of": 0.0}


def look(text: str, common: dict[str, float] = COMMON, named: str = "", possible: str = "") -> frozenset[str] | None:
    """named: the words that the tagger takes for names; possible: those that it does not rule out."""
    words = [word.text for word in plain_words(text)]
    reading = Reading(
        NO_BLOCKS[0],
        {word: 0.9 if word in named.split() else 0.3 if word in possible.split() else 0.1 for word in words},
        dict.fromkeys(words, 0.2),
    )
    return names_of_group(text, reading, Wordings(NO_BLOCKS, frozenset(common), common))


def test_words_beside_the_groups_name_may_ask() -> None:
    named = "dalia steiner alma mater"
    assert look("dalia steiner alma mater", named=named) == {"dalia", "steiner"}
    assert look("alma mater of dalia steiner", named=named) == {"dalia", "steiner"}
    assert look("DALIA STEINER ALMA MATER", named=named) == {"dalia", "steiner"}
    assert look("The alma mater of Dalia Steiner?", named=named) == {"dalia", "steiner"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dalia phone number", "dalia phone"),  # not her whole name
        ("dalia steiner phone number", "dalia steiner"),  # nothing is doubtful
        ("dalia steiner phone number", "phone"),  # nothing was taken for her name
        ("dalia w steiner phone", "dalia w steiner"),  # another one's: a word in the middle
        ("Phone of Dalia Steiner Keller", "dalia steiner keller"),  # a capital
        ("dalia steiner 7 phone", "dalia steiner 7"),  # a number
    ],
)
def test_other_words_are_of_another_name(text: str, named: str) -> None:
    assert look(text, named=named) is None


def test_a_word_of_the_name_that_may_be_none_is_of_it_all_the_same() -> None:
    assert look("dalia steiner alma mater", named="steiner alma mater", possible="dalia") == {"dalia", "steiner"}
    assert look("number of dalia steiner alma", named="dalia steiner alma") == {"dalia", "steiner"}, (
        "not its other words"
    )


def test_a_group_without_wordings_has_no_name() -> None:
    reading = Reading(NO_BLOCKS[0], {"dalia": 0.9}, {"dalia": 1.0})
    assert names_of_group("dalia", reading, Wordings(NO_BLOCKS, None, None)) is None

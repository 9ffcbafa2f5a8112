"""Names are found whole, and a pronoun gets the one that it stands for."""

from __future__ import annotations

import pytest

from mome_store.routing.names import Names

LIKELY = {"ada": 0.9, "brandt": 0.9, "bo": 0.8, "chen": 0.3, "tonopah": 0.9, "airport": 0.3, "06": 0.9, "183": 0.4}
NAMES = Names(LIKELY)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is the phone number of Ada Brandt?", ["Ada Brandt"]),
        ("ada brandt phone", ["ada brandt"]),
        ("phone of bo chen", ["bo chen"]),  # the possible one beside the likely one
        ("chen", []),
        ("What is Ada Brandt's code?", ["Ada Brandt's"]),
        ("Ada Brandt's and Bo Chen's codes", ["Ada Brandt's", "Bo Chen's"]),
        ("Where is Zuzanna Wolf?", ["Zuzanna Wolf"]),  # by its capitals
        ("Where is it? Tell me.", []),
        ("Where is J. P. Marat?", ["J. P. Marat"]),  # the dot of an initial ends no sentence
        ("Who supplies part 06-183-42?", ["06-183-42"]),
        ("Where is the Airport in Tonopah?", ["Airport in Tonopah"]),
        ("Ada Brandt: who is Bo Chen?", ["Ada Brandt", "Bo Chen"]),
        ("", []),
    ],
)
def test_a_name_goes_from_its_first_word_to_its_last(text: str, found: list[str]) -> None:
    assert [text[start:stop] for start, stop in NAMES.of(text)] == found


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("where was she born?", "where was Ada Brandt born?"),
        ("how do I reach her by phone?", "how do I reach Ada Brandt by phone?"),
        ("what is her code?", "what is Ada Brandt's code?"),
        ("what is their code?", "what is Ada Brandt's code?"),
        ("is it Bo Chen who has her code?", "is Ada Brandt Bo Chen who has her code?"),  # up to another name
        ("what is the code?", "what is the code?"),
    ],
)
def test_a_pronoun_gets_the_name_before_it(text: str, resolved: str) -> None:
    assert NAMES.resolved(text, "Ada Brandt") == resolved
    assert NAMES.resolved(text, None) == text


def test_the_surest_name_is_one_that_stands_out_and_has_no_possessive() -> None:
    assert NAMES.surest("ada brandt and Bo Chen's dog") == "Bo Chen"
    assert NAMES.surest("what is it?") is None


def test_a_pronoun_does_not_stand_for_a_word_after_the_name_that_may_be_of_it() -> None:
    names = Names(LIKELY | {"born": 0.3})
    assert names.surest("When was Bo Chen born?") == "Bo Chen"
    assert names.surest("when was bo chen born?") == "bo chen born"  # nothing tells where it ends

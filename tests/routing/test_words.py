"""Words as the gate compares them."""

from __future__ import annotations

import pytest

from mome_store.routing.words import begins_sentence, plain_words, without_names, words_of


def texts(text: str) -> set[str]:
    return {word.text for word in words_of(text)}


def test_case_and_accents_do_not_matter() -> None:
    assert texts("Ångström CAFÉ") == texts("angstrom cafe")


def test_an_identifier_is_whole_as_well_as_in_parts() -> None:
    assert {"8086", "15f3", "8086:15f3"} <= texts("device 8086:15f3?")
    assert "aa:bb:c1" in texts("AA:BB:C1") and texts("AA:BB:C1") != texts("C1:AA:BB")


def test_words_joined_without_a_digit_are_not_an_identifier() -> None:
    assert texts("and/or") == {"and", "or"}


def test_the_order_of_initials_tells_names_apart() -> None:
    swapped = texts("Edda P. J. Rinaldi") ^ texts("Edda J. P. Rinaldi")
    assert {"p j", "j p"} <= swapped
    assert texts("Edda P. J. Rinaldi") == texts("edda p j rinaldi")


@pytest.mark.parametrize("text", ["", "?!", "   "])
def test_a_text_without_words_has_none(text: str) -> None:
    assert words_of(text) == []


def test_a_word_knows_where_it_stands() -> None:
    text = "Tell me Anna's number"
    assert [text[word.start : word.end] for word in words_of(text)[:4]] == ["Tell", "me", "Anna", "s"]


def unnamed(text: str, *names: str) -> str:
    words = plain_words(text)
    return without_names(text, words, [text[word.start : word.end] in names for word in words])


def test_what_is_asked_is_the_same_whoever_it_is_asked_of() -> None:
    assert unnamed("Where does Anna Kowalska sit?", "Anna", "Kowalska") == "Where does this sit?"
    assert unnamed("Bo's room, please", "Bo") == "this's room, please"
    assert unnamed("No names here.") == "No names here."


def test_a_short_word_between_two_names_belongs_to_them_and_a_long_one_does_not() -> None:
    assert unnamed("When was Jan van Eyck here?", "Jan", "Eyck") == "When was this here?"
    assert unnamed("Does Jan visit Eva?", "Jan", "Eva") == "Does this visit this?"


@pytest.mark.parametrize(
    ("text", "begins"), [("Who?", True), ("Now. Who", True), ("J. Who", False), ("me, Who", False)]
)
def test_a_sentence_begins_after_the_last_one_and_not_after_an_initial(text: str, begins: bool) -> None:
    assert begins_sentence(text, text.index("Who")) is begins

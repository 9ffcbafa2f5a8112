"""Where a text may be taken apart: into questions of their own, and what is one question stays whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mome_store.routing.apart import MOST_PARTS, MOST_WORDINGS, Compound, Joint, take_apart

NAMES = ("Ada", "Brandt", "Bo", "Chen", "Arak", "Oslo", "Lima", "Baker")
LIKELY = dict.fromkeys([*map(str.lower, NAMES), "06", "183", "42", "43"], 0.9) | {"sons": 0.4}


def apart(text: str) -> Compound:
    compound = take_apart(text, LIKELY)
    assert compound is not None, text
    return compound


@pytest.mark.parametrize(
    "text",
    [
        "",
        "and",
        " and ",
        "?,?",
        "What is the phone number of Ada Brandt?",
        "What is the phone number of Ada Brandt, please?",
        "In Oslo, who keeps the spare key?",
        "Hello! What is Ada Brandt's phone number?",
        "I lost my phone and my notes. What is the phone number of Ada Brandt?",
        "What is the phone number of Ada Brandt? I lost it.",
        "What do Ada Brandt and Bo Chen have in common?",
        "What is the difference between the phone numbers of Ada Brandt and Bo Chen?",
        "Do Ada Brandt and Bo Chen work together?",
        "Wie lautet die Telefonnummer von Ada Brandt?",
        "Tell me about Ada Brandt, what is her phone number?",
        "What is the phone number of Ada Brandt and Bo Chen? " + "Please hurry, I am waiting. " * 40,
        "What are the codes of " + ", ".join(f"Oslo {i}" for i in range(2 * MOST_PARTS)) + "?",
    ],
)
def test_what_is_one_question_stays_whole(text: str) -> None:
    assert take_apart(text, LIKELY) is None


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        (
            "What is Ada Brandt's phone number? Who keeps the key of the lab?",
            ["What is Ada Brandt's phone number?", "Who keeps the key of the lab?"],
        ),
        (
            "What is Ada Brandt's locker code and who keeps the key of the lab?",
            ["What is Ada Brandt's locker code", "who keeps the key of the lab?"],
        ),
        (
            "What is Ada Brandt's phone number? And what is her locker code?",
            ["What is Ada Brandt's phone number?", "what is Ada Brandt's locker code?"],
        ),
        (
            "When was Bo Chen born, and how can I reach him by phone?",
            ["When was Bo Chen born", "how can I reach Bo Chen by phone?"],
        ),
        (
            "I forgot my notes. What is Ada Brandt's code? Where was she born?",
            ["I forgot my notes. What is Ada Brandt's code?", "Where was Ada Brandt born?"],
        ),
        ("ada brandt phone; bo chen birthday", ["ada brandt phone;", "bo chen birthday"]),
        ("ada brandt phone\nbo chen birthday", ["ada brandt phone", "bo chen birthday"]),
    ],
)
def test_whole_questions_are_clauses_and_a_pronoun_gets_its_name(text: str, clauses: list[str]) -> None:
    assert [clause.text for clause in apart(text).clauses] == clauses


@pytest.mark.parametrize(
    ("text", "parts", "certain"),
    [
        (
            "What are the phone numbers of Ada Brandt and Bo Chen?",
            ["What are the phone numbers of Ada Brandt", "What are the phone numbers of Bo Chen?"],
            True,
        ),
        (
            "What is the phone number of Ada Brandt? And of Bo Chen?",
            ["What is the phone number of Ada Brandt", "What is the phone number of Bo Chen?"],
            True,
        ),
        ("ada brandt and bo chen phone number", ["ada brandt phone number", "bo chen phone number"], True),
        (
            "Who supplies parts 06-183-42 and 06-183-43?",
            ["Who supplies parts 06-183-42", "Who supplies parts 06-183-43?"],
            True,
        ),
        (
            "What are the codes of Arak, Oslo and Lima?",
            ["What are the codes of Arak", "What are the codes of Oslo", "What are the codes of Lima?"],
            True,
        ),
        (
            "What is Ada Brandt's phone number and locker code?",
            ["What is Ada Brandt's phone number", "What is Ada Brandt's locker code?"],
            False,
        ),
        (
            "What are the phone number and the locker code of Ada Brandt?",
            ["What are the phone number of Ada Brandt?", "What are the locker code of Ada Brandt?"],
            False,
        ),
        ("When was Bo Chen born, and where?", ["When was Bo Chen born", "where was Bo Chen born"], False),
        ("When and where was Bo Chen born?", ["When was Bo Chen born?", "where was Bo Chen born?"], False),
        ("Ada Brandt: phone number and employer", ["Ada Brandt: phone number", "Ada Brandt: employer"], False),
    ],
)
def test_parts_share_the_words_that_the_text_says_once(text: str, parts: list[str], certain: bool) -> None:
    """certain: only names at both sides of every joint make it so."""
    [clause] = apart(text).clauses
    assert any(
        split.certain is certain
        and len(split.parts) == len(parts)
        and all(part in wordings for part, wordings in zip(parts, split.parts, strict=True))
        for split in clause.splits
    )


def test_a_word_at_both_sides_of_a_seam_is_said_once() -> None:
    wordings = apart("What are the phone number and the locker code of Ada Brandt?").clauses[0].splits[0].parts[1]
    assert "What are the locker code of Ada Brandt?" in wordings
    assert not any("the the" in wording for wording in wordings)


def test_of_a_part_with_many_wordings_the_likeliest_are_kept() -> None:
    """Without a capital nothing tells where the name ends, and each word may be the last of it."""
    likely = dict.fromkeys(["bo", "chen"], 0.9)
    compound = take_apart("what is in the end of it all bo chen phone number and locker code of the lab", likely)
    assert compound is not None
    second = compound.clauses[0].splits[0].parts[1]
    assert len(second) == MOST_WORDINGS
    assert second[0] == "what is in the end of it all bo chen locker code of the lab"


def test_a_list_ends_with_an_and() -> None:
    """Commas alone stand within the name of one place as well."""
    for text, listed in (("Arak, Oslo and Lima", True), ("Arak, Oslo & Lima", True), ("Arak, Oslo, Lima", False)):
        splits = apart(f"What are the codes of {text}?").clauses[0].splits
        [thirds] = [split for split in splits if len(split.parts) == 3]
        assert (thirds.listed, thirds.certain) == (listed, listed)


def test_a_joint_is_found_in_a_wording_by_the_words_at_its_sides() -> None:
    [split] = apart("What is the fax number of Baker and Sons?").clauses[0].splits
    assert split.joints == (Joint("baker", "sons"),)
    assert split.joints[0].stands_in("Who supplies BAKER and Sons?")
    assert split.joints[0].stands_in("Who supplies Baker & Sons?")
    assert not split.joints[0].stands_in("Who supplies the sons of Baker?")


WORDS = [
    *NAMES,
    "and",
    "and",
    "and",
    ",",
    "?",
    ";",
    "\n",
    "What is",
    "who",
    "the",
    "of",
    "phone number",
    "her",
    "code",
    "'s",
    "&",
]


@given(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
def test_parts_are_made_of_the_words_of_their_text_and_limits_are_kept(text: str) -> None:
    compound = take_apart(text, LIKELY)
    if compound is None:
        return
    assert len(compound.clauses) <= MOST_PARTS
    said = set(re.findall(r"\w+", text))
    for part in compound.texts():
        assert part.strip() and set(re.findall(r"\w+", part)) <= said | {"s"}
    for clause in compound.clauses:
        for split in clause.splits:
            assert 2 <= len(split.parts) == len(split.joints) + 1 <= MOST_PARTS
            assert all(1 <= len(wordings) <= MOST_WORDINGS for wordings in split.parts)


@given(st.text(max_size=200), st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=5))
def test_any_text_at_all_is_taken(text: str, likely: dict[str, float]) -> None:
    take_apart(text, likely)

"""A file of facts: what is read is what was written, and each kind of bad line is refused by its number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mome_store.errors import FactError
from mome_store.tuning.facts import Fact, load_facts, parse_facts


def line(question: str = "Q?", answer: str | None = "A", **more: object) -> str:
    return json.dumps({"question": question, "answer": answer, **more})


def test_every_field_is_read_in_order_and_blank_lines_keep_the_count() -> None:
    second = line("Wie heißt 東京? 🗼", "東京タワー 🗼", id="x", paraphrases=["p", "q"], heldout=["h"], note="ignored")
    facts = parse_facts([line("one?", "1"), "", "  \r", second])
    assert facts == [
        Fact("one?", "1", line=1),
        Fact("Wie heißt 東京? 🗼", "東京タワー 🗼", ("p", "q"), ("h",), id="x", line=4),
    ]
    assert facts[1].wordings == ("Wie heißt 東京? 🗼", "p", "q")


def test_a_null_answer_is_an_unknown_and_legal_here() -> None:
    assert parse_facts([line(answer=None)])[0].answer is None


def test_space_around_a_text_does_not_count() -> None:
    assert parse_facts([line(" Q? ", " A\n", paraphrases=[" p "])]) == [Fact("Q?", "A", ("p",), line=1)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{'question'}", "not JSON"),
        ('{"question": "Q?", "answer": "A"', "not JSON"),
        ("[" * 100_000, "nested"),
        ('["question"]', "not a JSON object"),
        ('"text"', "not a JSON object"),
        ('{"answer": "A"}', "question missing"),
        ('{"question": "Q?"}', "answer missing"),
        ("{}", "question and answer missing"),
        (line(""), "question is empty"),
        (line(" \t"), "question is empty"),
        (line(answer=""), "answer is empty"),
        (line(answer="\n "), "answer is empty"),
        ('{"question": 7, "answer": "A"}', "question must be a string"),
        ('{"question": null, "answer": "A"}', "question must be a string"),
        ('{"question": "Q?", "answer": 7}', "answer must be a string"),
        ('{"question": "Q?", "answer": "\\ud800"}', "surrogate"),
        (line(paraphrases="p"), "paraphrases must be a list"),
        (line(paraphrases=["p", 1]), r"paraphrases\[1\] must be a string"),
        (line(heldout=[""]), r"heldout\[0\] is empty"),
        (line(heldout=None), "heldout must be a list"),
        (line(id=3), "id must be a string"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_reason(bad: str, reason: str) -> None:
    with pytest.raises(FactError, match=reason) as refused:
        parse_facts([line("fine?"), "", bad])
    assert refused.value.line == 3
    assert str(refused.value).startswith("line 3: ")


@pytest.mark.parametrize("content", ["", "\n\n", "  \n\t\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(content)
    with pytest.raises(FactError, match="empty") as refused:
        load_facts(file)
    assert refused.value.line is None


@pytest.mark.parametrize(
    "second",
    [
        line("Q?", "B"),
        line("Q?", None),
        line("P?", "B"),
        line("R?", "B", paraphrases=["Q?"]),
        line("R?", "B", paraphrases=["P?"]),
    ],
)
def test_a_wording_with_two_answers_is_refused_naming_both_lines(second: str) -> None:
    with pytest.raises(FactError) as refused:
        parse_facts([line("other?"), line("Q?", "A", paraphrases=["P?"]), second])
    assert refused.value.line == 3
    assert "line 2" in refused.value.reason


def test_the_same_fact_twice_counts_once_with_the_wordings_of_both() -> None:
    facts = parse_facts([line(paraphrases=["p"], heldout=["h"]), line(paraphrases=["p", "r"], heldout=["h", "i"])])
    assert facts == [Fact("Q?", "A", ("p", "r"), ("h", "i"), line=1)]


def test_no_trained_wording_belongs_to_two_facts() -> None:
    facts = parse_facts([line("a?", paraphrases=["p"]), line("b?", paraphrases=["p", "b?", "c?", "c?"]), line("p")])
    wordings = [wording for fact in facts for wording in fact.wordings]
    assert sorted(wordings) == ["a?", "b?", "c?", "p"]


def test_a_file_that_is_not_utf8_is_refused_by_line_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + line().encode())
    assert load_facts(file) == [Fact("Q?", "A", line=1)]
    file.write_bytes(line().encode() + b"\n\xff\xfe")
    with pytest.raises(FactError, match="not UTF-8") as refused:
        load_facts(file)
    assert refused.value.line == 2


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps({"question": "a\u2028b?", "answer": "A"}, ensure_ascii=False))
    assert load_facts(file)[0].question == "a\u2028b?"

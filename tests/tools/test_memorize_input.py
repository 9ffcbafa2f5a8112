"""What `mome memorize` refuses, it refuses before any model is loaded, in one line that names the fact's line."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Mome

GOOD = '{"question": "Q?", "answer": "A"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        (GOOD + "Q? A", "line 2: not JSON"),
        (GOOD + '{"answer": "A"}', "line 2: question missing"),
        (GOOD + '{"question": "R?", "answer": ""}', "line 2: answer is empty"),
        (GOOD + '{"question": "R?", "answer": null}', "line 2: 'R?' has no answer to memorize"),
        (GOOD + '\n{"question": "Q?", "answer": "B"}', 'line 3: \'Q?\' has the answer "B" here, but "A" in line 1'),
    ],
)
def test_a_bad_file_is_refused_by_line_and_leaves_no_store(
    mome: Mome, tmp_path: Path, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mome_tools.commands.memorize._opened", None)
    facts = tmp_path / "facts.jsonl"
    facts.write_text(content)
    ran = mome("memorize", facts, "--store", tmp_path / "store", "--json")
    assert ran.code == 1 and ran.out == ""
    assert message in ran.err and len(ran.err.splitlines()) == 1 and ran.err.startswith("error: ")
    assert not (tmp_path / "store").exists()


def test_a_missing_file_and_the_size_of_a_pool_in_mode_owned_are_refused(mome: Mome, tmp_path: Path) -> None:
    missing = mome("memorize", tmp_path / "nothing.jsonl", "--store", tmp_path / "store")
    assert missing.code == 1 and missing.err == f"error: {tmp_path}/nothing.jsonl: No such file or directory\n"
    (tmp_path / "facts.jsonl").write_text(GOOD)
    sized = mome("memorize", tmp_path / "facts.jsonl", "--store", tmp_path / "store", "--experts", "8")
    assert sized.code == 2 and "--mode pool" in sized.err and not (tmp_path / "store").exists()


@pytest.mark.parametrize("arguments", [["memorize"], ["memorize", "facts.jsonl"], ["ask", "q"], ["nothing"], []])
def test_wrong_usage_is_exit_code_2(mome: Mome, arguments: list[str]) -> None:
    assert mome(*arguments).code == 2


def test_ctrl_c_says_that_the_last_commit_stands_and_exits_130(
    mome: Mome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mome_tools.commands.memorize._opened", interrupted)
    (tmp_path / "facts.jsonl").write_text(GOOD)
    ran = mome("memorize", tmp_path / "facts.jsonl", "--store", tmp_path / "store", "--json")
    assert ran.code == 130 and ran.out == ""
    assert "interrupted" in ran.err and "stands" in ran.err and "continues" in ran.err

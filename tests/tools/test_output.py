"""stdout carries the result alone: no bar, no warning, nothing that a script would stumble over."""

from __future__ import annotations

import json
import warnings

import pytest

from mome_tools.output import bytes_text, print_json, print_text, progress_bar, show_warnings_as_notes


def test_json_is_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"answer": "two\nlines [bold]not markup[/] 🙂 " + "long " * 100}
    print_json(value)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == value


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]EDDF[/red] :smile: " + "long " * 100
    print_text(text)
    assert capsys.readouterr().out == text + "\n"


def test_a_bar_is_drawn_on_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        progress.update(progress.add_task("working", total=2, note=""), completed=1)
    assert capsys.readouterr() == ("", "")


def test_a_warning_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # given back after the test
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show_warnings_as_notes()
        warnings.warn("cut at 256 tokens", UserWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "warning: cut at 256 tokens\n")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")]
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert bytes_text(count) == text

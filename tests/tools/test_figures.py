"""A figure says whether its bar is met, and its JSON has the fields of the contract."""

from __future__ import annotations

import json

import pytest

from mome_tools.figures import Figure, machine, machine_text, print_figures


def test_a_bar_is_met_from_the_right_side() -> None:
    assert Figure.at_least("x", 90.0, 90, "%").ok and not Figure.at_least("x", 89.9, 90, "%").ok
    assert Figure.at_most("x", 0.6, 0.6, "s").ok and not Figure.at_most("x", 0.61, 0.6, "s").ok
    assert Figure("x", 1.0).ok is None


def test_json_has_the_fields_of_the_contract() -> None:
    figure = Figure.at_least("facts per second", 3.0, 1, "/s", peer="PEFT", peer_value=0.1, ratio=30.0)
    fields = json.loads(json.dumps(figure.to_json()))
    assert list(fields) == ["name", "value", "unit", "peer", "peer_value", "ratio", "bar", "ok"]
    assert json.loads(json.dumps(machine())) == machine()


def test_every_figure_is_one_line_with_its_peer_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    print_figures(
        [
            Figure.at_least("exact answers", 99.5, 99, "%"),
            Figure.at_most("seconds per fact", 0.75, 0.6, "s", peer="PEFT", peer_value=13.7, ratio=18.3),
            Figure("logits equal", True, bar="yes", ok=True),
            Figure("false fire", 1.6, "%"),
        ]
    )
    _, *lines = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines())
    assert lines == [
        "exact answers 99.5 % >= 99.0 % ok",
        "seconds per fact 0.75 s PEFT: 13.7 s 18.30x <= 0.6 s NOT MET",
        "logits equal yes yes ok",
        "false fire 1.6 %",
    ]
    assert "cores" in machine_text()

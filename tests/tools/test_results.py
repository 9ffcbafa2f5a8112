"""Saved results say what was measured, in all three forms."""

from __future__ import annotations

import json
from pathlib import Path

from mome_tools.figures import Figure
from mome_tools.results import save_results


def test_results_are_saved_as_json_markdown_and_plot(tmp_path: Path) -> None:
    figures = [
        Figure.at_least("fetch", 2.0, 1.8, "GB/s", peer="fio (io_uring)", peer_value=1.9, ratio=2.0 / 1.9),
        Figure.at_most("hit", 25.0, 20, "us"),
    ]
    save_results("fetch", figures, tmp_path / "results")
    content = json.loads((tmp_path / "results" / "fetch.json").read_text())
    assert content["figures"] == [figure.to_json() for figure in figures]
    text = (tmp_path / "results" / "fetch.md").read_text()
    assert "| fetch | 2 GB/s | fio (io_uring): 1.9 GB/s | 1.05x | >= 1.8 GB/s | ok |" in text
    assert "| hit | 25 us |  |  | <= 20 us | NOT MET |" in text
    assert (tmp_path / "results" / "fetch.png").read_bytes().startswith(b"\x89PNG")


def test_without_peers_there_is_no_plot(tmp_path: Path) -> None:
    save_results("x", [Figure("value", 1.0)], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.md"]

"""`mome bench store` measures what it says, on a store as small as one likes, also where there is no fio."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mome_tools import bench_compaction
from mome_tools.bench_store import FEW, measure_store


@pytest.mark.parametrize("fio", [True, False])
def test_every_bar_has_a_figure_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: Any, fio: bool) -> None:
    if fio and shutil.which("fio") is None:
        pytest.skip("fio is not installed")
    if not fio:
        monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(bench_compaction, "_CALM_SECONDS", 0.1)
    steps: list[str] = []
    figures = measure_store(2 * FEW, 4 << 20, tmp_path, on_progress=lambda what, done, total: steps.append(what))
    named = {figure.name.partition(",")[0]: figure for figure in figures}
    assert [name for name, figure in named.items() if figure.bar is not None] == [
        "ingest",
        "adding 2",
        "open and snapshot",
        "host memory held",
        "append of one group",
        *(["verify --deep"] if fio else []),
    ]
    assert all(figure.value > 0 for figure in figures if "memory" not in figure.name)
    assert named["ingest"].peer == ("fio, sequential, O_DIRECT" if fio else "plain write and fsync")
    assert all(named[name].peer_value is not None for name in ("append of one group", "compaction"))
    assert len(set(steps)) == (6 if fio else 4) and list(tmp_path.iterdir()) == []

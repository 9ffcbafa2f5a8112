"""How the tests of the command run it: in this process, with what it printed and its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mome_store import ExpertSchema, ExpertStore, Memory
from mome_tools.cli import main


@dataclass(frozen=True)
class Ran:
    """A run of the command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object: the last line of stdout."""
        return json.loads(self.out.splitlines()[-1])


Mome = Callable[..., Ran]


@pytest.fixture
def mome(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mome:
    """Run `mome` with these arguments."""

    def run(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["mome", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as exited:
            code = exited.code or 0
        printed = capsys.readouterr()
        assert isinstance(code, int)
        return Ran(code, printed.out, printed.err)

    return run


@pytest.fixture
def small_store(tmp_path: Path) -> Path:
    """A store of three facts (groups 1 to 3) with random experts; no model goes with it."""
    rng = np.random.default_rng(0)
    schema = ExpertSchema({"layer": (16, 8)}, rank=2)
    path = tmp_path / "store"
    with ExpertStore.create(path, schema, key_dim=4) as store, store.transaction() as transaction:
        for name in ("one", "two", "three"):
            expert = {"layer": (rng.standard_normal((2, 16)), rng.standard_normal((8, 2)))}
            memory = Memory(f"What is {name}?", name, paraphrases=(f"{name} is what?",))
            transaction.add_group([expert], keys=rng.standard_normal((2, 4)).astype(np.float32), memory=memory)
    return path

"""docs/embedding.md: its code runs and prints what the page says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.embedding.conftest import ROOT

PAGE = (ROOT / "docs" / "embedding.md").read_text()
NUMBER = re.compile(r"-?\d+\.\d+")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def python_output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where the page's Python code ran, and what it printed."""
    place = tmp_path_factory.mktemp("page")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return place, done.stdout


def test_the_python_code_prints_what_the_page_says(python_output: tuple[Path, str]) -> None:
    assert blocks("text") == [python_output[1]]


def test_the_example_prints_what_the_page_says(embed_program: Path, python_output: tuple[Path, str]) -> None:
    """Sums of products differ in their last bits between instruction sets."""
    _, command, said = re.split(r"\n(?=\$)|(?<=2,3)\n", blocks("console")[0], maxsplit=2)
    arguments = shlex.split(command.removeprefix("$ "))[1:]
    done = subprocess.run([str(embed_program), *arguments], cwd=python_output[0], capture_output=True, text=True)
    assert NUMBER.sub("N", done.stdout) == NUMBER.sub("N", said)
    found, expected = ([float(number) for number in NUMBER.findall(text)] for text in (done.stdout, said))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)

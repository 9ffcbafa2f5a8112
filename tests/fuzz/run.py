"""Runs the fuzzers that are built, one after the other, and says what each has done.

python -m tests.fuzz.run BUILD SECONDS      exit 1 when one of them finds something; what it found is in BUILD/found
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.corpus import FUZZERS, make_corpus

SECONDS_PER_INPUT = 10


@dataclass(frozen=True)
class Fuzzed:
    """executions: how many inputs were tried. said: what libFuzzer printed, if it found something."""

    fuzzer: str
    executions: int
    said: str | None


def program_of(build: Path, fuzzer: str) -> Path:
    return build / "tests" / "cpp" / "fuzz" / f"fuzz_{fuzzer}"


def fuzz(build: Path, corpus: Path, fuzzer: str, seconds: int) -> Fuzzed:
    """corpus: as `make_corpus` leaves it; inputs that reach new code are added to it."""
    found = build / "found"
    found.mkdir(exist_ok=True)
    command = [program_of(build, fuzzer), f"-max_total_time={seconds}", f"-timeout={SECONDS_PER_INPUT}"]
    command += [f"-artifact_prefix={found}/{fuzzer}-", "-max_len=20000", "-print_final_stats=1", corpus / fuzzer]
    environment = {**os.environ, "MOME_FUZZ_STORE": str(corpus / "store")}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    return Fuzzed(fuzzer, int(executed[1]) if executed else 0, done.stderr if done.returncode else None)


def main(build: Path, seconds: int) -> int:
    make_corpus(build / "corpus")
    findings = 0
    for fuzzer in FUZZERS:
        if not program_of(build, fuzzer).exists():  # without SQLite's header there are fewer
            print(f"{fuzzer}: not built")
            continue
        result = fuzz(build, build / "corpus", fuzzer, seconds)
        print(f"{fuzzer}: {result.executions} inputs, {'nothing found' if result.said is None else 'FOUND:'}")
        if result.said is not None:
            print(result.said)
            findings += 1
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))

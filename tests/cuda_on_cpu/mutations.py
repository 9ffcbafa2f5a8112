"""Do the tests notice when a statement that orders work is missing?

Each statement that a pattern finds is deleted in a copy of the sources, one at a time; what includes the file is
compiled again, and the programs are run until one fails. A statement whose loss no program notices is a survivor. There
are two suites: `streams`, what orders the copies and the kernels of the slot cache on a CUDA device; and `kernels`, the
barriers and waits of the kernels.

    python tests/cuda_on_cpu/mutations.py [streams|kernels] [--list] [--only REGEX] [--repeat N]

Prints a table `file:line | statement | caught by`, and exits with 1 if there is a survivor.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = "tests/cuda_on_cpu"


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Statements to delete: each match of `regex` in `file`."""

    file: str
    regex: str
    instead: str = ""  # what takes its place: something that compiles without it


@dataclasses.dataclass(frozen=True)
class Suite:
    """What to delete, and the programs that should notice: name -> their sources, all else being `sources`."""

    patterns: tuple[Pattern, ...]
    sources: tuple[str, ...]
    programs: dict[str, tuple[str, ...]]
    # Statements whose loss no test can see, by a part of their text, and why.
    excused: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Mutation:
    file: str
    line: int
    statement: str
    text: str  # of the whole file, changed


STANDIN = tuple(
    f"{HERE}/{name}.cpp"
    for name in ("devices", "faults", "fibers", "graphs", "launch", "memory", "state", "streams", "values")
)
CORE = tuple(
    f"csrc/{layer}/{name}.cpp"
    for layer, names in {
        "device": ("cpu_device",),
        "format": ("crc32c", "key", "layout", "record", "shard_index"),
        "io": (
            "expert_run",
            "io_uring",
            "io_uring_reader",
            "mapped_file",
            "mmap_reader",
            "pread_reader",
            "read_file",
            "reader",
            "shard_set",
            "work_queue",
        ),
        "runtime": ("eviction", "mapped_cache", "prefetcher", "route", "slot_cache"),
    }.items()
    for name in names
)
CUDA_DEVICE = "csrc/device/cuda/cuda_device.cpp"
PREFETCHER = "csrc/runtime/prefetcher.cpp"
SLOT_CACHE = "csrc/runtime/slot_cache.cpp"
SLOT_USES = "csrc/runtime/slot_uses.h"

STREAM_ORDER = Suite(
    patterns=(
        Pattern(CUDA_DEVICE, r"cudaEventSynchronize\(event_\)", "cudaSuccess"),
        Pattern(CUDA_DEVICE, r"cudaEventRecord\(event_, stream\)", "(static_cast<void>(stream), cudaSuccess)"),
        Pattern(
            CUDA_DEVICE,
            r"cudaStreamWaitEvent\([^;]*?cudaEventWaitDefault\)",
            "(static_cast<void>(awaited), cudaSuccess)",
        ),
        Pattern(CUDA_DEVICE, r"ignore\(cudaStreamSynchronize\(stream_\)\);"),
        Pattern(PREFETCHER, r"stream_->wait\(event\);", "static_cast<void>(event);"),
        Pattern(PREFETCHER, r"sent\.there->wait\(\);"),
        Pattern(PREFETCHER, r"stream_->drain\(\);"),
        Pattern(PREFETCHER, r"stream_->copy\(copies\);"),
        Pattern(SLOT_CACHE, r"uses_\.add\(slot, stream, done\);", "static_cast<void>(slot);"),
        Pattern(SLOT_CACHE, r",\s*\.after = uses_\.of\(slot\)"),
        Pattern(SLOT_CACHE, r"uses_\.forget\([^;]*;"),
        Pattern(SLOT_CACHE, r"uses_\.wait_for_all\(\);"),
        Pattern(SLOT_USES, r"std::erase_if\(uses, [^;]*;[^;]*;"),
        Pattern(SLOT_USES, r"use\.done->wait\(\);", "static_cast<void>(use);"),
    ),
    sources=(*STANDIN, *CORE, CUDA_DEVICE, f"{HERE}/on_cuda.cpp"),
    programs={
        "test_cuda_cache": (f"{HERE}/test_cuda_cache.cpp",),
        "test_cuda_device": (f"{HERE}/test_cuda_device.cpp",),
        "test_cuda_slot_cache": ("tests/cpp/test_slot_cache.cpp",),
        "test_cuda_stress": ("tests/cpp/test_stress.cpp",),
    },
)
KERNELS = Suite(
    patterns=tuple(
        Pattern(f"csrc/kernels/cuda/{file}.cu", regex)
        for file in ("decode", "prefill")
        for regex in (r"__syncthreads\(\);", r"wait_copies<[^;]*>\(\);")
    ),
    sources=(
        *STANDIN,
        CUDA_DEVICE,
        "csrc/device/cpu_device.cpp",
        "csrc/kernels/matrix.cpp",
        "csrc/kernels/routed_rows.cpp",
        *(f"csrc/kernels/cuda/{name}" for name in ("apply.cu", "decode.cu", "prefill.cu", "tables.cpp")),
    ),
    programs={"test_cuda_kernels": (f"{HERE}/test_cuda_kernels.cpp",)},
)
SUITES = {"streams": STREAM_ORDER, "kernels": KERNELS}


def mutations(suite: Suite, root: Path) -> Iterator[Mutation]:
    """Every statement that is to be deleted. Raises ValueError for a pattern that finds none: the source moved on."""
    for pattern in suite.patterns:
        text = (root / pattern.file).read_text()
        found = list(re.finditer(pattern.regex, text))
        if not found:
            raise ValueError(f"{pattern.file}: nothing matches {pattern.regex}")
        for match in found:
            changed = text[: match.start()] + pattern.instead + text[match.end() :]
            statement = " ".join(match.group().split())
            yield Mutation(pattern.file, text.count("\n", 0, match.start()) + 1, statement, changed)


class Build:
    """A copy of the sources, and objects that are compiled again when something that they include has changed."""

    def __init__(self, suite: Suite, root: Path, folder: Path, compiler: str, flags: list[str]) -> None:
        self.suite = suite
        self.folder = folder
        self.compiler = compiler
        self.flags = [*flags, "-std=c++20", "-MMD", "-fPIC", "-U_FORTIFY_SOURCE"]
        self.flags += [f"-I{HERE}/include", f"-I{HERE}", "-Icsrc", "-Itests/cpp"]
        for part in ("csrc", "tests/cpp", HERE):
            shutil.copytree(root / part, folder / part)

    def object(self, source: str) -> Path:
        return self.folder / "objects" / (source.replace("/", "_") + ".o")

    def stale(self, source: str) -> bool:
        made = self.object(source)
        depends = made.with_suffix(".d")
        if not made.exists() or not depends.exists():
            return True
        names = depends.read_text().replace("\\\n", " ").split(":", 1)[1].split()
        return any(
            (self.folder / name).stat().st_mtime_ns > made.stat().st_mtime_ns
            for name in names
            if not name.startswith("/")
        )

    def run(self) -> dict[str, Path]:
        """Compiles what is stale, links the programs. Raises CalledProcessError with the compiler's words."""
        (self.folder / "objects").mkdir(exist_ok=True)
        sources = [*self.suite.sources, *(each for own in self.suite.programs.values() for each in own)]
        stale = [source for source in sources if self.stale(source)]
        jobs = max(1, min(2, os.cpu_count() or 1))
        while stale:
            batch, stale = stale[:jobs], stale[jobs:]
            running = [
                (
                    source,
                    subprocess.Popen(
                        [self.compiler, *self.flags, *_language(source), "-c", source, "-o", self.object(source)],
                        cwd=self.folder,
                    ),
                )
                for source in batch
            ]
            for source, process in running:
                if process.wait() != 0:
                    raise RuntimeError(f"{source} does not compile")
        programs = {}
        for name, own in self.suite.programs.items():
            programs[name] = self.folder / name
            objects = [str(self.object(source)) for source in (*self.suite.sources, *own)]
            subprocess.run(
                [self.compiler, *self.flags, *objects, "-pthread", "-o", str(programs[name])],
                check=True,
                cwd=self.folder,
            )
        return programs

    def change(self, file: str, text: str) -> None:
        path = self.folder / file
        before = path.stat().st_mtime_ns
        path.write_text(text)
        os.utime(path, ns=(max(before + 1, path.stat().st_mtime_ns),) * 2)


def _language(source: str) -> list[str]:
    """Kernels are C++ as well, over the stand-in."""
    return ["-Wno-unknown-pragmas", "-ffp-contract=off", "-xc++"] if source.endswith(".cu") else []


def caught_by(programs: dict[str, Path], repeat: int, limit: float) -> str | None:
    """The first program that fails, and by which of its tests; None when all pass, `repeat` times."""
    for _ in range(repeat):
        for name, program in programs.items():
            try:
                done = subprocess.run([program], capture_output=True, text=True, timeout=limit)
            except subprocess.TimeoutExpired:
                return f"{name}: it hangs"
            if done.returncode != 0:
                failed = [line.removeprefix("FAIL ") for line in done.stdout.splitlines() if line.startswith("FAIL ")]
                return f"{name}: {failed[0] if failed else f'it ends with {done.returncode}'}"
    return None


def check(
    suite: Suite,
    *,
    only: str = "",
    repeat: int = 2,
    limit: float = 240,
    compiler: str = "g++",
    flags: tuple[str, ...] = ("-O1",),
) -> list[Mutation]:
    """Prints the table and returns the survivors. Raises RuntimeError when the unchanged sources fail."""
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mome_mutations_") as folder:
        build = Build(suite, ROOT, Path(folder), compiler, list(flags))
        trouble = caught_by(build.run(), 1, limit)
        if trouble:
            raise RuntimeError(f"the unchanged sources fail: {trouble}")
        print("file:line | statement | caught by", flush=True)
        for mutation in mutations(suite, ROOT):
            if only and not re.search(only, f"{mutation.file} {mutation.statement}"):
                continue
            original = (ROOT / mutation.file).read_text()
            build.change(mutation.file, mutation.text)
            try:
                caught = caught_by(build.run(), repeat, limit)
            finally:
                build.change(mutation.file, original)
            if caught is None:
                excuse = next((why for part, why in suite.excused.items() if part in mutation.statement), None)
                caught = f"nothing: {excuse}" if excuse else "NOTHING"
                if not excuse:
                    survivors.append(mutation)
            print(f"{mutation.file}:{mutation.line} | {mutation.statement} | {caught}", flush=True)
    return survivors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("suite", nargs="?", choices=SUITES, help="which; both by default")
    parser.add_argument("--list", action="store_true", help="only say what would be deleted")
    parser.add_argument("--only", default="", help="only those whose file or statement matches")
    parser.add_argument("--repeat", type=int, default=2, help="how often the programs run on each")
    options = parser.parse_args()
    suites = [SUITES[options.suite]] if options.suite else list(SUITES.values())
    if options.list:
        for mutation in (each for suite in suites for each in mutations(suite, ROOT)):
            print(f"{mutation.file}:{mutation.line} | {mutation.statement}")
        return 0
    survivors = [each for suite in suites for each in check(suite, only=options.only, repeat=options.repeat)]
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

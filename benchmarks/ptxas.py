"""What the compiler makes of the CUDA kernels: registers, shared memory, spills and occupancy, against a budget.

    python benchmarks/ptxas.py                  the table, and what is over the budget (then the exit status is 1)
    python benchmarks/ptxas.py --write          writes the budget and the table in docs/cuda.md anew

Compiles every kernel for every architecture, which takes half a minute and no GPU; wants nvcc, and c++filt of binutils.
The budget (csrc/kernels/cuda/budget.json) has the registers of each kernel; bytes spilled, or on the stack, must be 0.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "csrc" / "kernels" / "cuda"
BUDGET = KERNELS / "budget.json"
DOC = ROOT / "docs" / "cuda.md"
FILES = ("decode", "prefill")
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
FLAGS = ("-std=c++20", "--fmad=false", f"-I{ROOT / 'csrc'}")

# CUDA C++ Programming Guide 13.0, "Compute Capabilities": of one multiprocessor. Each block takes 1 KiB of shared
# memory beside its own; registers are given to warps 256 at a time.
THREADS, BLOCKS, REGISTERS, WARP = 2048, 32, 65536, 32
SHARED_BYTES = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10}
RESERVED_BYTES, REGISTER_UNIT = 1 << 10, 256


@dataclass(frozen=True)
class Use:
    """Of one kernel on one architecture."""

    registers: int
    stack: int
    spilled: int


def compiled(architecture: str) -> Iterator[tuple[str, Use]]:
    """Each kernel ("decode expand<float>") with its use. Raises CalledProcessError with what nvcc says."""
    with tempfile.TemporaryDirectory() as folder:
        for file in FILES:
            command = ["nvcc", *FLAGS, f"-arch={architecture}", "-cubin", "-Xptxas=-v", str(KERNELS / f"{file}.cu")]
            done = subprocess.run([*command, "-o", f"{folder}/{file}"], check=True, capture_output=True, text=True)
            said = subprocess.run(["c++filt"], input=done.stderr, check=True, capture_output=True, text=True).stdout
            for part in said.split("Compiling entry function ")[1:]:
                yield (
                    f"{file} {_name(part)}",
                    Use(
                        registers=_number(r"Used (\d+) registers", part),
                        stack=_number(r"(\d+) bytes stack frame", part),
                        spilled=_number(r"(\d+) bytes spill stores", part) + _number(r"(\d+) bytes spill loads", part),
                    ),
                )


def _name(part: str) -> str:
    """ "shrink<bf16, float>" of a demangled function."""
    match = re.search(r"::(\w+)(<[^(]*>)?\(mome::cuda::KernelArguments\)", part)
    if match is None:
        raise ValueError(f"no kernel in {part[:200]!r}")
    arguments = (match[2] or "").replace("mome::cuda::", "")
    return match[1] + arguments.replace("Bfloat16", "bf16").replace("Float16", "fp16").replace("float", "fp32")


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"ptxas does not say {pattern!r}")
    return int(match[1])


def occupancy(architecture: str, registers: int, threads: int, shared_bytes: int) -> float:
    """The share of a multiprocessor's threads that fit at once."""
    warps = threads // WARP
    per_warp = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS // per_warp // warps
    by_shared = SHARED_BYTES[architecture] // (shared_bytes + RESERVED_BYTES)
    return min(BLOCKS, THREADS // threads, by_registers, by_shared) * threads / THREADS


def launches() -> dict[str, tuple[int, int]]:
    """Threads of a block and bytes of shared memory, by kernel, as the extension launches it."""
    from mome_store.runtime.cuda import extension

    return {name: (threads, shared) for name, threads, shared in extension().kernels()}


def table(uses: dict[str, dict[str, Use]]) -> str:
    """Markdown: a kernel in each line."""
    of = launches()
    lines = [
        "| kernel | threads | shared bytes | "
        + " | ".join(f"{each}: registers, occupancy" for each in ARCHITECTURES)
        + " |",
        "| --- | --- | --- |" + " --- |" * len(ARCHITECTURES),
    ]
    for kernel in sorted(uses[ARCHITECTURES[0]]):
        threads, shared = of[kernel]
        cells = []
        for each in ARCHITECTURES:
            registers = uses[each][kernel].registers
            cells.append(f"{registers}, {occupancy(each, registers, threads, shared):.0%}")
        lines.append(f"| {kernel} | {threads} | {shared:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def over_budget(uses: dict[str, dict[str, Use]]) -> list[str]:
    """What is wrong, a line each."""
    budget: dict[str, dict[str, int]] = json.loads(BUDGET.read_text())
    wrong = []
    for architecture, kernels in uses.items():
        allowed = budget[architecture]
        for kernel, use in kernels.items():
            if use.stack or use.spilled:
                wrong.append(f"{architecture} {kernel}: {use.stack} bytes on the stack, {use.spilled} spilled")
            if kernel not in allowed:
                wrong.append(f"{architecture} {kernel}: not in the budget")
            elif use.registers > allowed[kernel]:
                wrong.append(f"{architecture} {kernel}: {use.registers} registers, {allowed[kernel]} are allowed")
        wrong += [
            f"{architecture} {kernel}: in the budget, but there is no such kernel"
            for kernel in allowed.keys() - kernels
        ]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="the budget and docs/cuda.md")
    write = parser.parse_args().write
    uses = {architecture: dict(compiled(architecture)) for architecture in ARCHITECTURES}
    text = table(uses)
    print(text)
    if write:
        budget = {each: {kernel: use.registers for kernel, use in sorted(uses[each].items())} for each in ARCHITECTURES}
        BUDGET.write_text(json.dumps(budget, indent=2) + "\n")
        marked = r"(<!-- ptxas -->\n).*?(<!-- /ptxas -->)"
        DOC.write_text(
            re.sub(marked, lambda found: f"{found[1]}\n{text}\n\n{found[2]}", DOC.read_text(), flags=re.DOTALL)
        )
    wrong = over_budget(uses)
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

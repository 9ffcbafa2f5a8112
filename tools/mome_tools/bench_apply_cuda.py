"""`mome bench apply --device cuda`: the CUDA kernels over routed experts, beside the device's memory and beside peers.

Decode and prefill as in bench_apply.py, with shapes that docs/cuda.md has figures for on paper: (14336, 4096) is
Llama-3-8B's down_proj. The records lie in the device's memory, several times its L2, and each of the calls that are
timed together takes other ones, so that every call reads its weights from memory. "In a graph" they are launched by one
CUDA graph; "from Python" each is a call, and where the device is faster than Python the time is Python's.

Beside: the device's memory, by a large copy (bytes read and written); the layer that is adapted, alone; gather and bmm;
grouped_mm over the gathered factors, from Python alone, since on some devices torch waits in it, which a graph does not
allow (its rows are multiples of 16 bytes: only r = 16; and fewer than 1024 groups); PEFT's loop over adapters, sequence
by sequence, each timed from an idle device; and PEFT's mixed batch, with k = 1. PEFT has 256 adapters, the same ones
for all calls.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mome_store.runtime.apply import ExpertTables, RoutedRows
from mome_store.store import ExpertSchema
from mome_tools.bench_apply import PEER_EXPERTS, peft_layer
from mome_tools.cuda_timer import CudaTimer, Work
from mome_tools.figures import Figure

Progress = Callable[[str, int, int], None]
_LAYER = "layer"
_CACHES = 8  # records in memory, in L2s
_MOST_GROUPS = 1023  # that torch's grouped_mm takes


@dataclass(frozen=True)
class Sizes:
    """What is measured. modules: (d_in, d_out). looped: the most sequences that PEFT's loop is timed with."""

    modules: Sequence[tuple[int, int]] = ((576, 576), (14336, 4096))
    ranks: Sequence[int] = (1, 4, 16)
    sequences: Sequence[int] = (1, 8, 64)
    prefill: Sequence[int] = (16, 64, 512, 2048)
    k: int = 32
    looped: int = 8
    calls: int = 20
    rounds: int = 7
    adapters: int = PEER_EXPERTS


def measure_apply_cuda(timer: CudaTimer, on_progress: Progress, sizes: Sizes | None = None) -> list[Figure]:
    """Every figure of the kernels on one device."""
    sizes = sizes or Sizes()
    shapes = [(module, rank) for module in sizes.modules for rank in sizes.ranks]
    figures: list[Figure] = []
    with timer.current(), torch.inference_mode():
        on_progress("memory", 0, len(shapes) + 1)
        rate = timer.memory_rate()
        for done, ((d_in, d_out), rank) in enumerate(shapes, start=1):
            on_progress(f"({d_in}, {d_out}), r = {rank}", done, len(shapes) + 1)
            run = _Run(timer, sizes, _Experts(timer, sizes, d_in, d_out, rank), rate)
            for sequences in sizes.sequences:
                figures += run.decode(sequences)
            for k in (1, sizes.k):
                for tokens in sizes.prefill:
                    figures += run.prefill(tokens, k)
    return figures


class _Experts:
    """Random experts of one shape in the device's memory, laid out as records.

    a: bf16 [n, rank, d_in], b: bf16 [n, rank, d_out], views of the records.
    """

    def __init__(self, timer: CudaTimer, sizes: Sizes, d_in: int, d_out: int, rank: int) -> None:
        self.d_in, self.d_out, self.rank, self.device = d_in, d_out, rank, timer.device
        self.weight_bytes = 2 * rank * (d_in + d_out)
        self.schema = ExpertSchema({_LAYER: (d_in, d_out)}, rank=rank, dtype="bfloat16", alpha=float(rank))
        section = self.schema.sections[_LAYER]
        self.count = max(
            sizes.adapters, max(sizes.sequences) * sizes.k, -(-_CACHES * timer.cache_bytes() // self.weight_bytes)
        )
        values = self.schema.record_bytes // 2
        self.records = torch.empty(self.count, values, dtype=torch.bfloat16, device=timer.device)
        self.records.normal_(std=d_in**-0.5)
        self.a = self.records[:, section.a_offset // 2 :][:, : rank * d_in].unflatten(1, (rank, d_in))
        self.b = self.records[:, section.b_offset // 2 :][:, : rank * d_out].unflatten(1, (rank, d_out))


class _Batch:
    """Calls of the operator, each with `tokens` rows of every sequence and k experts a sequence, others in each call.

    index: int64 [calls, sequences, k], which experts.
    """

    def __init__(self, experts: _Experts, calls: int, sequences: int, k: int, tokens: int = 1) -> None:
        self.experts, self.sequences, self.k = experts, sequences, k
        n = sequences * tokens
        self.x = torch.randn(n, experts.d_in, device=experts.device).bfloat16()
        self.y = torch.zeros(n, experts.d_out, device=experts.device, dtype=torch.bfloat16)
        order = torch.randperm(experts.count, generator=torch.Generator().manual_seed(0))
        each = sequences * k
        index = order[torch.arange(calls * each) % experts.count].view(calls, sequences, k)
        self.index = index.to(experts.device)
        self._rows = [self._routed(chosen.flatten(), tokens) for chosen in index]
        self._factors: list[tuple[torch.Tensor, torch.Tensor]] = []

    def _routed(self, chosen: torch.Tensor, tokens: int) -> RoutedRows:
        experts, entries = self.experts, self.sequences * self.k
        tables = ExpertTables(
            torch.arange(self.sequences + 1, dtype=torch.int32) * self.k,
            experts.records.data_ptr() + chosen * experts.schema.record_bytes,
            torch.full((entries,), experts.rank, dtype=torch.int32),
            torch.full((entries,), 1 / self.k),
            str(experts.device),
        )
        rows = torch.arange(len(self.x), dtype=torch.int32)
        sequence = torch.arange(self.sequences, dtype=torch.int32).repeat_interleave(tokens)
        return RoutedRows(rows, sequence, tables, experts.device)

    def ours(self) -> None:
        for rows in self._rows:
            rows.apply(self.experts.schema, _LAYER, self.y, self.x)

    def gathered(self) -> None:
        """By index and batched matrix products."""
        for chosen in self.index:
            t = torch.bmm(self.experts.a[chosen].flatten(1, 2), self.x[:, :, None]) / self.k
            self.y += torch.bmm(t.transpose(1, 2), self.experts.b[chosen].flatten(1, 2))[:, 0]

    def grouped(self) -> None:
        """By index and grouped products, as for a mixture of experts: each (sequence, expert) is a group of one row."""
        ends = torch.arange(1, self.sequences * self.k + 1, dtype=torch.int32, device=self.experts.device)
        for chosen in self.index:
            flat = chosen.flatten()
            x = self.x.repeat_interleave(self.k, 0)
            t = _grouped_mm(x, self.experts.a[flat].transpose(1, 2), ends) / self.k
            delta = _grouped_mm(t, self.experts.b[flat], ends)
            self.y += delta.view(self.sequences, self.k, -1).sum(1)

    def concatenate(self) -> None:
        """For `dense`: the factors of each call, of one sequence."""
        a, b = self.experts.a, self.experts.b
        self._factors = [(a[chosen[0]].flatten(0, 1), b[chosen[0]].flatten(0, 1)) for chosen in self.index]

    def dense(self) -> None:
        """Two products with factors that lie side by side already: no gather."""
        for a, b in self._factors:
            torch.mm(torch.mm(self.x, a.T), b)


class _Run:
    """The figures of experts of one shape."""

    def __init__(self, timer: CudaTimer, sizes: Sizes, experts: _Experts, rate: float) -> None:
        self._timer, self._sizes, self._experts, self._rate = timer, sizes, experts, rate
        self._weight = torch.randn(experts.d_out, experts.d_in, device=experts.device).bfloat16()
        self._peft = peft_layer(experts.a[: sizes.adapters], experts.b[: sizes.adapters])

    def decode(self, sequences: int) -> list[Figure]:
        calls, k = self._sizes.calls, self._sizes.k
        batch = _Batch(self._experts, calls, sequences, k)
        name = self._named(sequences, k)
        works: dict[str, Work] = {
            "ours": batch.ours,
            "the base layer alone": self._base(batch),
            "torch, gather + bmm": batch.gathered,
        }
        in_graph = self._medians({what: self._timer.captured(work) for what, work in works.items()})
        missing = self._grouped_missing(batch)
        if missing is None:
            works["torch, grouped_mm"] = batch.grouped
        called = self._medians(works)
        ours = in_graph["ours"]
        read = sequences * k * self._experts.weight_bytes / ours
        figures = [
            Figure(
                f"decode in a graph, {name}: weights read",
                read / 1e9,
                "GB/s",
                peer="the device's memory, read and written by a copy",
                peer_value=self._rate / 1e9,
                ratio=read / self._rate,
            ),
            *_beside(f"decode in a graph, {name}", in_graph),
            *_beside(f"decode from Python, {name}", called),
        ]
        if missing:
            figures.append(Figure(f"decode from Python, {name}", 1e6 * called["ours"], "us", peer=missing))
        if sequences <= self._sizes.looped:
            looped = statistics.median(self._looped(batch) for _ in range(3))
            figures += _beside(f"decode from Python, {name}", {"ours": called["ours"], "PEFT, loop": looped})
        single = _Batch(self._experts, calls, sequences, 1)
        mixed: dict[str, Work] = {"ours": single.ours, "PEFT, mixed batch": partial(self._mixed, single)}
        alone: dict[str, Work] = {"ours": single.ours, "the base layer alone": self._base(single)}
        name = self._named(sequences, 1)
        return [
            *figures,
            *_beside(f"decode from Python, {name}", self._medians(mixed)),
            *_beside(
                f"decode in a graph, {name}",
                self._medians({what: self._timer.captured(work) for what, work in alone.items()}),
            ),
        ]

    def prefill(self, tokens: int, k: int) -> list[Figure]:
        batch = _Batch(self._experts, self._sizes.calls, 1, k, tokens)
        batch.concatenate()
        works: dict[str, Work] = {
            "ours": batch.ours,
            "the base layer alone": self._base(batch),
            "two dense bf16 products": batch.dense,
        }
        medians = self._medians({what: self._timer.captured(work) for what, work in works.items()})
        return _beside(f"prefill in a graph, {tokens} tokens, {self._named(1, k)}", medians)

    def _medians(self, works: Mapping[str, Work]) -> dict[str, float]:
        """Median seconds of a call of each, taken in turns after one that is not counted."""
        calls = self._sizes.calls
        taken: dict[str, list[float]] = {what: [] for what in works}
        for _ in range(1 + self._sizes.rounds):
            for what, work in works.items():
                taken[what].append(self._timer.seconds(work, calls))
        return {what: statistics.median(seconds[1:]) for what, seconds in taken.items()}

    def _base(self, batch: _Batch) -> Work:
        def work() -> None:
            for _ in batch.index:
                torch.nn.functional.linear(batch.x, self._weight)

        return work

    def _grouped_missing(self, batch: _Batch) -> str | None:
        """Why torch's grouped_mm can't be timed, in words: "" where it is not meant to take these shapes."""
        if self._experts.rank % 8 or batch.sequences * batch.k > _MOST_GROUPS:
            return ""
        if _grouped_mm_found() is None:
            return f"torch {torch.__version__} has no grouped_mm"
        try:
            batch.grouped()
        except RuntimeError as error:  # which devices it takes depends on torch's build
            return f"torch's grouped_mm does not run here: {str(error).splitlines()[0]}"
        return None

    def _looped(self, batch: _Batch) -> float:
        """Seconds of PEFT's layer for one batch; not of telling it which adapters are active."""
        spent = 0.0
        for s in range(batch.sequences):
            names = [str((s * batch.k + i) % self._sizes.adapters) for i in range(batch.k)]
            self._peft.set_adapter(names, inference_mode=True)
            spent += self._timer.seconds(partial(self._peft, batch.x[s : s + 1]))
        return spent

    def _mixed(self, batch: _Batch) -> None:
        for call in range(len(batch.index)):
            names = [str((call * batch.sequences + s) % self._sizes.adapters) for s in range(batch.sequences)]
            self._peft(batch.x, adapter_names=names)

    def _named(self, sequences: int, k: int) -> str:
        experts = self._experts
        return f"T = {sequences}, k = {k}, r = {experts.rank}, d = ({experts.d_in}, {experts.d_out})"


def _beside(name: str, seconds: Mapping[str, float]) -> list[Figure]:
    """Ours in microseconds, beside each other one."""
    ours = seconds["ours"]
    return [
        Figure(name, 1e6 * ours, "us", peer=what, peer_value=1e6 * theirs, ratio=theirs / ours)
        for what, theirs in seconds.items()
        if what != "ours"
    ]


def _grouped_mm_found() -> Any:
    """torch.nn.functional.grouped_mm, or what it was called before it was public; None where there is neither."""
    return getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def _grouped_mm(a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = _grouped_mm_found()(a, b, offs=ends)
    return product

"""`mome bench apply`: the CPU kernels over routed experts, beside the memory's read bandwidth and beside peers.

Decode: T sequences of one token, each with k = 32 experts of its own, from a set of experts in random order that is
larger than the last-level cache: every call reads its weights from memory. The tables of rows and experts were checked
before, as a model does it once for all layers and steps of a batch. The set lies in huge pages where the system
gives them, which records mapped from files do not; the read bandwidth is measured over the same memory. Bytes are those
of A and B alone, not of the padding of records.

The peers apply experts of the same shapes and dtype (256 of them, so all but the largest shapes stay in the cache, for
them and for us):

* torch, gather + bmm: all experts stacked in two tensors; index, then batched matrix products.
* PEFT, loop over adapters: a LoRA layer with k active adapters, sequence by sequence; choosing them is not counted.
* PEFT, mixed batch: a LoRA layer with `adapter_names=`, which knows one adapter per sequence; so k = 1, for us too.

The layer below PEFT's adapters returns a constant, so that nobody's time has the base model in it.
"""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mome_store import _core
from mome_store.runtime.apply import ExpertTables, RoutedRows
from mome_store.store import ExpertSchema
from mome_tools.figures import Figure

Progress = Callable[[str, int, int], None]
EXPERTS = 32  # a sequence
SEQUENCES = (1, 8)
RANKS = (1, 4, 16)
DIMENSIONS = (576, 4096)
PREFILL = (64, 256)  # tokens
PEER_EXPERTS = EXPERTS * max(SEQUENCES)
CACHES = 2  # weights in memory, in last-level caches
UNKNOWN_CACHE = 256 << 20  # taken where the system does not say: larger than most
ROUNDS = 5
CALLS = 60  # a round
PEER_ROUNDS = 15
BANDWIDTH_BAR, GATHER_BAR, PEFT_BAR = 0.6, 3.0, 10.0
_LAYER = "layer"


def measure_apply(on_progress: Progress) -> list[Figure]:
    """Every figure of the kernels."""
    shapes = [(d, rank) for d in DIMENSIONS for rank in RANKS]
    bandwidth, peers, prefill = [], [], []
    with torch.inference_mode():
        for done, (d, rank) in enumerate(shapes):
            on_progress(f"d = {d}, r = {rank}", done, len(shapes))
            experts = _Experts(d, rank)
            for sequences in SEQUENCES:
                bandwidth.append(_bandwidth_figure(experts, sequences))
            peers += _peer_figures(experts)
            if rank == max(RANKS):
                prefill += [_prefill_figure(experts, tokens) for tokens in PREFILL]
    return bandwidth + peers + prefill


class _Experts:
    """Random experts of one shape, laid out as records; more than the last-level cache holds.

    a, b: bf16 [n, rank, d], views of the records.
    """

    def __init__(self, d: int, rank: int) -> None:
        self.d, self.rank = d, rank
        self.weight_bytes = 2 * rank * d * 2
        self.schema = ExpertSchema({_LAYER: (d, d)}, rank=rank, dtype="bfloat16", alpha=float(rank))
        section, record_bytes = self.schema.sections[_LAYER], self.schema.record_bytes
        self.count = max(PEER_EXPERTS, -(-CACHES * _last_level_cache() // self.weight_bytes))
        size = self.count * record_bytes
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has none
        with suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.memory = torch.frombuffer(memory, dtype=torch.float32)
        records = self.memory.view(torch.bfloat16).view(self.count, -1)
        generator = torch.Generator().manual_seed(rank * d)
        records.copy_(torch.randn(records.shape[1], generator=generator) / d**0.5)
        self.a, self.b = (
            records[:, offset // 2 : offset // 2 + rank * d].unflatten(1, (rank, d))
            for offset in (section.a_offset, section.b_offset)
        )
        self.base = self.memory.data_ptr() + torch.randperm(self.count, generator=generator) * record_bytes
        self.peer_base = self.memory.data_ptr() + torch.arange(PEER_EXPERTS) * record_bytes


@dataclass
class _Call:
    """One call of the operator: `tokens` rows, sequence by sequence, with k experts a sequence."""

    experts: _Experts
    sequences: int
    k: int = EXPERTS
    tokens: int = 1  # of each sequence

    def __post_init__(self) -> None:
        n = self.sequences * self.tokens
        self.x = torch.randn(n, self.experts.d).bfloat16()
        self.y = torch.zeros(n, self.experts.d, dtype=torch.bfloat16)
        self.rows = torch.arange(n, dtype=torch.int32)
        self.row_sequence = torch.arange(self.sequences, dtype=torch.int32).repeat_interleave(self.tokens)
        self.indptr = torch.arange(self.sequences + 1, dtype=torch.int32) * self.k
        self.ranks = torch.full((self.sequences * self.k,), self.experts.rank, dtype=torch.int32)
        self.weights = torch.full((self.sequences * self.k,), 1 / self.k)

    def chosen(self, base: torch.Tensor) -> Iterator[torch.Tensor]:
        """int64 [sequences * k]: each time the next ones of `base`, round and round."""
        chunks = [chunk for chunk in base.split(len(self.ranks)) if len(chunk) == len(self.ranks)]
        while True:
            yield from chunks

    def seconds(self, base: torch.Tensor) -> float:
        rows = RoutedRows(self.rows, self.row_sequence, ExpertTables(self.indptr, base, self.ranks, self.weights))
        return _timed(lambda: rows.apply(self.experts.schema, _LAYER, self.y, self.x))


def _bandwidth_figure(experts: _Experts, sequences: int) -> Figure:
    call = _Call(experts, sequences)
    chosen = call.chosen(experts.base)
    threads = torch.get_num_threads()
    seconds, bandwidths = [], []
    for _ in range(ROUNDS):
        bandwidths.append(_core.read_bandwidth(experts.memory, threads))
        seconds += [call.seconds(next(chosen)) for _ in range(CALLS)]
    ours = sequences * EXPERTS * experts.weight_bytes / statistics.median(seconds) / 1e9
    theirs = statistics.median(bandwidths) / 1e9
    return Figure.at_least(
        f"decode, {_named(experts, sequences)}: weights read",
        ours,
        BANDWIDTH_BAR * theirs,
        "GB/s",
        peer=f"read bandwidth, {threads} threads",
        peer_value=theirs,
        ratio=ours / theirs,
    )


def _peer_figures(experts: _Experts) -> list[Figure]:
    layer = peft_layer(experts.a[:PEER_EXPERTS], experts.b[:PEER_EXPERTS])
    figures = []
    for sequences in SEQUENCES:
        ours = _Call(experts, sequences)
        gathered, looped = _GatherPeer(ours), _LoopPeer(layer, ours)
        names = _named(experts, sequences)
        medians = _interleaved(ours, gathered.seconds, looped.seconds)
        figures += [
            _rate_figure(f"decode, {names}", medians[0], "torch, gather + bmm", medians[1], GATHER_BAR),
            _rate_figure(f"decode, {names}", medians[0], "PEFT, loop over adapters", medians[2], PEFT_BAR),
        ]
        single = _Call(experts, sequences, k=1)
        medians = _interleaved(single, _MixedPeer(layer, single).seconds)
        names = _named(experts, sequences, k=1)
        figures.append(_rate_figure(f"decode, {names}", medians[0], "PEFT, mixed batch", medians[1], PEFT_BAR))
    return figures


def _prefill_figure(experts: _Experts, tokens: int) -> Figure:
    """Beside dense products with the experts' factors already concatenated in fp32: no gather, no conversion."""
    ours = _Call(experts, 1, tokens=tokens)
    chosen = slice(0, EXPERTS)
    a, b = (factor[chosen].flatten(0, 1).float().contiguous() for factor in (experts.a, experts.b))
    x = ours.x.float()

    def dense(_: torch.Tensor) -> float:
        return _timed(lambda: torch.mm(torch.mm(x, a.T), b))

    medians = _interleaved(ours, dense)
    work = 2 * 2 * tokens * EXPERTS * experts.rank * experts.d / 1e9
    return Figure(
        f"prefill, {tokens} tokens, {_named(experts, 1)}",
        work / medians[0],
        "GFLOP/s",
        peer="two dense fp32 products",
        peer_value=work / medians[1],
        ratio=medians[1] / medians[0],
    )


class _GatherPeer:
    def __init__(self, ours: _Call) -> None:
        self.ours = ours
        k, rank = ours.k, ours.experts.rank
        self.scale = torch.full((ours.sequences, k * rank, 1), 1 / k, dtype=torch.bfloat16)
        self.record_bytes = int(ours.experts.peer_base[1] - ours.experts.peer_base[0])

    def seconds(self, base: torch.Tensor) -> float:
        ours = self.ours
        index = ((base - ours.experts.peer_base[0]) // self.record_bytes).view(ours.sequences, ours.k)
        return _timed(lambda: self._add(index))

    def _add(self, index: torch.Tensor) -> None:
        ours, experts = self.ours, self.ours.experts
        t = torch.bmm(experts.a[index].flatten(1, 2), ours.x[:, :, None]) * self.scale
        ours.y += torch.bmm(t.transpose(1, 2), experts.b[index].flatten(1, 2))[:, 0]


class _LoopPeer:
    """PEFT's sum over active adapters, for one sequence after the other."""

    def __init__(self, layer: Any, ours: _Call) -> None:
        self.layer, self.ours = layer, ours
        self.next = 0

    def seconds(self, _: torch.Tensor) -> float:
        """Of the layer's calls; not of telling it which adapters are active."""
        spent = 0.0
        for s in range(self.ours.sequences):
            names = [str((self.next + i) % PEER_EXPERTS) for i in range(self.ours.k)]
            self.next += self.ours.k
            self.layer.set_adapter(names, inference_mode=True)
            spent += _timed(partial(self.layer, self.ours.x[s : s + 1]))
        return spent


class _MixedPeer:
    def __init__(self, layer: Any, ours: _Call) -> None:
        self.layer, self.ours = layer, ours
        self.next = 0

    def seconds(self, _: torch.Tensor) -> float:
        names = [str((self.next + i) % PEER_EXPERTS) for i in range(self.ours.sequences)]
        self.next += self.ours.sequences
        return _timed(lambda: self.layer(self.ours.x, adapter_names=names))


class _ConstantLinear(torch.nn.Linear):
    """A linear layer to put adapters on, whose own product costs nothing."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input.new_zeros(len(input), self.out_features)


def peft_layer(a: torch.Tensor, b: torch.Tensor) -> Any:
    """A PEFT LoRA layer with an adapter for each of some experts, named by their positions.

    a: bf16 [n, rank, d_in], b: bf16 [n, rank, d_out].
    """
    import peft

    (count, rank, d_in), d_out = a.shape, b.shape[2]
    with torch.device("meta"):
        base = torch.nn.Sequential(_ConstantLinear(d_in, d_out, bias=False, dtype=torch.bfloat16))
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"])
    model: Any = None
    for i in range(count):
        if model is None:
            model = peft.get_peft_model(base, config, adapter_name=str(i), autocast_adapter_dtype=False)
        else:
            model.add_adapter(str(i), config, autocast_adapter_dtype=False)
    layer = model.base_model.model[0]
    for i in range(count):
        layer.lora_A[str(i)].weight = torch.nn.Parameter(a[i].clone(), requires_grad=False)
        layer.lora_B[str(i)].weight = torch.nn.Parameter(b[i].T.clone(), requires_grad=False)
    return layer.eval()


_Peer = Callable[[torch.Tensor], float]
"""Does its work for the experts at these addresses and gives the seconds it took."""


def _interleaved(ours: _Call, *peers: _Peer) -> list[float]:
    """Median seconds of our call and of each peer's, taken in turns."""
    chosen = ours.chosen(ours.experts.peer_base)
    seconds: list[list[float]] = [[] for _ in range(1 + len(peers))]
    for _ in range(PEER_ROUNDS):
        base = next(chosen)
        for taken, timed in zip(seconds, (ours.seconds, *peers), strict=True):
            taken.append(timed(base))
    return [statistics.median(taken) for taken in seconds]


def _rate_figure(name: str, ours: float, peer: str, theirs: float, bar: float) -> Figure:
    return Figure.at_least(name, 1 / ours, bar / theirs, "/s", peer=peer, peer_value=1 / theirs, ratio=theirs / ours)


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _named(experts: _Experts, sequences: int, k: int = EXPERTS) -> str:
    return f"T = {sequences}, k = {k}, r = {experts.rank}, d = {experts.d}"


def _last_level_cache() -> int:
    """Bytes, as Linux knows it."""
    found = [UNKNOWN_CACHE]
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    if caches:
        found = [int((cache / "size").read_text().strip().removesuffix("K")) << 10 for cache in caches]
    return max(found)

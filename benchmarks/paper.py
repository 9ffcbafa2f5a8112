"""What the CUDA path should cost, worked out on paper: the tables of docs/cuda.md.

    python benchmarks/paper.py [--write docs/cuda.md]

Without --write the tables are printed. With it, each replaces what stands between its two comments in that page,
`<!-- paper: NAME -->` and `<!-- /paper -->`. Nothing is measured and no GPU is needed: the tables follow from data
sheets, from model configurations and from the assumptions below, and are there to be compared with what is measured.

A kernel takes as long as the slowest of: bytes from memory, bytes from L2, arithmetic, and the loads that its warps can
have in flight at once (Little's law: a warp that waits for memory fetches one piece a latency, however idle the memory
is). Its launch comes on top. Attention and the KV cache are left out: adapters don't change them. Bytes are bf16.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from mome_store.store.schema import ExpertSchema

MICRO = 1e-6
WIDTH = 2  # bytes of a bf16

# Assumptions: what no data sheet says.
MEMORY_SHARE = 0.85  # of the sheet's bandwidth: 6.75 of 7.7 TB/s measured on B200, 2.8 of 3.35 on H100 (docs/cuda.md)
L2_OVER_MEMORY = 2.5  # L2's bandwidth over the memory's: 21.2 TB/s measured on B200; 12 TB/s quoted for H100
L2_USABLE = 0.5  # of L2: base weights stream through it all the time, and H100's lies in two halves
MEMORY_LATENCY = 0.5 * MICRO  # H800: 656 cycles, B200: 530 ns
L2_LATENCY = 0.2 * MICRO  # H800: 258 to 414 cycles, B200: 192 ns
IN_FLIGHT = 2048  # bytes a warp has under way: 32 lanes with 4 loads of 16 bytes each
WARPS_PER_SM = 32  # resident at once: half of the limit, as registers allow no more
GRAPH_GAP = 1.5 * MICRO  # between two kernels of a CUDA graph that depend on each other; no source, to be measured
HOST_LAUNCH = 5 * MICRO  # a launch from the host: 4 to 6 us are published
BASE_GEMM_SHARE = 0.7  # of dense bf16 peak, that a large GEMM of the base model reaches
TILE_SHARE = 0.6  # of the rate of mma instructions, that a thin GEMM with gathered rows reaches
WGMMA_SHARE = 0.95  # of peak, that wgmma instructions reach on Hopper (Luo et al., arXiv 2501.12084, section 6.2)
NVME_SHARE = 0.9  # of a drive's sequential rate, with random reads of a record (64 KiB and more) at depth 32
PCIE_SHARE = 0.83  # of the link's rate: 26.2 of 31.5 GB/s for pinned memory on an A100 (docs/cuda.md)
COPY_OVERHEAD = 2 * MICRO  # of one asynchronous copy, on the copy engine; no source, to be measured
CHECK_RATE = 15e9  # bytes/s of crc32c on one core: 32 records of 64 KiB in 140 us (docs/runtime.md)

# Shapes of our kernels.
RANK_WARPS = 4  # that form one rank's inner product in decode: a block of the shrink
BLOCK_WARPS = 4  # of every other block but the fused one's
FUSED_WARPS = 16
COLUMN_TILE = 64  # columns of an expand's block
ROW_TILE, RANK_TILE = 64, 32  # of a block of the shrink in prefill
SPLITS, LEAST_SPLIT = 16, 256  # prefill's shrink cuts d_in into so many parts, if they are not smaller
REDUCED, REDUCED_TILES = 64, 256  # ranks, and ranks times tiles of rows, from which a launch of its own adds the parts
T_TERMS = 2  # TF32 numbers that t, which is fp32, goes into the expand as
FUSED_BYTES = 64 << 10  # factors of a sequence up to which one launch does both


@dataclass(frozen=True)
class Gpu:
    """Dense peaks of a data sheet, in bytes/s and FLOP/s. mma_share: of the tensor peak, what mma.sync can issue."""

    name: str
    memory: float
    l2: float
    sms: int
    fp32: float
    tf32: float
    bf16: float
    mma_share: float
    pcie: float


PCIE4 = 16e9 * 16 / 8 * 128 / 130  # PCI Express Base Specification 4.0: 16 GT/s, 16 lanes, 128b/130b
PCIE5 = 2 * PCIE4  # 5.0: 32 GT/s

# NVIDIA's data sheets of A100, H100 and H200 and the HGX B200 column of Blackwell's, sparse figures halved, as public
# notes that docs/cuda.md names transcribe them. 62.9 %: mean of mma on Hopper (arXiv 2501.12084, section 6.2); the same
# is assumed for B200, whose tcgen05 is to mma what Hopper's wgmma is.
A100 = Gpu("A100 80GB SXM", 2.039e12, 40e6, 108, 19.5e12, 156e12, 312e12, 1.0, PCIE4)
H100 = Gpu("H100 SXM", 3.35e12, 50e6, 132, 67e12, 494.7e12, 989.4e12, 0.629, PCIE5)
H200 = Gpu("H200 SXM", 4.8e12, 50e6, 132, 67e12, 494.7e12, 989.4e12, 0.629, PCIE5)
B200 = Gpu("HGX B200", 7.7e12, 126.5e6, 148, 75e12, 1100e12, 2250e12, 0.629, PCIE5)
GPUS = (A100, H100, H200, B200)


@dataclass(frozen=True)
class Drive:
    name: str
    rate: float  # bytes/s, sequential reads
    latency: float  # s, of one small random read


# Samsung PM9A3 (as announced: 6,500 MB/s; its latency is assumed) and Micron 9550 MAX (specification: 14,000 MB/s,
# typical read latency 60 us).
GEN4 = Drive("Gen4 x4", 6.5e9, 80 * MICRO)
GEN5 = Drive("Gen5 x4", 14e9, 60 * MICRO)


@dataclass(frozen=True)
class Module:
    d_in: int
    d_out: int

    @property
    def bytes(self) -> int:
        return self.d_in * self.d_out * WIDTH


@dataclass(frozen=True)
class Model:
    """A model's config.json: hidden_size, intermediate_size, num_hidden_layers, width of K and V, vocab_size."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    kv: int
    vocab: int

    @property
    def down_proj(self) -> Module:
        return Module(self.intermediate, self.hidden)

    @property
    def modules(self) -> tuple[Module, ...]:
        """q, k, v, o, gate, up, down."""
        h, i = self.hidden, self.intermediate
        wide = Module(h, i)
        return (Module(h, h), Module(h, self.kv), Module(h, self.kv), Module(h, h), wide, wide, self.down_proj)

    @property
    def step_bytes(self) -> int:
        """Weights that one decode step reads: all layers and the output embedding."""
        return self.layers * sum(module.bytes for module in self.modules) + self.hidden * self.vocab * WIDTH


LLAMA_8B = Model("Llama-3-8B", 4096, 14336, 32, 8 * 128, 128256)
LLAMA_70B = Model("Llama-3-70B", 8192, 28672, 80, 8 * 128, 128256)
MODELS = (LLAMA_8B, LLAMA_70B)
LLAMA2_7B = Model("Llama-2-7B", 4096, 11008, 32, 4096, 32000)  # Punica's, to set beside it


@dataclass(frozen=True)
class Kernel:
    """Seconds that one kernel would take for each thing that can bound it, and what was read."""

    memory: float
    l2: float
    arithmetic: float
    in_flight: float

    @property
    def bound(self) -> str:
        return max(("memory", "L2", "arithmetic", "in_flight"), key=lambda what: getattr(self, what.lower()))

    @property
    def seconds(self) -> float:
        return max(self.memory, self.l2, self.arithmetic, self.in_flight)


@dataclass(frozen=True)
class Cost:
    """An adapted module's kernels, one launch each."""

    kernels: tuple[Kernel, ...]
    weight_bytes: float

    @property
    def launches(self) -> int:
        return len(self.kernels)

    @property
    def seconds(self) -> float:
        return self.launches * GRAPH_GAP + sum(kernel.seconds for kernel in self.kernels)

    @property
    def bound(self) -> str:
        slowest = max(self.kernels, key=lambda kernel: kernel.seconds)
        if self.launches * GRAPH_GAP > self.seconds / 2:
            return "launches"
        return slowest.bound.replace("in_flight", "latency")


def kernel(
    gpu: Gpu, first: float, again: float, flops: float, rate: float, warps: float, resident: float = 0
) -> Kernel:
    """A kernel whose `warps` read `first` bytes once and `again` bytes out of L2, and calculate at `rate` FLOP/s.

    resident: of the first, what is in L2 already. Loads of both kinds overlap.
    """
    at_once = min(warps, gpu.sms * WARPS_PER_SM) * IN_FLIGHT
    return Kernel(
        (first - resident) / (gpu.memory * MEMORY_SHARE),
        (first + again) / (gpu.memory * L2_OVER_MEMORY),
        flops / rate,
        max(first * MEMORY_LATENCY, again * L2_LATENCY) / at_once,
    )


def decode(gpu: Gpu, module: Module, k: int, rank: int, rows: int, same: bool = False, split: int = RANK_WARPS) -> Cost:
    """One token for each of `rows` sequences with k experts each: all different, or the same k for all (`same`).

    split: warps that share one rank's inner product in the shrink.
    """
    ranks = k * rank
    a, b = (rows * ranks * d * WIDTH for d in (module.d_in, module.d_out))
    reused = 0.0  # share of the weights that another sequence has brought into L2
    if same and ranks * (module.d_in + module.d_out) * WIDTH <= gpu.l2 * L2_USABLE:
        reused = 1 - 1 / rows
    x, y = rows * module.d_in * WIDTH, 2 * rows * module.d_out * WIDTH
    flops = 2 * rows * ranks
    if ranks * (module.d_in + module.d_out) * WIDTH <= FUSED_BYTES:
        both = flops * (module.d_in + module.d_out)
        fused = kernel(gpu, a + b, x * ranks + y, both, gpu.fp32, rows * FUSED_WARPS, (a + b) * reused)
        return Cost((fused,), a + b)
    x_again = x * ranks  # once a block
    shrink = kernel(gpu, a, x_again, flops * module.d_in, gpu.fp32, rows * ranks * split, a * reused)
    tiles = ceil(module.d_out / COLUMN_TILE)
    t_again = rows * tiles * ranks * 4
    warps = rows * tiles * BLOCK_WARPS
    expand = kernel(gpu, b, t_again + y, flops * module.d_out, gpu.fp32, warps, b * reused)
    return Cost((shrink, expand), a + b)


def prefill(
    gpu: Gpu,
    module: Module,
    ranks: int,
    rows: int,
    share: float | None = None,
    speed: float = 1,
    reduce: bool | None = None,
) -> Cost:
    """`rows` rows of one sequence with `ranks` ranks in all, on tensor cores.

    share: of the tensor peak, that the instructions reach (default: the GPU's mma_share); speed: the rate of the
    shrink's instructions over TF32's. The expand's t is fp32: its instructions are TF32's, and twice as many.
    reduce: a launch of its own adds the partial sums, which otherwise each column tile of the expand does for itself
    (default: as our kernels choose).
    """
    rate = gpu.tf32 * (gpu.mma_share if share is None else share) * TILE_SHARE
    m, n = 16 * ceil(rows / 16), 8 * ceil(ranks / 8)  # what mma m16n8k8 pads to
    row_tiles, rank_tiles = ceil(rows / ROW_TILE), ceil(ranks / RANK_TILE)
    chunks, column_tiles = min(SPLITS, ceil(module.d_in / LEAST_SPLIT)), ceil(module.d_out / COLUMN_TILE)
    a, b = ranks * module.d_in * WIDTH, ranks * module.d_out * WIDTH
    x, y = rows * module.d_in * WIDTH, 2 * rows * module.d_out * WIDTH
    partial = rows * ranks * 4 * chunks

    def too_large(size: float) -> float:  # what a kernel just wrote is in L2 if it fits; else it comes from memory
        return size if size > gpu.l2 * L2_USABLE else 0

    spilled = too_large(x) + too_large(partial)
    again = a * (row_tiles - 1) + x * rank_tiles + partial - spilled
    warps = row_tiles * rank_tiles * chunks * BLOCK_WARPS
    shrink = kernel(gpu, a + spilled, again, 2 * m * n * module.d_in, rate * speed, warps)
    between: tuple[Kernel, ...] = ()
    t = partial
    if reduce is None:
        reduce = ranks >= REDUCED or ranks * row_tiles >= REDUCED_TILES
    if reduce:
        t = rows * ranks * 4
        between = (kernel(gpu, too_large(partial), partial + t, 0, 1, ceil(rows * ranks / 128)),)
    spilled = too_large(y) + too_large(t)
    again = b * (row_tiles - 1) + t * column_tiles + y - spilled
    warps = row_tiles * column_tiles * BLOCK_WARPS
    expand = kernel(gpu, b + spilled, again, 2 * m * n * module.d_out * T_TERMS, rate, warps)
    return Cost((shrink, *between, expand), a + b)


def base_module(gpu: Gpu, module: Module, rows: int) -> float:
    """Seconds of the base model's product: streaming its weights, or its arithmetic."""
    moved = module.bytes + rows * (module.d_in + module.d_out) * WIDTH
    flops = 2 * rows * module.d_in * module.d_out
    return max(moved / (gpu.memory * MEMORY_SHARE), flops / (gpu.bf16 * BASE_GEMM_SHARE))


def base_layer(gpu: Gpu, model: Model, rows: int) -> float:
    return sum(base_module(gpu, module, rows) for module in model.modules)


def base_step(gpu: Gpu, model: Model, rows: int, logits: int) -> float:
    """One pass over the whole model for `rows` rows, of which `logits` want the vocabulary."""
    return model.layers * base_layer(gpu, model, rows) + base_module(gpu, Module(model.hidden, model.vocab), logits)


@dataclass(frozen=True)
class Adapted:
    """Which layers an expert adapts."""

    name: str
    modules: Callable[[Model], tuple[Module, ...]]


THREE = Adapted("down_proj of 3 layers", lambda model: (model.down_proj,) * 3)
EVERY = Adapted("all linear layers", lambda model: model.modules * model.layers)


def record_bytes(modules: Sequence[Module], rank: int) -> int:
    named = {str(number): (module.d_in, module.d_out) for number, module in enumerate(modules)}
    return ExpertSchema(modules=named, rank=rank, dtype="bfloat16", alpha=float(rank)).record_bytes


@dataclass(frozen=True)
class RecordPath:
    """The three stages of a record's way to the GPU, seconds each: drive, checksum on one core, PCIe copy."""

    drive: float
    check: float
    copy: float
    latency: float

    def fetch(self, records: int) -> float:
        """Seconds until the last of `records` that were asked for at once is in its slot: the stages overlap."""
        stages = (self.drive, self.check, self.copy)
        return self.latency + sum(stages) + (records - 1) * max(stages)


def path(drive: Drive, pcie: float, size: int) -> RecordPath:
    copy = COPY_OVERHEAD + size / (pcie * PCIE_SHARE)
    return RecordPath(size / (drive.rate * NVME_SHARE), size / CHECK_RATE, copy, drive.latency)


def number(value: float) -> str:
    """Three digits, more or less: 0.024, 0.61, 5.3, 41, 1,234."""
    for digits, least in ((0, 9.95), (1, 0.995), (2, 0.0995)):
        if abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def percent(value: float) -> str:
    return f"{number(100 * value)} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def us(seconds: float) -> str:
    return number(seconds / MICRO)


def gpus_table() -> str:
    head = ["GPU", "memory TB/s, used", "L2 MB", "FP32 TFLOP/s", "TF32", "TF32 by mma", "bf16", "ridge of mma, FLOP/B"]
    head += [f"{model.name}: layer us, step ms" for model in MODELS]
    rows = []
    for gpu in GPUS:
        memory, mma = gpu.memory * MEMORY_SHARE, gpu.tf32 * gpu.mma_share
        row = [gpu.name, f"{gpu.memory / 1e12:.2f}, {memory / 1e12:.2f}", number(gpu.l2 / 1e6), number(gpu.fp32 / 1e12)]
        row += [number(gpu.tf32 / 1e12), number(mma / 1e12), number(gpu.bf16 / 1e12), number(mma / memory)]
        row += [f"{us(base_layer(gpu, m, 1))}, {number(1e3 * base_step(gpu, m, 1, 1))}" for m in MODELS]
        rows.append(row)
    return table(head, rows)


CASES = [(k, rank) for k in (1, 32) for rank in (1, 4, 16)]


def decode_table() -> str:
    head = ["model", "k", "r", "T", "MB read", "launches", "A100 us", "H100 us", "bound (H100)", "of the base layer"]
    head += ["same experts, H100 us", "by one warp a rank, H100 us"]
    rows = []
    for model in MODELS:
        for k, rank in CASES:
            for t in (1, 8, 64):
                cost, module = decode(H100, model.down_proj, k, rank, t), model.down_proj
                row = [model.name, str(k), str(rank), str(t), number(cost.weight_bytes / 1e6), str(cost.launches)]
                row += [us(decode(A100, module, k, rank, t).seconds), us(cost.seconds), cost.bound]
                row += [percent(cost.seconds / base_layer(H100, model, t))]
                row += [us(decode(H100, module, k, rank, t, same=True).seconds)]
                rows.append([*row, us(decode(H100, module, k, rank, t, split=1).seconds)])
    return table(head, rows)


def step_table() -> str:
    head = ["model", "adapted", "k", "r", "T", "launches", "host ms outside a graph"]
    head += [f"{gpu.name}: ms added, of the step" for gpu in GPUS]
    rows = []
    for model in MODELS:
        for adapted in (THREE, EVERY):
            for k, rank in ((1, 4), (32, 4), (32, 16)):
                for t in (1, 64):
                    costs = {gpu: [decode(gpu, m, k, rank, t) for m in adapted.modules(model)] for gpu in GPUS}
                    launches = sum(cost.launches for cost in costs[H100])
                    row = [model.name, adapted.name, str(k), str(rank), str(t), f"{launches:,}"]
                    row.append(number(1e3 * launches * HOST_LAUNCH))
                    for gpu, all_costs in costs.items():
                        added = sum(cost.seconds for cost in all_costs)
                        share = added / base_step(gpu, model, t, t)
                        row.append(f"{number(1e3 * added)}, {percent(share)}")
                    rows.append(row)
    return table(head, rows)


PREFILLS = [(ranks, rows) for ranks in (4, 32, 128, 512) for rows in (1, 16, 64, 512, 2048)]


def prefill_table() -> str:
    head = ["model", "k·r", "rows", "MB read", "shrink, FLOP/byte", "A100 us", "H100 us", "bound (H100)"]
    head += ["base down_proj us, H100", "adapter over it", "the other way to reduce, H100 us"]
    rows = []
    for model in MODELS:
        for ranks, m in PREFILLS:
            module = model.down_proj
            cost, base = prefill(H100, module, ranks, m), base_module(H100, module, m)
            row = [model.name, str(ranks), str(m), number(cost.weight_bytes / 1e6), number(m * ranks / (m + ranks))]
            row += [us(prefill(A100, module, ranks, m).seconds), us(cost.seconds), cost.bound]
            row += [us(base), f"{number(cost.seconds / base)}x"]
            other = prefill(H100, module, ranks, m, reduce=len(cost.kernels) == 2)
            rows.append([*row, us(other.seconds)])
    return table(head, rows)


def prefill_share(model: Model, adapted: Adapted, ranks: int, rows: int, share: float | None, speed: float) -> float:
    """What the adapters add to the base model's prefill, as a share of it; partial sums reduced in the better way."""

    def best(module: Module) -> float:
        return min(prefill(H100, module, ranks, rows, share, speed, reduce).seconds for reduce in (False, True))

    return sum(best(module) for module in adapted.modules(model)) / base_step(H100, model, rows, 1)


def wgmma_table() -> str:
    """What faster tensor instructions would save of the adapters' time, and of a whole prefill with adapters."""
    head = ["model", "adapted", "k·r", "rows", "added now", "of it, saved by wgmma, TF32", "by mma, bf16 shrink"]
    head += ["by wgmma, bf16 shrink", "of a prefill, saved by the last"]
    rows = []
    for model in MODELS:
        for adapted in (THREE, EVERY):
            for ranks, m in ((4, 2048), (32, 512), (32, 2048), (512, 512), (512, 2048)):
                now = prefill_share(model, adapted, ranks, m, None, 1)
                row = [model.name, adapted.name, str(ranks), str(m), percent(now)]
                variants = ((WGMMA_SHARE, 1), (None, 2), (WGMMA_SHARE, 2))
                saved = [now - prefill_share(model, adapted, ranks, m, *variant) for variant in variants]
                rows.append([*row, *(percent(each / now) for each in saved), percent(saved[-1] / (1 + now))])
    return table(head, rows)


def links_table() -> str:
    head = ["model", "adapted", "r", "record KiB", "experts/s: Gen4", "Gen5", "checksum, a core", "PCIe 4", "PCIe 5"]
    head += ["one miss us, 32: Gen4 and PCIe 4", "Gen5 and PCIe 5", "H100 steps that hide 32 (Gen5)"]
    rows = []
    for model in MODELS:
        for adapted, ranks in ((THREE, (1, 4, 16)), (EVERY, (4, 16))):
            for rank in ranks:
                size = record_bytes(adapted.modules(model), rank)
                old, new = path(GEN4, PCIE4, size), path(GEN5, PCIE5, size)
                row = [model.name, adapted.name, str(rank), number(size / 1024)]
                row += [number(1 / stage) for stage in (old.drive, new.drive, new.check, old.copy, new.copy)]
                row += [f"{us(way.fetch(1))}, {us(way.fetch(32))}" for way in (old, new)]
                rows.append([*row, number(new.fetch(32) / base_step(H100, model, 1, 1))])
    return table(head, rows)


SEQUENCES, ANSWER = 64, 32  # decoded at once, and tokens of an answer


def demand_table() -> str:
    """What 64 sequences with 32 experts each want, if no expert is ever used twice."""
    head = ["model", "adapted", "r", "GPU", "new sequences/s", "experts/s", "GB/s", "Gen4 drives", "Gen5", "of PCIe"]
    rows = []
    for model, gpu in ((LLAMA_8B, A100), (LLAMA_8B, H100), (LLAMA_70B, B200)):
        for adapted, rank in ((THREE, 4), (THREE, 16), (EVERY, 4)):
            added = sum(decode(gpu, module, 32, rank, SEQUENCES).seconds for module in adapted.modules(model))
            step = base_step(gpu, model, SEQUENCES, SEQUENCES) + added
            sequences = SEQUENCES / (ANSWER * step)
            rate = sequences * 32 * record_bytes(adapted.modules(model), rank)
            row = [model.name, adapted.name, str(rank), gpu.name, number(sequences), number(32 * sequences)]
            row += [number(rate / 1e9), *(number(rate / (drive.rate * NVME_SHARE)) for drive in (GEN4, GEN5))]
            rows.append([*row, percent(rate / (gpu.pcie * PCIE_SHARE))])
    return table(head, rows)


def published_table() -> str:
    """Published figures beside what this arithmetic says of the same case, where it can."""
    copied = sum((module.d_in + module.d_out) * 16 * WIDTH for module in LLAMA2_7B.modules) / (PCIE4 * PCIE_SHARE)
    sgmv = " and ".join(us(decode(A100, Module(4096, 4096), 1, 16, rows).seconds) for rows in (1, 64))
    every = sum(decode(A100, module, 1, 16, 32).seconds for module in LLAMA2_7B.modules) * LLAMA2_7B.layers
    step = base_step(H100, LLAMA_8B, 1, 1)
    rows = [
        ["Punica, abstract", "added to a token's latency", "2 ms", f"{number(1e3 * every)} ms (A100, r = 16, T = 32)"],
        ["Punica, figure 8 (a)", "SGMV, distinct adapters, batch 1 and 64, A100", "37 and 116 us", f"{sgmv} us"],
        ["Punica, section 5.2 (a)", "copy of a layer's adapter, PCIe 4", "50 us", f"{us(copied)} us"],
        ["S-LoRA, table 3 (b)", "Llama-7B, r = 8, A100: 5 and 2,000 adapters", "8.05 and 7.61 requests/s", ""],
        ["S-LoRA, table 3 (b)", "the same 5: vLLM with merged weights, PEFT", "2.04 and 0.88 requests/s", ""],
        ["vLLM issue 2829", "A100, long prompts: base, one LoRA (early kernels)", "2.40 and 1.37 requests/s", ""],
        ["vLLM issue 9452", "Qwen2.5-32B, 2 A100, 0.6.2: base, LoRA", "37.9 and 83.6 s for 500 requests", ""],
        ["vLLM pull 11613", "Llama-2-7B, r = 8, A100, ShareGPT, V1 engine", "2,578 output tokens/s", ""],
        ["vLLM pull 32425", "one expand, gpt-oss-20b, r = 16: before, after", "14 and 10 us", ""],
        ["vLLM pull 38432", "gap between shrink and expand, from Python", "5 to 10 us", ""],
        ["cloudai.pt", "Llama-3.1-8B, H100, step: eager, CUDA graph", "8.4 and 5.1 ms", f"{number(1e3 * step)} ms"],
    ]
    return table(["source", "what", "published", "here"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "gpus": gpus_table,
    "decode": decode_table,
    "step": step_table,
    "prefill": prefill_table,
    "wgmma": wgmma_table,
    "links": links_table,
    "demand": demand_table,
    "published": published_table,
}


def rewritten(text: str) -> str:
    """The page with every table computed anew. Raises ValueError where one is missing, or of another name."""
    found = re.findall(r"<!-- paper: (\w+) -->", text)
    if sorted(found) != sorted(TABLES):
        raise ValueError(f"the page has the tables {found}; it should have each of {list(TABLES)} once")
    return re.sub(
        r"(<!-- paper: (\w+) -->\n).*?(<!-- /paper -->)",
        lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="PAGE")
    page: Path | None = parser.parse_args().write
    if page is not None:
        page.write_text(rewritten(page.read_text()))
        return
    for name, compute in TABLES.items():
        print(f"{name}\n\n{compute()}\n")


if __name__ == "__main__":
    main()

"""The arithmetic of docs/cuda.md: its tables are the script's, and the script agrees with what is worked out here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.paper import (
    GEN5,
    H100,
    LLAMA_8B,
    LLAMA_70B,
    PCIE5,
    THREE,
    base_step,
    decode,
    number,
    path,
    prefill,
    record_bytes,
    rewritten,
)

PAGE = Path(__file__).parents[2] / "docs" / "cuda.md"


def test_the_page_has_the_tables_that_the_script_computes() -> None:
    text = PAGE.read_text()
    assert rewritten(text) == text, "run: python benchmarks/paper.py --write docs/cuda.md"


def test_a_table_that_was_changed_is_put_right_and_the_text_around_it_left() -> None:
    text = PAGE.read_text()
    assert rewritten(text.replace("| H100 SXM | 3.35", "| H100 SXM | 9.99").replace("# CUDA", "# Mine", 1)) == (
        text.replace("# CUDA", "# Mine", 1)
    )


def test_a_page_without_one_of_the_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="wgmma"):
        rewritten(PAGE.read_text().replace("<!-- paper: wgmma -->", ""))


def test_a_step_streams_all_parameters_but_the_input_embedding_and_the_norms() -> None:
    # As published: 8,030,261,248 parameters in Llama-3-8B, 70,553,706,496 in 70B.
    assert LLAMA_8B.step_bytes == 2 * (8_030_261_248 - 128_256 * 4096 - 65 * 4096)
    assert LLAMA_70B.step_bytes == 2 * (70_553_706_496 - 128_256 * 8192 - 161 * 8192)
    # 15.01 GB at 85 % of 3.35 TB/s; a row of x and y more for each product is nothing beside it.
    assert base_step(H100, LLAMA_8B, 1, 1) == pytest.approx(5.271e-3, rel=2e-3)


def test_many_experts_are_bound_by_memory() -> None:
    # 64 sequences x 32 experts x 16 ranks x (14,336 + 4,096) x 2 bytes = 1.208 GB at 2.8475 TB/s: 424.2 us; 2 launches.
    cost = decode(H100, LLAMA_8B.down_proj, k=32, rank=16, rows=64)
    assert cost.weight_bytes == 1_207_959_552 and cost.launches == 2 and cost.bound == "memory"
    assert cost.seconds == pytest.approx(427.2e-6, rel=1e-3)


def test_one_expert_waits_for_latency_the_longer_the_fewer_warps_share_a_rank() -> None:
    # One warp would read 28,672 bytes of A, 2,048 at a time: 14 trips of 0.5 us. Four warps: 3.5. B: 128 bytes for each
    # of 4 ranks in 64 blocks of 4 warps, a sixteenth of a trip. 2 launches of 1.5 us.
    module = LLAMA_8B.down_proj
    assert decode(H100, module, 1, 4, 1, split=1).seconds == pytest.approx((7.0 + 0.03125 + 3.0) * 1e-6)
    assert decode(H100, module, 1, 4, 1).seconds == pytest.approx((1.75 + 0.03125 + 3.0) * 1e-6)
    assert decode(H100, module, 1, 1, 1).launches == 1  # 36 KiB of factors: fused
    assert decode(H100, LLAMA_70B.down_proj, 1, 1, 1).launches == 2  # 72 KiB


def test_sequences_with_the_same_experts_cost_l2_while_these_fit_into_half_of_it() -> None:
    # Weights, x once for each of 512 ranks of a sequence, t for each column tile and y through L2 at 2.5 x 3.35 TB/s:
    # shrink 939.5 + 939.5 MB, expand 268.4 + 8.4 + 1.0 MB. 70B's 38 MB a sequence don't fit into 25 MB.
    same = decode(H100, LLAMA_8B.down_proj, 32, 16, 64, same=True)
    assert same.seconds == pytest.approx((1879.0e6 + 277.8e6) / 8.375e12 + 3e-6, rel=3e-3)
    assert decode(H100, LLAMA_70B.down_proj, 32, 16, 64, same=True) == decode(H100, LLAMA_70B.down_proj, 32, 16, 64)


def test_prefill_with_many_ranks_is_bound_by_l2_and_arithmetic_with_few_by_memory() -> None:
    # 2 x 2,048 x 512 x 14,336 FLOP at 494.7 TFLOP/s x 0.629 x 0.6 = 186.7 TFLOP/s; a launch adds the 16 parts.
    shrink, reduce, expand = prefill(H100, LLAMA_8B.down_proj, ranks=512, rows=2048).kernels
    assert shrink.arithmetic == pytest.approx(30.06e9 / 186.7e12, rel=1e-3)
    # t goes in as two terms: 2 x 2 x 2,048 x 512 x 4,096 FLOP.
    assert expand.arithmetic == pytest.approx(17.18e9 / 186.7e12, rel=1e-3)
    # The parts, 2,048 x 512 x 16 floats, don't stay in L2: 67.1 MB from memory, and 4.2 MB written.
    assert reduce.memory == pytest.approx(67.1e6 / 2.8475e12, rel=1e-2)
    assert prefill(H100, LLAMA_8B.down_proj, ranks=4, rows=2048).bound == "memory"
    assert prefill(H100, LLAMA_8B.down_proj, ranks=4, rows=2048).launches == 2


def test_a_miss_takes_the_sum_of_the_stages_and_32_the_slowest_31_times_more() -> None:
    # 3 modules x 4 ranks x 18,432 x 2 bytes and a trailer: 109 pages of 4 KiB. Drive 12.6 GB/s after 60 us, checksum
    # 15 GB/s, copy 2 us and 52.3 GB/s.
    size = record_bytes(THREE.modules(LLAMA_8B), rank=4)
    assert size == 109 * 4096
    way = path(GEN5, PCIE5, size)
    assert way.fetch(1) == pytest.approx((60 + 35.43 + 29.76 + 2 + 8.54) * 1e-6, rel=1e-3)
    assert way.fetch(32) - way.fetch(1) == pytest.approx(31 * 35.43e-6, rel=1e-3)


def test_numbers_keep_about_three_digits() -> None:
    values = [1234.4, 41.2, 9.96, 5.26, 0.996, 0.61, 0.0235]
    assert [number(value) for value in values] == ["1,234", "41", "10", "5.3", "1.0", "0.61", "0.024"]

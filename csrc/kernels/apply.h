// Applies routed experts to the output of a linear layer, on the CPU.
//
// Semantics, for every i in [0, m), with row = row_index[i] and s = row_sequence[i]:
//
//     y[row] += sum over e in [expert_indptr[s], expert_indptr[s + 1]) of
//               expert_weight[e] * (alpha / expert_rank[e]) * B_e (A_e x[row])
//
// A_e [rank, d_in] lies at expert_base[e] + a_offset and B_e transposed [rank, d_out] at expert_base[e] + b_offset.
// The sum is formed in fp32, rank after rank and expert after expert, and y is rounded once; rows whose sequence has no
// expert are not touched. What a row gets depends on that row and its experts alone: not on m, on the other rows, on
// the number of threads or on the run. (It does depend on the instruction set, which sums a dot product in lanes.)
//
// With `accumulate`, y is fp32 and the sum starts from what it holds instead of 0: a route applied in waves of
// consecutive entries, each into the same y that began as zeros, gives bit for bit the sum of one call.
#pragma once

#include <cstdint>

#include "kernels/isa.h"
#include "kernels/matrix.h"
#include "kernels/routed_rows.h"

namespace mome {

struct ApplyArguments {
    Matrix y;                // [n, d_out]
    Matrix x;                // [n, d_in]
    const RoutedRows& rows;  // which of the n
    int64_t a_offset;        // bytes
    int64_t b_offset;        // bytes
    float alpha;
    DType weight_dtype;
    bool accumulate = false;
    int threads = 1;  // at most so many take part, the caller among them; small calls are the caller's alone
};

// Throws SchemaError when a shape, index or offset does not fit, before y is touched. The addresses are the caller's
// word: a live Lease holds them. Any number of threads may call at once.
void apply_experts(const ApplyArguments& arguments, Isa isa);

}  // namespace mome

// What one instruction set does: the shrink (t = A x) and the expand (delta += B t) of a few rows of one sequence with
// a few rows of factors. The driver (apply.cpp) validates, and cuts the work into such blocks.
//
// A "rank" here is one row of A or of B transposed: the factors of a sequence are taken as one list of ranks, whichever
// expert each belongs to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/layout.h"
#include "kernels/isa.h"

namespace mome {

constexpr int64_t kTileRows = 12;    // rows of x
constexpr int64_t kBlockRanks = 32;  // ranks
constexpr int64_t kAheadRanks = 4;   // ranks that come next, to be fetched while the last ones of a block are worked on

// t[q][r] = scale[r] * dot(a[r], x[q])
struct ShrinkBlock {
    int64_t rows;                   // 1 .. kTileRows
    const std::byte* x[kTileRows];  // [rows] of d_in values
    DType x_dtype;
    DType weight_dtype;
    int64_t d_in;
    int64_t ranks;              // 1 .. kBlockRanks
    const std::byte* const* a;  // [ranks + kAheadRanks] of d_in values; the last kAheadRanks are not used, only fetched
    const float* scale;         // [ranks]
    float* t;                   // [rows, ranks]
    int64_t t_stride;
};

// delta[q][j] += sum over r of t[q][r] * b[r][j]
struct ExpandBlock {
    int64_t rows;  // 1 .. kTileRows
    DType weight_dtype;
    int64_t columns;
    int64_t ranks;              // 1 .. kBlockRanks
    const std::byte* const* b;  // [ranks + kAheadRanks] of columns values, as a
    const float* t;             // [rows, ranks]
    int64_t t_stride;
    float* delta;  // [rows, columns]
};

// y[q] = round(y[q] + delta[q])
struct OutputBlock {
    int64_t rows;             // 1 .. kTileRows
    std::byte* y[kTileRows];  // [rows] of columns values
    DType y_dtype;
    int64_t columns;
    const float* delta;  // [rows, columns]
};

struct Kernels {
    void (*shrink)(const ShrinkBlock& block);
    void (*expand)(const ExpandBlock& block);
    void (*add_to_output)(const OutputBlock& block);
    float (*sum)(const float* values, int64_t count);  // reads memory at full speed; count is a multiple of 64
};

// Those of an instruction set; SchemaError when this machine does not run it.
Kernels kernels_of(Isa isa);

Kernels scalar_kernels();
Kernels avx2_kernels();
Kernels avx512_kernels();
Kernels avx512bf16_kernels();

}  // namespace mome

// The kernels for many rows of a sequence. Grids: tiles of the table, from `first` on, by ranks or columns, by splits.
#pragma once

#include <cstddef>

#include "kernels/cuda/arguments.cuh"
#include "kernels/cuda/values.cuh"

namespace mome::cuda {

constexpr int kPrefillThreads = 128;
constexpr int kTileRanks = 32;    // of a block of the shrink:  grid.y = sequence_ranks / kTileRanks
constexpr int kTileColumns = 64;  // of a block of the expand:  grid.y = d_out / kTileColumns
constexpr int kStepValues = 32;   // of d_in, or ranks, that are in one stage

// The shrink's sums over d_in are cut in so many parts at most (grid.z), that few rows keep many blocks busy
// (docs/cuda.md).
constexpr int kMostSplits = 16;
constexpr int kLeastSplitValues = 256;

// How many values a part has. It follows from d_in alone, and so does the order of a sum.
__host__ __device__ constexpr int32_t split_values(int32_t d_in) {
    const int32_t even = (d_in + kMostSplits - 1) / kMostSplits;
    const int32_t whole = (even + kStepValues - 1) / kStepValues * kStepValues;
    return whole < kLeastSplitValues ? kLeastSplitValues : whole;
}
__host__ __device__ constexpr int32_t splits_of(int32_t d_in) {
    return (d_in + split_values(d_in) - 1) / split_values(d_in);
}

constexpr int kReduceThreads = 128;
constexpr int kReduceRows = 8;  // of a block:  grid.y = kTileRows / kReduceRows

constexpr size_t kMostSharedBytes = 48 << 10;  // that a launch may ask for without further ado

struct PrefillKernels {
    void (*shrink)(KernelArguments);
    void (*reduce)(KernelArguments);
    void (*expand)(KernelArguments);
    size_t shrink_shared_bytes;
    size_t expand_shared_bytes;
};

PrefillKernels prefill_kernels(DType x, DType weights);

}  // namespace mome::cuda

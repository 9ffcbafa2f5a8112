// The kernels for a few rows of each sequence. Grids: rows of the table, from `first` on, by the parts of one row.
#pragma once

#include <cstddef>

#include "kernels/cuda/arguments.cuh"
#include "kernels/cuda/values.cuh"

namespace mome::cuda {

constexpr int kDotThreads = 128;    // of the shrink's blocks, one for each rank:  grid.y = ranks
constexpr int kExpandColumns = 64;  // of the expand's blocks:                     grid.y = d_out / kExpandColumns
constexpr int kExpandThreads = 128;
constexpr int kFusedThreads = 512;
constexpr int kFusedRanks = 64;  // of one sequence, at most

struct DecodeKernels {
    void (*shrink)(KernelArguments);
    void (*expand)(KernelArguments);
    void (*fused)(KernelArguments);
    size_t shrink_shared_bytes;
    size_t expand_shared_bytes;
    size_t fused_shared_bytes;
};

DecodeKernels decode_kernels(DType x, DType weights);

}  // namespace mome::cuda

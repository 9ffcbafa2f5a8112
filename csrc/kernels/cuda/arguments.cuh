// What every kernel takes, and how a kernel is launched.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "format/layout.h"
#include "kernels/cuda/tables.h"

namespace mome::cuda {

// Tensors in device memory; strides in values.
struct KernelArguments {
    Tables tables;
    const void* x;  // [n, d_in]
    void* y;        // [n, d_out]
    float* t;       // what the shrink hands to the expand
    int64_t x_stride, y_stride;
    int64_t a_offset, b_offset;  // bytes
    int32_t d_in, d_out;
    int32_t sequence_ranks;  // the most of a sequence: how far rows of t are from each other
    int32_t splits;          // in how many parts t of the prefill is
    int32_t first;           // row or tile of the tables that this launch begins with
    float alpha;
    DType y_dtype;
    bool accumulate;
};

template <class W>
__device__ __forceinline__ const W* factor_row(const RankEntry& rank, int64_t offset, int32_t width) {
    return reinterpret_cast<const W*>(rank.record + offset) + static_cast<int64_t>(rank.index) * width;
}

__device__ __forceinline__ float scale_of(const RankEntry& rank, float alpha) {
    return rank.weight * (alpha / static_cast<float>(rank.expert_ranks));
}

}  // namespace mome::cuda

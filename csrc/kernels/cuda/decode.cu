// A few rows of each sequence: memory-bound, so every weight is read once, in whole lines, by as many loads at a time
// as it takes.
//
//   shrink   a block for each row of A:  t[row, rank] = scale * <a, x[row]>
//   expand   a block for 64 columns:     y[row, column] += sum over ranks, one after the other, of t[row, rank] *
//   b[column] fused    a block for each row does both; where the factors are small, the second launch costs more than
//   it saves
//
// Each sum has one order, whichever kernel forms it: what a row gets does not depend on the choice.
#include "kernels/cuda/decode.cuh"

namespace mome::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFF'FFFF;

// A thread's part of <a, x>, summed up in its warp: thread i of the kDotThreads that form a product has octets i,
// i + kDotThreads, ... in that order; then the sums of a warp are added pair by pair. In every lane of the warp. One
// warp alone would wait for memory seven times as long (docs/cuda.md).
template <class X, class W>
__device__ __forceinline__ float part_of_dot(const W* a, const X* x, int32_t d, int thread) {
    constexpr int kAhead = 4;  // octets of a thread that are on their way at once
    const int32_t octets = d / kOctet;
    float sum = 0;
    for (int32_t first = thread; first < octets; first += kAhead * kDotThreads) {
        Octet<W> weights[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            const int32_t octet = first + i * kDotThreads;
            if (octet < octets) weights[i] = load_octet_streamed(a + octet * kOctet);
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            const int32_t octet = first + i * kDotThreads;
            if (octet >= octets) break;
            const Octet<X> values = load_octet(x + octet * kOctet);
#pragma unroll
            for (int j = 0; j < kOctet; ++j)
                sum = fmaf(to_float(weights[i].values[j]), to_float(values.values[j]), sum);
        }
    }
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(kAllLanes, sum, distance);
    return sum;
}

constexpr int kDotWarps = kDotThreads / kWarp;

// The parts of its warps make the product, always in the same order.
__device__ __forceinline__ float sum_of_parts(const float (&parts)[kDotWarps]) {
    float sum = parts[0];
#pragma unroll
    for (int warp = 1; warp < kDotWarps; ++warp)
        sum += parts[warp];
    return sum;
}

__device__ __forceinline__ float scaled(float sum, const RankEntry& rank, float alpha) {
    return scale_of(rank, alpha) * sum;
}

// What the sum over the ranks starts from, and where it goes.
__device__ __forceinline__ float start_of_sum(const KernelArguments& k, int64_t at) {
    return k.accumulate ? static_cast<const float*>(k.y)[at] : 0.0F;
}

template <class Y>
__device__ __forceinline__ void add_to(void* y, int64_t at, float sum) {
    Y* const value = static_cast<Y*>(y) + at;
    *value = rounded<Y>(to_float(*value) + sum);
}

__device__ __forceinline__ void finish_sum(const KernelArguments& k, int64_t at, float sum) {
    if (k.accumulate) {
        static_cast<float*>(k.y)[at] = sum;
    } else if (k.y_dtype == DType::bfloat16) {
        add_to<Bfloat16>(k.y, at, sum);
    } else if (k.y_dtype == DType::float16) {
        add_to<Float16>(k.y, at, sum);
    } else {
        add_to<float>(k.y, at, sum);
    }
}

struct ShrinkShared {
    float parts[kDotWarps];
};

template <class X, class W>
__global__ void __launch_bounds__(kDotThreads) shrink(const KernelArguments k) {
    const RowEntry row = k.tables.rows[k.first + static_cast<int32_t>(blockIdx.x)];
    const auto rank = static_cast<int32_t>(blockIdx.y);
    if (rank >= row.ranks) return;
    auto& shared = shared_as<ShrinkShared>();
    const auto thread = static_cast<int>(threadIdx.x);
    const RankEntry entry = k.tables.ranks[row.first_rank + rank];
    const X* x = static_cast<const X*>(k.x) + row.row * k.x_stride;
    const float part = part_of_dot(factor_row<W>(entry, k.a_offset, k.d_in), x, k.d_in, thread);
    if (thread % kWarp == 0) shared.parts[thread / kWarp] = part;
    __syncthreads();  // all parts are there
    if (thread == 0) {
        k.t[static_cast<int64_t>(blockIdx.x) * k.sequence_ranks + rank] =
            scaled(sum_of_parts(shared.parts), entry, k.alpha);
    }
}

// A stage of the expand: some ranks of its columns, on their way into shared memory while the stage before is summed.
constexpr int kStageRanks = 32;

template <class W>
struct ExpandStages {
    Octet<W> b[2][kStageRanks][kExpandColumns / kOctet];
    float t[2][kStageRanks];
};

template <class W>
__device__ __forceinline__ void start_stage(ExpandStages<W>& stages, const KernelArguments& k, const RowEntry& row,
                                            int32_t stage, int32_t first_column) {
    const int32_t first = stage * kStageRanks, buffer = stage % 2;
    constexpr int kPerRank = kExpandColumns / kOctet * kPieces<W>;
    for (int i = static_cast<int>(threadIdx.x); i < kStageRanks * kPerRank; i += kExpandThreads) {
        const int32_t rank = first + i / kPerRank;
        if (rank >= row.ranks) break;
        const RankEntry& entry = k.tables.ranks[row.first_rank + rank];
        const int piece = i % kPerRank;
        const W* from = factor_row<W>(entry, k.b_offset, k.d_out) + first_column;
        const bool valid = first_column + piece / kPieces<W> * kOctet < k.d_out;
        copy_async(reinterpret_cast<uint4*>(stages.b[buffer][i / kPerRank]) + piece,
                   valid ? reinterpret_cast<const uint4*>(from) + piece : reinterpret_cast<const uint4*>(from), valid);
    }
    commit_copies();
    const int32_t rank = first + static_cast<int32_t>(threadIdx.x);
    if (threadIdx.x < kStageRanks && rank < row.ranks) {
        stages.t[buffer][threadIdx.x] = k.t[static_cast<int64_t>(blockIdx.x) * k.sequence_ranks + rank];
    }
}

template <class W>
__global__ void __launch_bounds__(kExpandThreads) expand(const KernelArguments k) {
    const RowEntry row = k.tables.rows[k.first + static_cast<int32_t>(blockIdx.x)];
    if (row.ranks == 0) return;
    auto& stages = shared_as<ExpandStages<W>>();
    const int32_t first_column = static_cast<int32_t>(blockIdx.y) * kExpandColumns;
    const int32_t lane_column = static_cast<int32_t>(threadIdx.x), column = first_column + lane_column;
    const bool sums = lane_column < kExpandColumns && column < k.d_out;
    const int64_t at = row.row * k.y_stride + column;
    float sum = sums ? start_of_sum(k, at) : 0.0F;
    const int32_t count = (row.ranks + kStageRanks - 1) / kStageRanks;
    start_stage(stages, k, row, 0, first_column);
    for (int32_t stage = 0; stage < count; ++stage) {
        if (stage + 1 < count) {
            start_stage(stages, k, row, stage + 1, first_column);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();  // the stage is there, whoever copied it
        if (sums) {
            const int32_t ranks = min(kStageRanks, row.ranks - stage * kStageRanks);
            const W* b = stages.b[stage % 2][0][0].values + lane_column;
            for (int32_t rank = 0; rank < ranks; ++rank)
                sum = fmaf(stages.t[stage % 2][rank], to_float(b[rank * kExpandColumns]), sum);
        }
        __syncthreads();  // its buffer may be filled again
    }
    if (sums) finish_sum(k, at, sum);
}

struct FusedShared {
    float parts[kFusedRanks][kDotWarps];
    float t[kFusedRanks];
};

template <class X, class W>
__global__ void __launch_bounds__(kFusedThreads, 2) fused(const KernelArguments k) {
    const RowEntry row = k.tables.rows[k.first + static_cast<int32_t>(blockIdx.x)];
    if (row.ranks == 0) return;
    auto& shared = shared_as<FusedShared>();
    const auto thread = static_cast<int>(threadIdx.x);
    const X* x = static_cast<const X*>(k.x) + row.row * k.x_stride;
    for (int32_t rank = thread / kDotThreads; rank < row.ranks; rank += kFusedThreads / kDotThreads) {
        const RankEntry& entry = k.tables.ranks[row.first_rank + rank];
        const float part = part_of_dot(factor_row<W>(entry, k.a_offset, k.d_in), x, k.d_in, thread % kDotThreads);
        if (thread % kWarp == 0) shared.parts[rank][thread % kDotThreads / kWarp] = part;
    }
    __syncthreads();  // all parts are there
    if (thread < row.ranks) {
        shared.t[thread] = scaled(sum_of_parts(shared.parts[thread]), k.tables.ranks[row.first_rank + thread], k.alpha);
    }
    __syncthreads();  // t is whole
    for (auto octet = static_cast<int32_t>(threadIdx.x); octet < k.d_out / kOctet; octet += kFusedThreads) {
        const int64_t at = row.row * k.y_stride + octet * kOctet;
        float sum[kOctet];
#pragma unroll
        for (int j = 0; j < kOctet; ++j)
            sum[j] = start_of_sum(k, at + j);
#pragma unroll 4
        for (int32_t rank = 0; rank < row.ranks; ++rank) {
            const RankEntry& entry = k.tables.ranks[row.first_rank + rank];
            const Octet<W> b = load_octet_streamed(factor_row<W>(entry, k.b_offset, k.d_out) + octet * kOctet);
#pragma unroll
            for (int j = 0; j < kOctet; ++j)
                sum[j] = fmaf(shared.t[rank], to_float(b.values[j]), sum[j]);
        }
#pragma unroll
        for (int j = 0; j < kOctet; ++j)
            finish_sum(k, at + j, sum[j]);
    }
}

template <class X, class W>
DecodeKernels kernels() {
    return {.shrink = &shrink<X, W>,
            .expand = &expand<W>,
            .fused = &fused<X, W>,
            .shrink_shared_bytes = sizeof(ShrinkShared),
            .expand_shared_bytes = sizeof(ExpandStages<W>),
            .fused_shared_bytes = sizeof(FusedShared)};
}

}  // namespace

DecodeKernels decode_kernels(DType x, DType weights) {
    return for_type(x, [weights](auto in_x) {
        return for_type(weights, [](auto in_weights) { return kernels<decltype(in_x), decltype(in_weights)>(); });
    });
}

}  // namespace mome::cuda

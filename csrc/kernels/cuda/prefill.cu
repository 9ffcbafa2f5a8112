// Many rows of a sequence: tiles of 64 rows on the matrix cores.
//
//   shrink   t[split, row, rank] = scale * <a, x[row]> over the split's part of d_in
//   reduce   t[0, row, rank] += t[1, row, rank] + ...: only where that is worth a launch
//   expand   y[row, column] += sum over ranks of (t[0, row, rank] + t[1, row, rank] + ...) * b[rank, column]
//
// The matrix cores multiply TF32 numbers, which hold every bf16 and fp16 number, and add in fp32. What is stored as
// fp32, and t, goes in as the sum of two TF32 numbers; the product of both small parts, 2^-22 of the whole, is left
// out. TF32 has half of bf16's speed, and that is enough: below some 150 ranks and rows of arithmetic per byte, memory
// is the limit (docs/cuda.md).
#include "kernels/cuda/prefill.cuh"

namespace mome::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpRows = 16;  // a warp's part of a tile
constexpr int kPad = 8;    // values after each row in shared memory: the lanes of a fragment fall on different banks
constexpr int kGroup = 8;  // values that one multiplication sums over, and its columns

static_assert(kTileRows == kPrefillThreads / kWarp * kWarpRows);

// Where a lane's parts of the fragments lie (ptx.cuh). Which values a multiplication takes as its t and t + 4 is free,
// as long as both factors agree: neighbours here, to be loaded together.
struct Lane {
    int warp = static_cast<int>(threadIdx.x) / kWarp;
    int row = static_cast<int>(threadIdx.x) % kWarp / 4;       // g
    int pair = static_cast<int>(threadIdx.x) % kWarp % 4 * 2;  // 2t
};

// c += a b, all products of terms but that of the second ones.
template <int kA, int kB>
__device__ __forceinline__ void multiply_terms(float (&c)[4], const uint32_t (&a)[kA][4], const uint32_t (&b)[kB][2]) {
    multiply_add(c, a[0], b[0]);
    if constexpr (kA == 2) multiply_add(c, a[1], b[0]);
    if constexpr (kB == 2) multiply_add(c, a[0], b[1]);
}

// Fragment values a[row, 2 values] for rows g and g + 8, out of rows of `stride` values.
template <class T>
__device__ __forceinline__ void load_a(uint32_t (&terms)[kTerms<T>][4], const T* at, int stride) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        uint32_t parts[kTerms<T>];
        split<T>(to_float(at[i % 2 * 8 * stride + i / 2]), parts);
#pragma unroll
        for (int term = 0; term < kTerms<T>; ++term)
            terms[term][i] = parts[term];
    }
}

template <class T>
__device__ __forceinline__ void load_b(uint32_t (&terms)[kTerms<T>][2], const T* at, int distance) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        uint32_t parts[kTerms<T>];
        split<T>(to_float(at[i * distance]), parts);
#pragma unroll
        for (int term = 0; term < kTerms<T>; ++term)
            terms[term][i] = parts[term];
    }
}

// Copies a piece of a row; zeros in the place of what comes after the last valid value.
template <class T>
__device__ __forceinline__ void copy_piece(T* to, const T* from, int piece, int32_t valid_values) {
    constexpr int kEach = 16 / static_cast<int>(sizeof(T));
    const bool valid = piece * kEach < valid_values;
    copy_async(to + piece * kEach, valid ? from + piece * kEach : from, valid);
}

constexpr int kShrinkStages = 3;

template <class X, class W>
struct alignas(16) ShrinkStage {
    X x[kTileRows][kStepValues + kPad];
    W a[kTileRanks][kStepValues + kPad];
};

// What a thread copies into every stage: pieces of the same rows of x and of A, which are looked up once.
template <class X, class W>
class ShrinkCopies {
  public:
    __device__ __forceinline__ ShrinkCopies(const KernelArguments& k, const TileEntry& tile, int32_t first_rank,
                                            int32_t first_value) {
#pragma unroll
        for (int i = 0; i < kX; ++i) {
            const int row = min(place(i) / kPerX, tile.rows - 1);
            const int64_t number = k.tables.row_numbers[tile.first_row + row];
            x_[i] = static_cast<const X*>(k.x) + number * k.x_stride + first_value;
        }
#pragma unroll
        for (int i = 0; i < kA; ++i) {
            const int32_t rank = min(first_rank + place(i) / kPerA, tile.ranks - 1);
            a_[i] = factor_row<W>(k.tables.ranks[tile.first_rank + rank], k.a_offset, k.d_in) + first_value;
        }
    }

    // The stage's values begin at `at`, and `values` of them are left.
    __device__ __forceinline__ void start(ShrinkStage<X, W>& stage, int32_t at, int32_t values) const {
#pragma unroll
        for (int i = 0; i < kX; ++i)
            copy_piece(stage.x[place(i) / kPerX], x_[i] + at, place(i) % kPerX, values);
#pragma unroll
        for (int i = 0; i < kA; ++i)
            copy_piece(stage.a[place(i) / kPerA], a_[i] + at, place(i) % kPerA, values);
    }

  private:
    static constexpr int kPerX = kStepValues * static_cast<int>(sizeof(X)) / 16;  // pieces of a row
    static constexpr int kPerA = kStepValues * static_cast<int>(sizeof(W)) / 16;
    static constexpr int kX = kTileRows * kPerX / kPrefillThreads;  // pieces of a thread
    static constexpr int kA = kTileRanks * kPerA / kPrefillThreads;
    static_assert(kX * kPrefillThreads == kTileRows * kPerX && kA * kPrefillThreads == kTileRanks * kPerA);

    __device__ __forceinline__ static int place(int i) { return static_cast<int>(threadIdx.x) + i * kPrefillThreads; }

    const X* x_[kX];
    const W* a_[kA];
};

template <class X, class W>
__global__ void __launch_bounds__(kPrefillThreads) shrink(const KernelArguments k) {
    const TileEntry tile = k.tables.tiles[k.first + static_cast<int32_t>(blockIdx.x)];
    const int32_t first_rank = static_cast<int32_t>(blockIdx.y) * kTileRanks;
    if (tile.rows == 0 || first_rank >= tile.ranks) return;
    auto& stages = shared_as<ShrinkStage<X, W>[kShrinkStages]>();
    const Lane lane;
    const int32_t part = split_values(k.d_in);
    const int32_t first_value = static_cast<int32_t>(blockIdx.z) * part;
    const int32_t values = min(part, k.d_in - first_value);
    const int32_t steps = (values + kStepValues - 1) / kStepValues;
    float sums[kTileRanks / kGroup][4] = {};
    const ShrinkCopies<X, W> copies(k, tile, first_rank, first_value);
    const auto start = [&](int32_t step) {
        if (step < steps) {
            copies.start(stages[step % kShrinkStages], step * kStepValues, values - step * kStepValues);
        }
        commit_copies();  // an empty group where there is no such step: their number is what is waited by
    };
    for (int32_t step = 0; step < kShrinkStages - 1; ++step)
        start(step);
    for (int32_t step = 0; step < steps; ++step) {
        wait_copies<kShrinkStages - 2>();
        __syncthreads();  // the step's stage is there, and nobody uses the one before any more
        start(step + kShrinkStages - 1);
        const ShrinkStage<X, W>& stage = stages[step % kShrinkStages];
#pragma unroll
        for (int at = 0; at < kStepValues; at += kGroup) {
            uint32_t x[kTerms<X>][4];
            load_a(x, &stage.x[lane.warp * kWarpRows + lane.row][at + lane.pair], kStepValues + kPad);
#pragma unroll
            for (int group = 0; group < kTileRanks / kGroup; ++group) {
                uint32_t a[kTerms<W>][2];
                load_b(a, &stage.a[group * kGroup + lane.row][at + lane.pair], 1);
                multiply_terms(sums[group], x, a);
            }
        }
    }
    float* const t = k.t + (static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x) * kTileRows * k.sequence_ranks;
#pragma unroll
    for (int group = 0; group < kTileRanks / kGroup; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = lane.warp * kWarpRows + lane.row + i / 2 * 8;
            const int32_t rank = first_rank + group * kGroup + lane.pair + i % 2;
            if (row >= tile.rows || rank >= tile.ranks) continue;
            t[static_cast<int64_t>(row) * k.sequence_ranks + rank] =
                scale_of(k.tables.ranks[tile.first_rank + rank], k.alpha) * sums[group][i];
        }
    }
}

__device__ __forceinline__ float whole_of(const KernelArguments& k, const float* part, int64_t distance) {
    float whole = 0;
    for (int32_t split = 0; split < k.splits; ++split)
        whole += part[split * distance];
    return whole;
}

__global__ void __launch_bounds__(kReduceThreads) reduce(const KernelArguments k) {
    const TileEntry tile = k.tables.tiles[k.first + static_cast<int32_t>(blockIdx.x)];
    const int64_t distance = static_cast<int64_t>(gridDim.x) * kTileRows * k.sequence_ranks;
    const int32_t first_row = static_cast<int32_t>(blockIdx.y) * kReduceRows;
    for (int32_t row = first_row; row < min(first_row + kReduceRows, tile.rows); ++row) {
        float* const t = k.t + (static_cast<int64_t>(blockIdx.x) * kTileRows + row) * k.sequence_ranks;
#pragma unroll 1
        for (auto rank = static_cast<int32_t>(threadIdx.x); rank < tile.ranks; rank += kReduceThreads)
            t[rank] = whole_of(k, t + rank, distance);
    }
}

template <class W>
struct ExpandShared {
    struct Stages {
        float t[kTileRows][kStepValues + kPad];
        W b[2][kStepValues][kTileColumns + kPad];
    };
    union {
        Stages stages;
        float sums[kTileRows][kTileColumns + kPad];  // when all is summed up
    };
};

template <class W>
__device__ __forceinline__ void start_expand_stage(W (&stage)[kStepValues][kTileColumns + kPad],
                                                   const KernelArguments& k, const TileEntry& tile, int32_t first_rank,
                                                   int32_t first_column) {
    constexpr int kPerRank = kTileColumns * static_cast<int>(sizeof(W)) / 16;
    for (int i = static_cast<int>(threadIdx.x); i < kStepValues * kPerRank; i += kPrefillThreads) {
        const int32_t rank = first_rank + i / kPerRank;
        const RankEntry& entry = k.tables.ranks[tile.first_rank + min(rank, tile.ranks - 1)];
        copy_piece(stage[i / kPerRank], factor_row<W>(entry, k.b_offset, k.d_out) + first_column, i % kPerRank,
                   rank < tile.ranks ? k.d_out - first_column : 0);
    }
    commit_copies();
}

template <class Y>
__device__ __forceinline__ void add_octet(void* y, int64_t at, const float* sums) {
    auto* const place = reinterpret_cast<Octet<Y>*>(static_cast<Y*>(y) + at);
    Octet<Y> values = *place;
#pragma unroll
    for (int j = 0; j < kOctet; ++j)
        values.values[j] = rounded<Y>(to_float(values.values[j]) + sums[j]);
    *place = values;
}

template <class W>
__global__ void __launch_bounds__(kPrefillThreads) expand(const KernelArguments k) {
    const TileEntry tile = k.tables.tiles[k.first + static_cast<int32_t>(blockIdx.x)];
    if (tile.rows == 0) return;
    auto& shared = shared_as<ExpandShared<W>>();
    const Lane lane;
    const int32_t first_column = static_cast<int32_t>(blockIdx.y) * kTileColumns;
    const int32_t steps = (tile.ranks + kStepValues - 1) / kStepValues;
    const float* const t = k.t + static_cast<int64_t>(blockIdx.x) * kTileRows * k.sequence_ranks;
    const int64_t split_distance = static_cast<int64_t>(gridDim.x) * kTileRows * k.sequence_ranks;
    float sums[kTileColumns / kGroup][4] = {};
    start_expand_stage(shared.stages.b[0], k, tile, 0, first_column);
    for (int32_t step = 0; step < steps; ++step) {
        if (step + 1 < steps) {
            start_expand_stage(shared.stages.b[(step + 1) % 2], k, tile, (step + 1) * kStepValues, first_column);
        }
        for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kStepValues; i += kPrefillThreads) {
            const int row = i / kStepValues;
            const int32_t rank = step * kStepValues + i % kStepValues;
            const float* const parts = t + static_cast<int64_t>(row) * k.sequence_ranks + rank;
            const bool valid = row < tile.rows && rank < tile.ranks;
            shared.stages.t[row][i % kStepValues] = valid ? whole_of(k, parts, split_distance) : 0.0F;
        }
        if (step + 1 < steps) {
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();  // the step's b and t are there
#pragma unroll
        for (int at = 0; at < kStepValues; at += kGroup) {
            uint32_t terms[kTerms<float>][4];
            load_a(terms, &shared.stages.t[lane.warp * kWarpRows + lane.row][at + lane.pair], kStepValues + kPad);
#pragma unroll
            for (int group = 0; group < kTileColumns / kGroup; ++group) {
                uint32_t b[kTerms<W>][2];
                load_b(b, &shared.stages.b[step % 2][at + lane.pair][group * kGroup + lane.row], kTileColumns + kPad);
                multiply_terms(sums[group], terms, b);
            }
        }
        __syncthreads();  // they may be overwritten
    }
#pragma unroll
    for (int group = 0; group < kTileColumns / kGroup; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = lane.warp * kWarpRows + lane.row + i / 2 * 8;
            shared.sums[row][group * kGroup + lane.pair + i % 2] = sums[group][i];
        }
    }
    __syncthreads();  // whole rows go to y
    for (int i = static_cast<int>(threadIdx.x); i < tile.rows * kTileColumns / kOctet; i += kPrefillThreads) {
        const int row = i / (kTileColumns / kOctet), column = i % (kTileColumns / kOctet) * kOctet;
        if (first_column + column >= k.d_out) continue;
        const int64_t at = k.tables.row_numbers[tile.first_row + row] * k.y_stride + first_column + column;
        if (k.y_dtype == DType::bfloat16) {
            add_octet<Bfloat16>(k.y, at, &shared.sums[row][column]);
        } else if (k.y_dtype == DType::float16) {
            add_octet<Float16>(k.y, at, &shared.sums[row][column]);
        } else {
            add_octet<float>(k.y, at, &shared.sums[row][column]);
        }
    }
}

template <class X, class W>
PrefillKernels kernels() {
    static_assert(kShrinkStages * sizeof(ShrinkStage<X, W>) <= kMostSharedBytes &&
                  sizeof(ExpandShared<W>) <= kMostSharedBytes);
    return {.shrink = &shrink<X, W>,
            .reduce = &reduce,
            .expand = &expand<W>,
            .shrink_shared_bytes = kShrinkStages * sizeof(ShrinkStage<X, W>),
            .expand_shared_bytes = sizeof(ExpandShared<W>)};
}

}  // namespace

PrefillKernels prefill_kernels(DType x, DType weights) {
    return for_type(x, [weights](auto in_x) {
        return for_type(weights, [](auto in_weights) { return kernels<decltype(in_x), decltype(in_weights)>(); });
    });
}

}  // namespace mome::cuda

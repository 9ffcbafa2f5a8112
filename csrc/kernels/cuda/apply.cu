#include "kernels/cuda/apply.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "device/cuda/cuda_check.h"
#include "format/errors.h"
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/prefill.cuh"

namespace mome::cuda {
namespace {

// A launch of its own costs some 2 us. Up to so many bytes of one row's factors, one block has read them by then.
constexpr int64_t kFusedBytes = 64 << 10;
// Every column tile of the expand reads the parts of t. For so many ranks, or for so many ranks times tiles of rows, it
// is worth a launch of its own to add them up once (docs/cuda.md); the sums are the same.
constexpr int32_t kReducedRanks = 64;
constexpr int64_t kReducedRankTiles = 256;
constexpr int64_t kWorkspaceValues = 8 << 20;  // 32 MiB of t at a time

void require(bool holds, const char* what) {
    if (!holds) throw SchemaError(what);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// Rows, or tiles, whose t fits the workspace.
int32_t rows_at_once(const TableCapacity& capacity) {
    const int64_t fitting = std::max<int64_t>(1, kWorkspaceValues / std::max(1, capacity.sequence_ranks));
    return static_cast<int32_t>(std::min<int64_t>(capacity.rows, fitting));
}
int64_t tile_values(const TableCapacity& capacity, int64_t d_in) {
    return int64_t{kTileRows} * capacity.sequence_ranks * splits_of(static_cast<int32_t>(d_in));
}
int32_t tiles_at_once(const TableCapacity& capacity, int64_t d_in) {
    const int64_t fitting = std::max<int64_t>(1, kWorkspaceValues / std::max<int64_t>(1, tile_values(capacity, d_in)));
    return static_cast<int32_t>(std::min<int64_t>(capacity.tiles, fitting));
}

bool on_boundary(const Matrix& matrix) {
    const int64_t row_bytes = matrix.stride * bytes_of(matrix.dtype);
    return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && (matrix.rows <= 1 || row_bytes % 16 == 0);
}

void validate(const ApplyArguments& a) {
    check_shape({.y = a.y,
                 .x = a.x,
                 .last_row = a.last_row,
                 .highest_rank = a.highest_rank,
                 .a_offset = a.a_offset,
                 .b_offset = a.b_offset,
                 .weight_dtype = a.weight_dtype,
                 .accumulate = a.accumulate});
    require(std::max(a.x.columns, a.y.columns) <= std::numeric_limits<int32_t>::max() / 2,
            "d_in or d_out is too large");
    require(a.capacity.sequence_ranks <= 65535 && ceil_div(a.y.columns, kExpandColumns) <= 65535,
            "the ranks of a sequence, or d_out, are more than a grid holds");
    require(on_boundary(a.y), "the rows of y must begin at multiples of 16 bytes");
    require(on_boundary(a.x), "the rows of x must begin at multiples of 16 bytes");
    require(reinterpret_cast<uintptr_t>(a.tables) % 256 == 0, "the tables must begin at a multiple of 256 bytes");
    require(reinterpret_cast<uintptr_t>(a.workspace.data()) % 16 == 0 &&
                a.workspace.size() >= workspace_bytes(a.capacity, a.x.columns),
            "the workspace is too small or not at a multiple of 16 bytes");
}

// Launches in a stream of a device, which is current while this lives.
class Launcher {
  public:
    Launcher(int device, cudaStream_t stream) : name_("cuda:" + std::to_string(device)), stream_(stream) {
        check(name_, "cudaGetDevice", cudaGetDevice(&before_));
        if (before_ != device) check(name_, "cudaSetDevice", cudaSetDevice(device));
        moved_ = before_ != device;
    }
    ~Launcher() {
        if (moved_) ignore(cudaSetDevice(before_));
    }
    Launcher(const Launcher&) = delete;
    Launcher& operator=(const Launcher&) = delete;

    void operator()(void (*kernel)(KernelArguments), dim3 grid, int threads, size_t shared_bytes,
                    const KernelArguments& arguments) const {
        cudaLaunchConfig_t config{};
        config.gridDim = grid;
        config.blockDim = dim3(static_cast<unsigned>(threads));
        config.dynamicSmemBytes = shared_bytes;
        config.stream = stream_;
        check(name_, "cudaLaunchKernelEx", cudaLaunchKernelEx(&config, kernel, arguments));
    }

  private:
    std::string name_;
    cudaStream_t stream_;
    int before_ = 0;
    bool moved_ = false;
};

dim3 grid_of(int64_t x, int64_t y = 1, int64_t z = 1) {
    return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

void decode(const Launcher& launch, const ApplyArguments& a, KernelArguments k) {
    const DecodeKernels kernels = decode_kernels(a.x.dtype, a.weight_dtype);
    const int64_t ranks = a.capacity.sequence_ranks;
    const int64_t row_bytes = ranks * (a.x.columns + a.y.columns) * bytes_of(a.weight_dtype);
    if (ranks <= kFusedRanks && row_bytes <= kFusedBytes) {
        launch(kernels.fused, grid_of(a.capacity.rows), kFusedThreads, kernels.fused_shared_bytes, k);
        return;
    }
    const int32_t step = rows_at_once(a.capacity);
    for (; k.first < a.capacity.rows; k.first += step) {
        const int32_t rows = std::min(step, a.capacity.rows - k.first);
        launch(kernels.shrink, grid_of(rows, ranks), kDotThreads, kernels.shrink_shared_bytes, k);
        launch(kernels.expand, grid_of(rows, ceil_div(a.y.columns, kExpandColumns)), kExpandThreads,
               kernels.expand_shared_bytes, k);
    }
}

void prefill(const Launcher& launch, const ApplyArguments& a, KernelArguments k) {
    const PrefillKernels kernels = prefill_kernels(a.x.dtype, a.weight_dtype);
    const int32_t step = tiles_at_once(a.capacity, a.x.columns), splits = splits_of(k.d_in);
    for (; k.first < a.capacity.tiles; k.first += step) {
        k.splits = splits;
        const int32_t tiles = std::min(step, a.capacity.tiles - k.first);
        const int32_t ranks = a.capacity.sequence_ranks;
        const bool worth_reducing = ranks >= kReducedRanks || int64_t{ranks} * tiles >= kReducedRankTiles;
        launch(kernels.shrink, grid_of(tiles, ceil_div(a.capacity.sequence_ranks, kTileRanks), splits), kPrefillThreads,
               kernels.shrink_shared_bytes, k);
        if (splits > 1 && worth_reducing) {
            launch(kernels.reduce, grid_of(tiles, kTileRows / kReduceRows), kReduceThreads, 0, k);
            k.splits = 1;
        }
        launch(kernels.expand, grid_of(tiles, ceil_div(a.y.columns, kTileColumns)), kPrefillThreads,
               kernels.expand_shared_bytes, k);
    }
}

}  // namespace

size_t workspace_bytes(const TableCapacity& capacity, int64_t d_in) {
    const int64_t decoded = int64_t{rows_at_once(capacity)} * capacity.sequence_ranks;
    const int64_t prefilled = int64_t{tiles_at_once(capacity, d_in)} * tile_values(capacity, d_in);
    return static_cast<size_t>(std::max(decoded, prefilled)) * sizeof(float);
}

void apply_experts(const ApplyArguments& a, int device, cudaStream_t stream) {
    validate(a);
    const KernelArguments k{.tables = tables_at(a.tables, a.capacity),
                            .x = a.x.data,
                            .y = a.y.data,
                            .t = reinterpret_cast<float*>(a.workspace.data()),
                            .x_stride = a.x.stride,
                            .y_stride = a.y.stride,
                            .a_offset = a.a_offset,
                            .b_offset = a.b_offset,
                            .d_in = static_cast<int32_t>(a.x.columns),
                            .d_out = static_cast<int32_t>(a.y.columns),
                            .sequence_ranks = a.capacity.sequence_ranks,
                            .splits = 1,
                            .first = 0,
                            .alpha = a.alpha,
                            .y_dtype = a.y.dtype,
                            .accumulate = a.accumulate};
    const Launcher launch(device, stream);
    if (a.capacity.rows > 0) decode(launch, a, k);
    if (a.capacity.tiles > 0) prefill(launch, a, k);
}

std::vector<KernelLaunch> kernel_launches() {
    const std::pair<DType, std::string> dtypes[] = {
        {DType::bfloat16, "bf16"}, {DType::float16, "fp16"}, {DType::float32, "fp32"}};
    std::vector<KernelLaunch> all{{"prefill reduce", kReduceThreads, 0}};
    for (const auto& [weights, w] : dtypes) {
        const DecodeKernels decode = decode_kernels(weights, weights);
        const PrefillKernels prefill = prefill_kernels(weights, weights);
        all.push_back({"decode expand<" + w + ">", kExpandThreads, decode.expand_shared_bytes});
        all.push_back({"prefill expand<" + w + ">", kPrefillThreads, prefill.expand_shared_bytes});
        for (const auto& [values, x] : dtypes) {
            const std::string both = "<" + x + ", " + w + ">";
            all.push_back({"decode shrink" + both, kDotThreads, decode.shrink_shared_bytes});
            all.push_back({"decode fused" + both, kFusedThreads, decode.fused_shared_bytes});
            all.push_back(
                {"prefill shrink" + both, kPrefillThreads, prefill_kernels(values, weights).shrink_shared_bytes});
        }
    }
    return all;
}

std::string_view architectures() {
#ifdef MOME_CUDA_ARCHITECTURES
    return MOME_CUDA_ARCHITECTURES;
#else
    return "";
#endif
}

}  // namespace mome::cuda

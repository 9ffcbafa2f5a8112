// Kernel launches: the limits that a launch is checked against.
#include <algorithm>
#include <utility>

#include "fibers.h"
#include "state.h"

namespace standin {
namespace {

constexpr size_t kShared = 48 << 10;
constexpr size_t kSharedOptin = 227 << 10;
constexpr size_t kSharedOfMultiprocessor = 228 << 10;
constexpr size_t kReserved = 1 << 10;  // of shared memory, for each block

cudaError_t check(const State& s, const cudaLaunchConfig_t& config, const void* kernel) {
    const dim3 grid = config.gridDim;
    const dim3 block = config.blockDim;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0) {
        return cudaErrorInvalidConfiguration;
    }
    if (grid.x > 0x7FFFFFFFU || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
    if (block.x > 1024 || block.y > 1024 || block.z > 64) return cudaErrorInvalidConfiguration;
    if (size_t{block.x} * block.y * block.z > 1024) return cudaErrorInvalidConfiguration;
    const auto raised = s.shared_limits.find(kernel);
    const size_t limit =
        raised == s.shared_limits.end() ? kShared : std::max<size_t>(kShared, static_cast<size_t>(raised->second));
    if (config.dynamicSmemBytes > limit) return cudaErrorInvalidValue;
    for (unsigned i = 0; i < config.numAttrs; ++i) {
        const cudaLaunchAttributeID id = config.attrs[i].id;
        if (id != cudaLaunchAttributeIgnore && id != cudaLaunchAttributeProgrammaticStreamSerialization &&
            id != cudaLaunchAttributePriority) {
            return cudaErrorNotSupported;  // by the stand-in: blocks do not run side by side
        }
    }
    return cudaSuccess;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread_body) {
    return call("cudaLaunchKernelEx", kPlain, [&](State& s, Lock&) {
        const auto stream = find_stream(s, config.stream);
        if (!stream) return cudaErrorInvalidResourceHandle;
        if (stream->device != current_device()) {
            violate(s, "a kernel is launched in a stream of another device");
            return cudaErrorInvalidResourceHandle;
        }
        if (const cudaError_t error = check(s, config, kernel); error != cudaSuccess) return error;
        auto body = [grid = config.gridDim, block = config.blockDim, shared = config.dynamicSmemBytes,
                     each = std::move(thread_body)] { run_grid(grid, block, shared, each); };
        return submit(s, stream, {.work = std::move(body), .touches_all = true});
    });
}

}  // namespace standin

using namespace standin;

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    return call("cudaFuncSetAttribute", kPlain, [&](State& s, Lock&) {
        if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
        if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
        if (value < 0 || static_cast<size_t>(value) > kSharedOptin) return cudaErrorInvalidValue;
        s.shared_limits[kernel] = value;
        return cudaSuccess;
    });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int block_threads,
                                                          size_t dynamic_shared_bytes) {
    return call("cudaOccupancyMaxActiveBlocksPerMultiprocessor", kPlain, [&](State&, Lock&) {
        if (block_threads < 1) return cudaErrorInvalidValue;
        const int by_threads = block_threads > 1024 ? 0 : 2048 / ((block_threads + 31) / 32 * 32);
        const auto by_memory = static_cast<int>(kSharedOfMultiprocessor / (dynamic_shared_bytes + kReserved));
        *blocks = std::min({32, by_threads, dynamic_shared_bytes > kSharedOptin ? 0 : by_memory});
        return cudaSuccess;
    });
}

#include "kernels/read_bandwidth.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>

#include "format/errors.h"
#include "kernels/isa.h"
#include "kernels/kernels.h"
#include "kernels/thread_pool.h"

namespace mome {

double read_bandwidth(std::span<const float> memory, int threads) {
    constexpr int64_t kTaskValues = 1 << 18;  // 1 MiB: long streams, and no thread is done much before the others
    const auto values = static_cast<int64_t>(memory.size());
    if (values < kTaskValues || threads < 1) {
        throw SchemaError("read_bandwidth needs at least 1 MiB of memory and one thread");
    }
    const Kernels kernels = kernels_of(best_isa());
    const auto body = [&](size_t, int64_t task) { kernels.sum(memory.data() + task * kTaskValues, kTaskValues); };
    const std::array<int64_t, 1> tasks{values / kTaskValues};
    const auto start = std::chrono::steady_clock::now();
    run_phases(threads, tasks, PhaseTask(body));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return static_cast<double>(tasks[0] * kTaskValues) * sizeof(float) / elapsed.count();
}

}  // namespace mome

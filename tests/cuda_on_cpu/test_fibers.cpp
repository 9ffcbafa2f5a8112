// The threads of a grid as fibers: what works on a GPU works, and what only works by luck there does not.
#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "check.h"
#include "device_builtins.h"
#include "fibers.h"
#include "values.h"

using namespace standin;

namespace {

struct Shared {
    int values[256];
};

Shared& shared() {
    return *reinterpret_cast<Shared*>(dynamic_shared());
}

// Each thread writes its number and reads its neighbour's; `synchronise` says whether there is a barrier between.
std::vector<int> neighbours(unsigned threads, bool synchronise) {
    std::vector<int> found(threads);
    run_grid({1, 1, 1}, {threads, 1, 1}, sizeof(Shared), [&] {
        const unsigned i = threadIdx.x;
        shared().values[i] = static_cast<int>(i);
        if (synchronise) __syncthreads();
        found[i] = shared().values[(i + 1) % threads];
    });
    return found;
}

bool right(const std::vector<int>& found) {
    for (size_t i = 0; i < found.size(); ++i) {
        if (found[i] != static_cast<int>((i + 1) % found.size())) return false;
    }
    return true;
}

}  // namespace

TEST("a barrier makes what was written before it seen after it; without it, it is not") {
    for (const unsigned threads : {2U, 31U, 32U, 33U, 256U}) {
        CHECK(right(neighbours(threads, true)));
        CHECK(!right(neighbours(threads, false)));
    }
}

TEST("a missing second barrier of a loop shows") {
    for (const bool second : {true, false}) {
        std::array<int, 64> sums{};
        run_grid({1, 1, 1}, {64, 1, 1}, sizeof(Shared), [&] {
            const unsigned i = threadIdx.x;
            for (int round = 0; round < 4; ++round) {
                shared().values[i] = round;
                __syncthreads();
                sums[i] += shared().values[63 - i];
                if (second) __syncthreads();
            }
        });
        CHECK(std::ranges::all_of(sums, [](int sum) { return sum == 6; }) == second);
    }
}

TEST("every thread of every block runs once, in an order that follows from the seed") {
    const auto order_of = [](uint64_t seed) {
        set_fiber_seed(seed);
        std::vector<unsigned> order;
        run_grid({3, 2, 2}, {4, 2, 1}, 0, [&] {
            const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
            order.push_back(block * 8 + threadIdx.y * blockDim.x + threadIdx.x);
        });
        return order;
    };
    const auto order = order_of(5);
    CHECK(std::set(order.begin(), order.end()).size() == 96 && order.size() == 96);
    CHECK(order == order_of(5));
    CHECK(order != order_of(6));
    CHECK(!std::ranges::is_sorted(order));
}

TEST("lanes exchange values, again and again, whatever their order") {
    std::array<unsigned, 64> found{};
    run_grid({1, 1, 1}, {64, 1, 1}, 0, [&] {
        unsigned value = threadIdx.x;
        for (int distance = 16; distance > 0; distance /= 2)
            value += __shfl_xor_sync(0xFFFF'FFFF, value, distance);
        found[threadIdx.x] = value;
    });
    for (unsigned i = 0; i < 64; ++i)
        CHECK(found[i] == (i < 32 ? 31 * 32 / 2 : 32 * 32 + 31 * 32 / 2));
}

TEST("part of a warp may exchange while the rest has returned, not with it") {
    unsigned found = 0;
    run_grid({1, 1, 1}, {32, 1, 1}, 0, [&] {
        if (threadIdx.x >= 2) return;
        const unsigned other = __shfl_xor_sync(3, threadIdx.x + 7, 1);
        if (threadIdx.x == 0) found = other;
    });
    CHECK(found == 8);
    const auto with_returned = [] {
        run_grid({1, 1, 1}, {32, 1, 1}, 0, [] {
            if (threadIdx.x < 2) static_cast<void>(__shfl_xor_sync(7, threadIdx.x + 0, 1));
        });
    };
    CHECK_THROWS(KernelError, with_returned());
}

TEST("lanes of a warp are not in lockstep") {
    for (const bool synchronise : {true, false}) {
        std::array<int, 32> found{};
        run_grid({1, 1, 1}, {32, 1, 1}, sizeof(Shared), [&] {
            shared().values[threadIdx.x] = 1;
            if (synchronise) __syncwarp();
            found[threadIdx.x] = shared().values[31 - threadIdx.x];
        });
        CHECK(std::ranges::all_of(found, [](int value) { return value == 1; }) == synchronise);
    }
}

TEST("threads that wait at different barriers, or for threads that never come, are an error") {
    const auto different = [] {
        run_grid({1, 1, 1}, {64, 1, 1}, 0, [] {
            if (threadIdx.x < 32) {
                __syncthreads();
            } else {
                __syncthreads();
            }
        });
    };
    CHECK_THROWS(KernelError, different());
    const auto never = [] {
        run_grid({1, 1, 1}, {64, 1, 1}, 0, [] {
            if (threadIdx.x == 0) {
                __syncwarp();
            } else {
                __syncthreads();
            }
        });
    };
    CHECK_THROWS(KernelError, never());
    CHECK(right(neighbours(64, true)));  // and afterwards all is as before
}

TEST("threads that have returned are not waited for") {
    std::array<int, 64> found{};
    run_grid({1, 1, 1}, {64, 1, 1}, sizeof(Shared), [&] {
        if (threadIdx.x % 2 == 1) return;
        shared().values[threadIdx.x] = 1;
        __syncthreads();
        found[threadIdx.x] = shared().values[62 - threadIdx.x];
    });
    CHECK(std::ranges::count(found, 1) == 32);
}

TEST("an error of one thread ends the grid") {
    const auto failing = [] {
        run_grid({2, 1, 1}, {64, 1, 1}, 0, [] {
            if (threadIdx.x == 40) require_aligned(reinterpret_cast<void*>(8), 16);
            __syncthreads();
        });
    };
    CHECK_THROWS(KernelError, failing());
}

TEST("asynchronous copies come when they are waited for, group after group, and not before") {
    alignas(16) const std::array<int, 8> from{1, 2, 3, 4, 5, 6, 7, 8};
    alignas(16) std::array<int, 8> to{};
    std::vector<int> seen;
    run_grid({1, 1, 1}, {1, 1, 1}, 0, [&] {
        AsyncCopies& copies = copies_of_thread();
        copies.add(&to[0], &from[0], true);
        copies.commit();
        copies.add(&to[4], &from[4], true);
        copies.commit();
        seen.push_back(to[0]);
        copies.wait(1);
        seen.insert(seen.end(), {to[0], to[4]});
        copies.wait(0);
        seen.push_back(to[4]);
        copies.add(&to[0], &from[0], false);
        copies.commit();
        copies.wait(0);
        seen.push_back(to[0]);
    });
    CHECK((seen == std::vector<int>{0, 1, 0, 5, 0}));
}

TEST("16-bit numbers round to nearest, ties to even, as the compiler has them") {
    for (uint32_t bits = 0; bits < 0x8000; ++bits) {
        const auto half = static_cast<uint16_t>(bits);
        const float value = float_of_half(half);
        if (std::isnan(value)) continue;
        CHECK(value == static_cast<float>(std::bit_cast<_Float16>(half)));
        CHECK(half_of_float(value) == half);
    }
    for (uint32_t step = 0; step < 100'000; ++step) {
        const float value = std::bit_cast<float>(step * 42'949U);
        if (!std::isfinite(value)) continue;
        CHECK(half_of_float(value) == std::bit_cast<uint16_t>(static_cast<_Float16>(value)));
        CHECK(half_of_float(-value) == std::bit_cast<uint16_t>(static_cast<_Float16>(-value)));
    }
    CHECK(bfloat16_of_float(std::bit_cast<float>(0x3F80'8000U)) == 0x3F80);
    CHECK(bfloat16_of_float(std::bit_cast<float>(0x3F81'8000U)) == 0x3F82);
    CHECK(tf32_of_float(std::bit_cast<float>(0x3F80'1000U)) == 0x3F80'2000);  // a tie goes away from 0
    CHECK(float_of_tf32(0x3F80'1FFF) == 1.0F);
}

int main() {
    return mome::test::run();
}

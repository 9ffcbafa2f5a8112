// Runs the threads of a grid on one thread of the host, as fibers.
//
// Blocks run one after the other and a block's threads one at a time, both in a random order: a thread goes on until it
// waits for others (a barrier, a vote, an exchange between lanes), and then any of those that can go on is next. So
// what only works in lockstep, or in the order of thread numbers, comes out wrong. The order follows from the seed.
//
// What is an error on a GPU and goes unseen there is one here: threads of a block that wait at different barriers, a
// barrier that can't be reached any more, lanes of a mask that have returned. Shared memory holds other values before
// every block, and lies in memory of exactly its size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <stdexcept>

#include "vector_types.h"

namespace standin {

// A kernel that breaks a rule of the language. On the device it would hang, or compute something else each time.
struct KernelError : std::logic_error {
    using std::logic_error::logic_error;
};

// A thread of a kernel touched memory that it may not.
struct KernelFault : std::logic_error {
    using std::logic_error::logic_error;
};

// Runs thread_body once for each thread of the grid. Throws KernelError, KernelFault, and what
// thread_body throws.
void run_grid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& thread_body);

// For run_grid on any thread from now on.
void set_fiber_seed(uint64_t seed);

// What a thread of a running block knows of itself.
struct ThreadView {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};
const ThreadView& this_thread();
std::byte* dynamic_shared();

void block_barrier(const std::source_location& place);
void warp_barrier(unsigned mask, const std::source_location& place);

// Gives each lane of the mask what each other one put in: `all` is [32] of `bytes`, valid until the lane's next call.
constexpr size_t kMostExchanged = 64;
const std::byte* warp_exchange(unsigned mask, const void* mine, size_t bytes, const std::source_location& place);

}  // namespace standin

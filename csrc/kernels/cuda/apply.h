// Applies routed experts to the output of a linear layer, on a CUDA device: the formula of kernels/apply.h.
//
// The sum is formed in fp32 in a fixed order, without atomic additions, and y is rounded once. What a row gets depends
// on that row, on its experts and on whether its sequence is decoded or prefilled here (kernels/cuda/tables.h) alone:
// not on the other sequences, not on the run. A decoded row's sum goes rank after rank, so a route in waves of
// consecutive entries with `accumulate` gives it the bits of one call; a prefilled row's waves agree with one call to
// 2^-20.
//
// Nothing here allocates, waits or copies: a call enqueues kernels and may be captured into a graph. Their number and
// grids follow from the capacity of the tables alone, so that tables filled anew serve a graph that was captured
// before.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cuda/tables.h"
#include "kernels/matrix.h"

namespace mome::cuda {

struct ApplyArguments {
    Matrix y;                 // [n, d_out], in the device's memory as all below; rows begin at multiples of 16 bytes
    Matrix x;                 // [n, d_in], likewise
    const std::byte* tables;  // [table_bytes(capacity)] that write_tables wrote, 256-byte-aligned
    TableCapacity capacity;   // of the tables
    int32_t last_row;         // as the rows say that they were written for
    int32_t highest_rank;     // likewise
    std::span<std::byte>
        workspace;     // at least workspace_bytes, 16-byte-aligned; nobody else's until the kernels are done
    int64_t a_offset;  // bytes
    int64_t b_offset;  // bytes
    float alpha;
    DType weight_dtype;
    bool accumulate = false;
};

// The most that a call with tables of this capacity needs.
size_t workspace_bytes(const TableCapacity& capacity, int64_t d_in);

// Enqueues the kernels on a stream of a device, whichever is current. Throws SchemaError when a shape, index or offset
// does not fit, before anything is enqueued, and DeviceError when the device can't launch.
void apply_experts(const ApplyArguments& arguments, int device, cudaStream_t stream);

// How each kernel is launched; for tools. `name` is "decode expand<bf16>" and the like.
struct KernelLaunch {
    std::string name;
    int threads;  // of a block
    size_t shared_bytes;
};
std::vector<KernelLaunch> kernel_launches();

// For which the kernels were compiled: "sm_80 sm_90 ...", and PTX for what comes after the last.
std::string_view architectures();

}  // namespace mome::cuda

// How the result of a CUDA call becomes an error: every call goes through `check`, or, where nothing may be thrown,
// through `ignore`.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "format/errors.h"

namespace mome::cuda {

// What went wrong and, where that is known, what to do about it.
std::string problem_of(cudaError_t error, const char* call);

// Throws DeviceError unless the call of that name succeeded. The error that CUDA keeps for the thread's next
// cudaGetLastError is taken back: it is ours, and other code of this thread must not find it.
inline void check(const std::string& device, const char* call, cudaError_t result) {
    if (result == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());
    throw DeviceError(device, problem_of(result, call));
}

// For destructors: what is given up is given up, and a device that was lost has said so elsewhere.
inline void ignore(cudaError_t result) noexcept {
    if (result != cudaSuccess) static_cast<void>(cudaGetLastError());
}

}  // namespace mome::cuda

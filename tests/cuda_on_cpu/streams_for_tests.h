// A compute stream, a gate that a stream stands at, and a kernel that reads a record: what runs beside the cache.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <thread>

#include "cuda_runtime.h"

namespace mome::test {

class ComputeStream {
  public:
    explicit ComputeStream(int device = 0, unsigned flags = cudaStreamNonBlocking) : device_(device) {
        cudaSetDevice(device_);
        if (cudaStreamCreateWithFlags(&handle_, flags) != cudaSuccess) throw std::runtime_error("no stream");
        cudaSetDevice(0);
    }
    ~ComputeStream() {
        cudaStreamSynchronize(handle_);
        cudaStreamDestroy(handle_);
        cudaGetLastError();
    }
    ComputeStream(const ComputeStream&) = delete;
    ComputeStream& operator=(const ComputeStream&) = delete;
    cudaStream_t handle() const { return handle_; }
    uintptr_t number() const { return reinterpret_cast<uintptr_t>(handle_); }

    template <class... Parameters, class... Arguments>
    cudaError_t launch(void (*kernel)(Parameters...), Arguments... arguments) {
        cudaSetDevice(device_);
        const cudaLaunchConfig_t config{
            .gridDim = 1, .blockDim = 1, .dynamicSmemBytes = 0, .stream = handle_, .attrs = nullptr, .numAttrs = 0};
        const cudaError_t result = cudaLaunchKernelEx(&config, kernel, arguments...);
        cudaSetDevice(0);
        return result;
    }

  private:
    int device_;
    cudaStream_t handle_ = nullptr;
};

// What is put into a stream after `close` begins once the gate is open.
class Gate {
  public:
    ~Gate() { open(); }
    void close(ComputeStream& stream) {
        cudaLaunchHostFunc(stream.handle(), [](void* at) { static_cast<Gate*>(at)->open_.wait(false); }, this);
    }
    void open() {
        open_ = true;
        open_.notify_all();
    }

  private:
    std::atomic<bool> open_{false};
};

// A kernel that reads a slot slowly: counts the bytes that are not as expected.
inline void compare(const std::byte* found, const std::byte* expected, size_t bytes, std::atomic<int>* wrong) {
    for (size_t i = 0; i < bytes; ++i) {
        if (found[i] != expected[i]) ++*wrong;
        if (i % 1024 == 0) std::this_thread::yield();
    }
}

inline void touch(const std::byte* at, std::atomic<int>* read) {
    *read += static_cast<int>(*static_cast<const volatile std::byte*>(at));
}

}  // namespace mome::test

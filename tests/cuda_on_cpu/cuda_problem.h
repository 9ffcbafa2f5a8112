// A call of the CUDA kernels at random, with its data in device memory: on the stand-in, or on a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernel_problem.h"
#include "kernels/cuda/apply.h"

namespace mome::test {

inline void succeed(cudaError_t code) {
    if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

// Bytes in device memory; every copy is complete when its function returns.
class DeviceBytes {
  public:
    explicit DeviceBytes(size_t bytes) : bytes_(bytes) { succeed(cudaMalloc(&at_, std::max<size_t>(bytes, 1))); }
    explicit DeviceBytes(std::span<const std::byte> bytes) : DeviceBytes(bytes.size()) { write(bytes); }
    DeviceBytes(DeviceBytes&& other) noexcept
        : at_(std::exchange(other.at_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    DeviceBytes& operator=(DeviceBytes&&) = delete;
    ~DeviceBytes() {
        if (at_ != nullptr) cudaFree(at_);
    }

    std::byte* data() const { return static_cast<std::byte*>(at_); }
    size_t size() const { return bytes_; }
    void write(std::span<const std::byte> bytes) {
        if (!bytes.empty()) succeed(cudaMemcpy(at_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
    }
    std::vector<std::byte> read() const {
        std::vector<std::byte> bytes(bytes_);
        if (bytes_ > 0) succeed(cudaMemcpy(bytes.data(), at_, bytes_, cudaMemcpyDeviceToHost));
        return bytes;
    }

  private:
    void* at_ = nullptr;
    size_t bytes_;
};

class Stream {
  public:
    Stream() { succeed(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    cudaStream_t get() const { return stream_; }
    void finish() const { succeed(cudaStreamSynchronize(stream_)); }

  private:
    cudaStream_t stream_ = nullptr;
};

// Values as they are stored in a dtype, and back.
inline std::vector<std::byte> stored_as(DType dtype, std::span<const float> numbers) {
    std::vector<std::byte> bytes(numbers.size() * static_cast<size_t>(bytes_of(dtype)));
    for (size_t i = 0; i < numbers.size(); ++i) {
        if (dtype == DType::float32) {
            std::memcpy(&bytes[4 * i], &numbers[i], 4);
        } else {
            const uint16_t bits = dtype == DType::bfloat16 ? bfloat16_bits(numbers[i]) : float16_bits(numbers[i]);
            std::memcpy(&bytes[2 * i], &bits, 2);
        }
    }
    return bytes;
}

inline std::vector<float> numbers_of(DType dtype, std::span<const std::byte> bytes) {
    std::vector<float> numbers(bytes.size() / static_cast<size_t>(bytes_of(dtype)));
    for (size_t i = 0; i < numbers.size(); ++i) {
        if (dtype == DType::float32) {
            std::memcpy(&numbers[i], &bytes[4 * i], 4);
        } else {
            uint16_t bits = 0;
            std::memcpy(&bits, &bytes[2 * i], 2);
            numbers[i] = dtype == DType::bfloat16 ? number_of_bfloat16(bits) : number_of_float16(bits);
        }
    }
    return numbers;
}

constexpr int32_t kAlwaysDecode = 1 << 30, kAlwaysPrefill = 1;

struct CudaProblem : Problem {
    int32_t prefill_rows = cuda::kPrefillRows;
    DType y_dtype = DType::float32;

    using Problem::Problem;

    // The route's tables, with addresses in device memory.
    std::vector<std::byte> written(const RoutedRows& rows, const cuda::TableCapacity& capacity) const {
        std::vector<std::byte> bytes(cuda::table_bytes(capacity));
        cuda::write_tables(rows, capacity, bytes, prefill_rows);
        return bytes;
    }

    // y after the call.
    std::vector<float> applied() { return numbers_of(y_dtype, applied_to(stored_as(y_dtype, y), false)); }

    std::vector<std::byte> applied_to(std::span<const std::byte> before, bool accumulate,
                                      const cuda::TableCapacity* wanted = nullptr) {
        std::vector<DeviceBytes> on_device;
        std::vector<int64_t> addresses;
        for (const Values& record : records) {
            on_device.emplace_back(record.stored);
            addresses.push_back(reinterpret_cast<int64_t>(on_device.back().data()));
        }
        RoutedRows::Tables route = tables();
        route.expert_base = addresses;
        const RoutedRows rows(route);
        const cuda::TableCapacity capacity = wanted != nullptr ? *wanted : cuda::capacity_of(rows, prefill_rows);
        const DeviceBytes table_memory(written(rows, capacity)), x_memory(x.stored), y_memory(before);
        const DeviceBytes workspace(cuda::workspace_bytes(capacity, sizes.d_in));
        const Stream stream;
        cuda::apply_experts(arguments(rows, capacity, table_memory, x_memory, y_memory, workspace, accumulate), 0,
                            stream.get());
        stream.finish();
        return y_memory.read();
    }

    cuda::ApplyArguments arguments(const RoutedRows& rows, const cuda::TableCapacity& capacity,
                                   const DeviceBytes& table_memory, const DeviceBytes& x_memory,
                                   const DeviceBytes& y_memory, const DeviceBytes& workspace, bool accumulate) const {
        return {.y = {.data = y_memory.data(),
                      .dtype = y_dtype,
                      .rows = sizes.rows,
                      .columns = sizes.d_out,
                      .stride = sizes.d_out},
                .x = {.data = x_memory.data(),
                      .dtype = x_dtype,
                      .rows = sizes.rows,
                      .columns = sizes.d_in,
                      .stride = sizes.d_in},
                .tables = table_memory.data(),
                .capacity = capacity,
                .last_row = rows.last_row(),
                .highest_rank = rows.highest_rank(),
                .workspace = {workspace.data(), workspace.size()},
                .a_offset = 0,
                .b_offset = b_offset,
                .alpha = alpha,
                .weight_dtype = weight_dtype,
                .accumulate = accumulate};
    }
};

}  // namespace mome::test

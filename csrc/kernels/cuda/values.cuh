// Stored values as the kernels compute with them: eight at a time, as fp32.
#pragma once

#include <type_traits>

#include "format/layout.h"
#include "kernels/cuda/ptx.cuh"

namespace mome::cuda {

struct Bfloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

// What `use` returns for a value of the type in which values of `dtype` are stored.
template <class Use>
auto for_type(DType dtype, Use use) {
    switch (dtype) {
        case DType::bfloat16:
            return use(Bfloat16{});
        case DType::float16:
            return use(Float16{});
        default:
            return use(0.0F);
    }
}

__device__ __forceinline__ float to_float(Bfloat16 value) {
    return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ __forceinline__ float to_float(Float16 value) {
    return float_of_half(value.bits);
}
__device__ __forceinline__ float to_float(float value) {
    return value;
}

template <class T>
__device__ __forceinline__ T rounded(float value) {
    if constexpr (std::is_same_v<T, Bfloat16>) {
        return {bfloat16_of_float(value)};
    } else if constexpr (std::is_same_v<T, Float16>) {
        return {half_of_float(value)};
    } else {
        return value;
    }
}

constexpr int kOctet = 8;

template <class T>
constexpr int kPieces = kOctet * static_cast<int>(sizeof(T)) / 16;  // of 16 bytes, in an octet

// Eight values at a 16-byte boundary.
template <class T>
struct alignas(16) Octet {
    T values[kOctet];
};

template <class T>
__device__ __forceinline__ Octet<T> load_octet(const T* at) {
    return *reinterpret_cast<const Octet<T>*>(at);
}

template <class T>
__device__ __forceinline__ Octet<T> load_octet_streamed(const T* at) {
    Octet<T> octet;
    auto* pieces = reinterpret_cast<uint4*>(&octet);
#pragma unroll
    for (int i = 0; i < kPieces<T>; ++i)
        pieces[i] = load_streamed(reinterpret_cast<const uint4*>(at) + i);
    return octet;
}

// A value as a sum of TF32 numbers: one term for what bf16 and fp16 hold, exactly; two for fp32, to 2^-22 of it.
template <class T>
constexpr int kTerms = std::is_same_v<T, float> ? 2 : 1;

template <class T>
__device__ __forceinline__ void split(float value, uint32_t (&terms)[kTerms<T>]) {
    terms[0] = tf32_of_float(value);
    if constexpr (kTerms<T> == 2) terms[1] = tf32_of_float(value - __uint_as_float(terms[0]));
}

}  // namespace mome::cuda

// The words that CUDA C++ adds for kernels, on the fibers of fibers.h.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace standin {

// A number that is another one in each thread, read like a variable.
template <auto kField, unsigned uint3::* kAxis>
struct OwnNumber {
    operator unsigned() const { return static_cast<uint3>(this_thread().*kField).*kAxis; }
};

template <auto kField>
struct OwnVector {
    OwnNumber<kField, &uint3::x> x;
    OwnNumber<kField, &uint3::y> y;
    OwnNumber<kField, &uint3::z> z;
};

}  // namespace standin

inline constexpr standin::OwnVector<&standin::ThreadView::thread> threadIdx;
inline constexpr standin::OwnVector<&standin::ThreadView::block> blockIdx;
inline constexpr standin::OwnVector<&standin::ThreadView::block_dim> blockDim;
inline constexpr standin::OwnVector<&standin::ThreadView::grid_dim> gridDim;

using std::max;
using std::min;

inline float __uint_as_float(unsigned bits) {
    return std::bit_cast<float>(bits);
}

inline void __syncthreads(const std::source_location place = std::source_location::current()) {
    standin::block_barrier(place);
}

inline void __syncwarp(unsigned mask = 0xFFFF'FFFF,
                       const std::source_location place = std::source_location::current()) {
    standin::warp_barrier(mask, place);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance,
                  const std::source_location place = std::source_location::current()) {
    const std::byte* all = standin::warp_exchange(mask, &value, sizeof(T), place);
    const auto other = (standin::this_thread().thread.x % 32) ^ static_cast<unsigned>(distance);
    std::memcpy(&value, all + other * sizeof(T), sizeof(T));
    return value;
}

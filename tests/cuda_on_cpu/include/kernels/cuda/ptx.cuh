// In the place of csrc/kernels/cuda/ptx.cuh: the same functions in C++, each as the PTX ISA describes its instruction.
// A copy into shared memory happens as late as it may: when its thread waits for it, so that a missing wait shows.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <source_location>
#include <vector>

#include "values.h"

namespace mome::cuda {

inline float float_of_half(uint16_t bits) {
    return standin::float_of_half(bits);
}
inline uint16_t half_of_float(float value) {
    return standin::half_of_float(value);
}
inline uint16_t bfloat16_of_float(float value) {
    return standin::bfloat16_of_float(value);
}
inline uint32_t tf32_of_float(float value) {
    return standin::tf32_of_float(value);
}

inline uint4 load_streamed(const void* at) {
    standin::require_aligned(at, 16);
    return *static_cast<const uint4*>(at);
}

inline void copy_async(void* shared, const void* global, bool valid) {
    standin::require_aligned(shared, 16);
    standin::require_aligned(global, 16);
    standin::copies_of_thread().add(shared, global, valid);
}
inline void commit_copies() {
    standin::copies_of_thread().commit();
}
template <int kBehind>
void wait_copies() {
    standin::copies_of_thread().wait(kBehind);
}

inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         const std::source_location place = std::source_location::current()) {
    struct Fragments {
        uint32_t a[4], b[2];
    };
    Fragments mine{};
    std::ranges::copy(a, mine.a);
    std::ranges::copy(b, mine.b);
    const std::byte* all = standin::warp_exchange(0xFFFF'FFFF, &mine, sizeof(mine), place);
    const auto fragments = [all](unsigned lane) {
        Fragments of;
        std::memcpy(&of, all + lane * sizeof(of), sizeof(of));
        return of;
    };
    const unsigned lane = standin::this_thread().thread.x % 32;
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 8; ++k) {
            const uint32_t left = fragments(row % 8 * 4 + k % 4).a[row / 8 + k / 4 * 2];
            const uint32_t right = fragments(column * 4 + k % 4).b[k / 4];
            c[i] += standin::float_of_tf32(left) * standin::float_of_tf32(right);
        }
    }
}

template <class T>
T& shared_as() {
    return *reinterpret_cast<T*>(standin::dynamic_shared());
}

}  // namespace mome::cuda

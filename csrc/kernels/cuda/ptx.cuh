// What C++ has no words for: inline PTX and shared memory whose size the launch says. This header, and no other file of
// the kernels, is replaced where they run on the host (tests/cuda_on_cpu/include/kernels/cuda/ptx.cuh); PTX ISA 8.4 has
// each instruction under the name that its asm statement gives.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace mome::cuda {

__device__ __forceinline__ float float_of_half(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ uint16_t half_of_float(float value) {  // to nearest, ties to even
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ uint16_t bfloat16_of_float(float value) {  // to nearest, ties to even
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// To nearest with ties away from 0; ten bits of the fraction stay.
__device__ __forceinline__ uint32_t tf32_of_float(float value) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

// Weights are read once: they need no place in the first-level cache.
__device__ __forceinline__ uint4 load_streamed(const void* at) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(at));
    return value;
}

// Starts copying 16 bytes into shared memory; zeros when `valid` is false (nothing is read then).
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
    const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

// Ends a group of copies. wait_copies<n> returns when all groups of this thread but the last n are there.
__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kBehind>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kBehind) : "memory");
}

// c [16, 8] += a [16, 8] b [8, 8] by the lanes of a warp. With g = lane / 4 and t = lane % 4 a lane holds
// a: (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4); b: (t, g) (t + 4, g); c: (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t +
// 1).
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The shared memory that the launch gave the block, as a T.
template <class T>
__device__ __forceinline__ T& shared_as() {
    extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
    return *reinterpret_cast<T*>(dynamic_shared_memory);
}

}  // namespace mome::cuda

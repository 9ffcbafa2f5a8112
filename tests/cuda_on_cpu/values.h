// What the instructions for values and for copies do (tests/cuda_on_cpu/include/kernels/cuda/ptx.cuh says which).
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace standin {

float float_of_half(uint16_t bits);
uint16_t half_of_float(float value);
uint16_t bfloat16_of_float(float value);

// As cvt.rna.tf32.f32; and what the matrix cores take of a register: its upper 19 bits.
uint32_t tf32_of_float(float value);
float float_of_tf32(uint32_t bits);

// Throws KernelError where the device would report a misaligned address.
void require_aligned(const void* at, size_t bytes);

// The copies into shared memory that a thread has begun.
class AsyncCopies {
  public:
    void add(void* to, const void* from, bool valid);
    void commit();
    void wait(size_t behind);  // for all groups but the last ones

  private:
    struct Copy {
        void* to;
        const void* from;
        bool valid;
    };
    std::vector<Copy> open_;
    std::deque<std::vector<Copy>> groups_;
};

AsyncCopies& copies_of_thread();

}  // namespace standin

// The kernels for AVX-512 with BF16: where x and the weights are both bf16, the shrink takes products of pairs.
//
// VDPBF16PS adds, for each of 16 lanes, two products to an fp32 sum, each rounded to nearest even with subnormals as
// zero. So a chain here is over d_in in steps of 32; all else is as for AVX-512.
#include <cstring>

#include "kernels/avx512.h"

namespace mome {
namespace {

struct PairedDot {
    using Input = uint16_t;
    using Weight = uint16_t;
    using Operand = __m512bh;
    using Mask = __mmask32;
    static constexpr int kWidth = 32;
    static constexpr Mask kAll = 0xFFFFFFFF;

    static Mask first(int64_t n) { return (Mask{1} << n) - 1; }
    static Operand input(const Input* at, Mask mask) { return weight(at, mask); }
    static Operand weight(const Weight* at, Mask mask) {
        return __builtin_bit_cast(__m512bh, _mm512_maskz_loadu_epi16(mask, at));
    }
    static __m512 multiply_add(Operand a, Operand b, __m512 c) { return _mm512_dpbf16_ps(c, a, b); }
    static void gather(const std::byte* x, DType, int64_t start, int64_t n, Input* inputs) {
        std::memcpy(inputs, x + start * 2, static_cast<size_t>(n) * 2);
    }
};
static_assert(kSpanStep % PairedDot::kWidth == 0);

void shrink_bf16(const ShrinkBlock& block) {
    if (block.x_dtype == DType::bfloat16 && block.weight_dtype == DType::bfloat16) {
        shrink_with<Avx512, PairedDot>(block);
    } else {
        shrink<Avx512>(block);
    }
}

}  // namespace

Kernels avx512bf16_kernels() {
    return {shrink_bf16, expand<Avx512>, add_to_output<Avx512>, sum<Avx512>};
}

}  // namespace mome

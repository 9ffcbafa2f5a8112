// Sixteen floats a vector, for AVX-512 (F, BW, VL, DQ); a last vector of 8 where d is an odd multiple of 8.
#pragma once

#include <immintrin.h>

#include "kernels/generic.h"

namespace mome {
namespace {

struct Avx512 {
    using Vec = __m512;
    using Mask = __mmask16;
    static constexpr int kWidth = 16;
    static constexpr Mask kAll = 0xFFFF;

    static Mask first(int64_t n) { return static_cast<Mask>((1U << n) - 1); }

    static Vec zero() { return _mm512_setzero_ps(); }
    static Vec broadcast(float value) { return _mm512_set1_ps(value); }
    static Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
    static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
    static float sum(Vec v) {
        const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static Vec load(const float* at, Mask mask) { return _mm512_maskz_loadu_ps(mask, at); }
    static Vec load_bf16(const uint16_t* at, Mask mask) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at)), 16));
    }
    static Vec load_f16(const uint16_t* at, Mask mask) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, at)); }
    static void store(float* at, Vec value, Mask mask) { _mm512_mask_storeu_ps(at, mask, value); }
    static void store_bf16(uint16_t* at, Vec value, Mask mask) {
        const __m512i bits = _mm512_castps_si512(value);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
        const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
        const __m512i nan = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
        const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
        const __m512i words = _mm512_mask_blend_epi32(is_nan, rounded, nan);
        _mm256_mask_storeu_epi16(at, mask, _mm512_cvtepi32_epi16(words));
    }
    static void store_f16(uint16_t* at, Vec value, Mask mask) {
        _mm256_mask_storeu_epi16(at, mask, _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
};

}  // namespace
}  // namespace mome

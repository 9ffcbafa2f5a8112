// The kernel for AVX2 with FMA and F16C: 8 floats a vector.
#include <immintrin.h>

#include "kernels/generic.h"

namespace mome {
namespace {

struct Avx2 {
    using Vec = __m256;
    static constexpr int kWidth = 8;
    struct Mask {};
    static constexpr Mask kAll{};

    static Vec zero() { return _mm256_setzero_ps(); }
    static Vec broadcast(float value) { return _mm256_set1_ps(value); }
    static Vec multiply_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
    static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
    static float sum(Vec v) {
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static Vec load(const float* at, Mask) { return _mm256_loadu_ps(at); }
    static Vec load_bf16(const uint16_t* at, Mask) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(at)), 16));
    }
    static Vec load_f16(const uint16_t* at, Mask) { return _mm256_cvtph_ps(load_half(at)); }
    static void store(float* at, Vec value, Mask) { _mm256_storeu_ps(at, value); }
    static void store_bf16(uint16_t* at, Vec value, Mask) {
        const __m256i bits = _mm256_castps_si256(value);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
        const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
        const __m256i nan = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
        const __m256i words = _mm256_blendv_epi8(rounded, nan, is_nan);
        store_half(at, _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
    static void store_f16(uint16_t* at, Vec value, Mask) {
        store_half(at, _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }

  private:
    static __m128i load_half(const uint16_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
    static void store_half(uint16_t* at, __m128i value) { _mm_storeu_si128(reinterpret_cast<__m128i*>(at), value); }
};

}  // namespace

Kernels avx2_kernels() {
    return {shrink<Avx2>, expand<Avx2>, add_to_output<Avx2>, sum<Avx2>};
}

}  // namespace mome

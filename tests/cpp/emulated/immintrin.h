// The AVX-512 intrinsics that the kernels use, on plain arrays: with this directory before the system's, the kernels'
// own files compile for any machine, and their logic is tested where no processor has the instructions.
//
// What an intrinsic does is as in Intel's Intrinsics Guide; lanes are in memory order.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulated {

template <class T, int N>
struct Lanes {
    T lane[N];
};

template <class To, class From>
To cast(const From& from) {
    static_assert(sizeof(To) <= sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <class Result, class Lane>
Result make(Lane lane) {
    Result result;
    for (int i = 0; i < static_cast<int>(sizeof(result.lane) / sizeof(result.lane[0])); ++i)
        result.lane[i] = lane(i);
    return result;
}

inline float float_from_f16(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    float value =
        std::ldexp(static_cast<float>(exponent == 0 ? fraction : fraction + 1024), std::max(exponent, 1) - 25);
    if (exponent == 31) value = fraction == 0 ? HUGE_VALF : NAN;
    return half & 0x8000 ? -value : value;
}

inline uint16_t f16_from_float(float value) {
    const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
    const float magnitude = std::abs(value);
    if (std::isnan(value)) return sign | 0x7E00;
    if (magnitude >= 65520) return sign | 0x7C00;
    const int exponent = magnitude == 0 ? -14 : std::max(std::ilogb(magnitude), -14);
    const auto units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + units);  // 1024 units carry into the exponent
}

inline float without_subnormal(float value) {
    return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0F, value) : value;
}

}  // namespace emulated

using __m128 = emulated::Lanes<float, 4>;
using __m256 = emulated::Lanes<float, 8>;
using __m512 = emulated::Lanes<float, 16>;
using __m256i = emulated::Lanes<uint16_t, 16>;
using __m512i = emulated::Lanes<uint32_t, 16>;
using __m512bh = emulated::Lanes<uint16_t, 32>;
using __mmask16 = uint16_t;
using __mmask32 = uint32_t;

constexpr int _CMP_UNORD_Q = 3, _MM_FROUND_TO_NEAREST_INT = 0, _MM_FROUND_NO_EXC = 8;

inline __m512 _mm512_setzero_ps() {
    return {};
}
inline __m512 _mm512_set1_ps(float value) {
    return emulated::make<__m512>([&](int) { return value; });
}
inline __m512i _mm512_set1_epi32(int value) {
    return emulated::make<__m512i>([&](int) { return static_cast<uint32_t>(value); });
}
inline __m512 _mm512_fmadd_ps(const __m512& a, const __m512& b, const __m512& c) {
    return emulated::make<__m512>([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
inline __m512 _mm512_add_ps(const __m512& a, const __m512& b) {
    return emulated::make<__m512>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline __m256 _mm256_add_ps(const __m256& a, const __m256& b) {
    return emulated::make<__m256>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline __m128 _mm_add_ps(const __m128& a, const __m128& b) {
    return emulated::make<__m128>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline __m128 _mm_add_ss(const __m128& a, const __m128& b) {
    return emulated::make<__m128>([&](int i) { return i == 0 ? a.lane[0] + b.lane[0] : a.lane[i]; });
}
inline __m128 _mm_movehl_ps(const __m128& a, const __m128& b) {
    return {{b.lane[2], b.lane[3], a.lane[2], a.lane[3]}};
}
inline __m128 _mm_movehdup_ps(const __m128& a) {
    return {{a.lane[1], a.lane[1], a.lane[3], a.lane[3]}};
}
inline float _mm_cvtss_f32(const __m128& a) {
    return a.lane[0];
}

inline __m256 _mm512_castps512_ps256(const __m512& a) {
    return emulated::cast<__m256>(a);
}
inline __m128 _mm256_castps256_ps128(const __m256& a) {
    return emulated::cast<__m128>(a);
}
inline __m512 _mm512_castsi512_ps(const __m512i& a) {
    return emulated::cast<__m512>(a);
}
inline __m512i _mm512_castps_si512(const __m512& a) {
    return emulated::cast<__m512i>(a);
}
inline __m256 _mm512_extractf32x8_ps(const __m512& a, int half) {
    return emulated::make<__m256>([&](int i) { return a.lane[8 * half + i]; });
}
inline __m128 _mm256_extractf128_ps(const __m256& a, int half) {
    return emulated::make<__m128>([&](int i) { return a.lane[4 * half + i]; });
}

inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* at) {
    const auto* values = static_cast<const float*>(at);
    return emulated::make<__m512>([&](int i) { return mask >> i & 1 ? values[i] : 0.0F; });
}
inline __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void* at) {
    const auto* values = static_cast<const uint16_t*>(at);
    return emulated::make<__m256i>([&](int i) { return mask >> i & 1 ? values[i] : uint16_t{0}; });
}
inline __m512i _mm512_maskz_loadu_epi16(__mmask32 mask, const void* at) {
    const auto* values = static_cast<const uint16_t*>(at);
    return emulated::cast<__m512i>(
        emulated::make<__m512bh>([&](int i) { return mask >> i & 1 ? values[i] : uint16_t{0}; }));
}
inline void _mm512_mask_storeu_ps(void* at, __mmask16 mask, const __m512& value) {
    for (int i = 0; i < 16; ++i) {
        if (mask >> i & 1) static_cast<float*>(at)[i] = value.lane[i];
    }
}
inline void _mm256_mask_storeu_epi16(void* at, __mmask16 mask, const __m256i& value) {
    for (int i = 0; i < 16; ++i) {
        if (mask >> i & 1) static_cast<uint16_t*>(at)[i] = value.lane[i];
    }
}

inline __m512i _mm512_cvtepu16_epi32(const __m256i& a) {
    return emulated::make<__m512i>([&](int i) { return uint32_t{a.lane[i]}; });
}
inline __m256i _mm512_cvtepi32_epi16(const __m512i& a) {
    return emulated::make<__m256i>([&](int i) { return static_cast<uint16_t>(a.lane[i]); });
}
inline __m512 _mm512_cvtph_ps(const __m256i& a) {
    return emulated::make<__m512>([&](int i) { return emulated::float_from_f16(a.lane[i]); });
}
inline __m256i _mm512_cvtps_ph(const __m512& a, int) {
    return emulated::make<__m256i>([&](int i) { return emulated::f16_from_float(a.lane[i]); });
}

inline __m512i _mm512_slli_epi32(const __m512i& a, unsigned count) {
    return emulated::make<__m512i>([&](int i) { return a.lane[i] << count; });
}
inline __m512i _mm512_srli_epi32(const __m512i& a, unsigned count) {
    return emulated::make<__m512i>([&](int i) { return a.lane[i] >> count; });
}
inline __m512i _mm512_and_si512(const __m512i& a, const __m512i& b) {
    return emulated::make<__m512i>([&](int i) { return a.lane[i] & b.lane[i]; });
}
inline __m512i _mm512_or_si512(const __m512i& a, const __m512i& b) {
    return emulated::make<__m512i>([&](int i) { return a.lane[i] | b.lane[i]; });
}
inline __m512i _mm512_add_epi32(const __m512i& a, const __m512i& b) {
    return emulated::make<__m512i>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline __mmask16 _mm512_cmp_ps_mask(const __m512& a, const __m512& b, int) {  // of the predicates, only _CMP_UNORD_Q
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i)
        mask |= static_cast<unsigned>(std::isunordered(a.lane[i], b.lane[i])) << i;
    return static_cast<__mmask16>(mask);
}
inline __m512i _mm512_mask_blend_epi32(__mmask16 mask, const __m512i& a, const __m512i& b) {
    return emulated::make<__m512i>([&](int i) { return mask >> i & 1 ? b.lane[i] : a.lane[i]; });
}

// The odd products first, then the even ones; each step is fused, with subnormals taken and given as zero.
inline __m512 _mm512_dpbf16_ps(const __m512& sum, const __m512bh& a, const __m512bh& b) {
    const auto value = [](uint16_t bits) {
        return emulated::without_subnormal(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16));
    };
    return emulated::make<__m512>([&](int i) {
        float result = emulated::without_subnormal(sum.lane[i]);
        for (const int k : {2 * i + 1, 2 * i})
            result = emulated::without_subnormal(std::fma(value(a.lane[k]), value(b.lane[k]), result));
        return result;
    });
}

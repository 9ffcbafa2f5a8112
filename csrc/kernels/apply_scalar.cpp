// The kernel without vector instructions (the compiler may still use what every machine of the architecture has).
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/generic.h"

namespace mome {
namespace {

float float_from_f16(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t rest = half & 0x7FFF;
    if (rest >= 0x7C00) return std::bit_cast<float>(sign | 0x7F800000 | ((rest & 0x3FF) << 13));  // infinity, NaN
    // Read as a float, the bits are the value times 2^-112; the multiplication also normalises subnormals.
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(rest << 13) * 0x1p112F));
}

uint16_t f16_from_float(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return sign | 0x7E00;   // NaN
    if (magnitude >= 0x47800000) return sign | 0x7C00;  // 2^16 and more: infinity
    if (magnitude < 0x38800000) {                       // below 2^-14: a multiple of 2^-24, rounded by the addition
        const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
        return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3F000000);
    }
    const uint32_t odd = (magnitude >> 13) & 1;  // round half to even; a carry runs into the exponent, up to infinity
    return sign | static_cast<uint16_t>((magnitude - 0x38000000 + 0xFFF + odd) >> 13);
}

uint16_t bf16_from_float(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);  // NaN stays NaN
    return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

struct Scalar {
    static constexpr int kWidth = 8;
    struct Vec {
        float lane[kWidth];
    };
    struct Mask {};
    static constexpr Mask kAll{};

    template <class Lane>
    static Vec make(Lane lane) {
        Vec value;
        for (int i = 0; i < kWidth; ++i)
            value.lane[i] = lane(i);
        return value;
    }
    static Vec zero() { return Vec{}; }
    static Vec broadcast(float value) {
        return make([&](int) { return value; });
    }
    static Vec multiply_add(Vec a, Vec b, Vec c) {
        return make([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
    }
    static Vec add(Vec a, Vec b) {
        return make([&](int i) { return a.lane[i] + b.lane[i]; });
    }
    static float sum(const Vec& v) {
        const float* l = v.lane;
        return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
    }
    static Vec load(const float* at, Mask) {
        return make([&](int i) { return at[i]; });
    }
    static Vec load_bf16(const uint16_t* at, Mask) {
        return make([&](int i) { return std::bit_cast<float>(static_cast<uint32_t>(at[i]) << 16); });
    }
    static Vec load_f16(const uint16_t* at, Mask) {
        return make([&](int i) { return float_from_f16(at[i]); });
    }
    static void store(float* at, const Vec& value, Mask) { std::memcpy(at, value.lane, sizeof value.lane); }
    static void store_bf16(uint16_t* at, const Vec& value, Mask) {
        for (int i = 0; i < kWidth; ++i)
            at[i] = bf16_from_float(value.lane[i]);
    }
    static void store_f16(uint16_t* at, const Vec& value, Mask) {
        for (int i = 0; i < kWidth; ++i)
            at[i] = f16_from_float(value.lane[i]);
    }
};

}  // namespace

Kernels scalar_kernels() {
    return {shrink<Scalar>, expand<Scalar>, add_to_output<Scalar>, sum<Scalar>};
}

}  // namespace mome

#include "values.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "fibers.h"

namespace standin {

float float_of_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size;
    if (exponent == 31) {
        size = fraction == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        size = std::ldexp(static_cast<float>(fraction), -24);
    } else {
        size = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    }
    return (bits & 0x8000) != 0 ? -size : size;
}

uint16_t half_of_float(float value) {
    const auto sign = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16 & 0x8000);
    const float size = std::fabs(value);
    if (std::isnan(value)) return 0x7FFF;
    if (size == 0) return sign;
    if (size >= 65520.0F) return static_cast<uint16_t>(sign | 0x7C00);
    int exponent = 0;
    std::frexp(size, &exponent);
    const int ulp = std::max(exponent - 11, -24);  // of a number with 11 binary digits; below 2^-14 they are fewer
    const auto units = static_cast<int>(std::nearbyint(std::ldexp(size, -ulp)));
    return static_cast<uint16_t>(sign | (((ulp + 24) << 10) + units));  // a carry out of the fraction is right as it is
}

uint16_t bfloat16_of_float(float value) {
    if (std::isnan(value)) return 0x7FFF;
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

uint32_t tf32_of_float(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return std::isfinite(value) ? (bits + 0x1000) & 0xFFFF'E000 : bits;
}

float float_of_tf32(uint32_t bits) {
    return std::bit_cast<float>(bits & 0xFFFF'E000);
}

void require_aligned(const void* at, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(at) % bytes != 0) {
        throw KernelError("an address is not a multiple of " + std::to_string(bytes));
    }
}

void AsyncCopies::add(void* to, const void* from, bool valid) {
    open_.push_back({to, from, valid});
}

void AsyncCopies::commit() {
    groups_.push_back(std::exchange(open_, {}));
}

void AsyncCopies::wait(size_t behind) {
    for (; groups_.size() > behind; groups_.pop_front()) {
        for (const Copy& copy : groups_.front()) {
            if (copy.valid) {
                std::memcpy(copy.to, copy.from, 16);
            } else {
                std::memset(copy.to, 0, 16);
            }
        }
    }
}

}  // namespace standin

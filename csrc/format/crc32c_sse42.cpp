// crc32c with the processor's crc32 instruction. The instruction takes three cycles but a new one can start every
// cycle, so one stream uses a third of it: a block is cut in three streams that run side by side, and the three
// registers are joined by moving the earlier ones past the bytes that follow them.
//
// Moving a register c past n zero bytes is c(x) * x^(8n) mod P. With the bits reflected, a carry-less product of two
// 32-bit registers has degree 63 - 1, and crc32 of such a 64-bit value (from register 0) multiplies by x^32 and
// reduces; the reflection contributes one more x. So the factor to multiply with is x^(8n - 33) mod P.
#include <immintrin.h>

#include "format/crc32c.h"

namespace mome::crc32c_detail {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;

// x^n mod P in reflected order (bit 31 is x^0).
constexpr uint32_t power_of_x(size_t n) {
    uint32_t value = 0x80000000;
    for (; n > 0; --n)
        value = (value >> 1) ^ ((value & 1) ? kPolynomial : 0);
    return value;
}

uint32_t multiply(uint32_t state, uint32_t factor) {
    const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128(static_cast<int>(state)),
                                                 _mm_cvtsi32_si128(static_cast<int>(factor)), 0);
    return static_cast<uint32_t>(_mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product))));
}

uint64_t word(const std::byte* at) {
    return load<uint64_t>(Bytes(at, 8), 0);
}

// Three streams of kStream bytes each, from `at`.
template <size_t kStream>
uint32_t update_block(uint32_t state, const std::byte* at) {
    static_assert(kStream % 8 == 0);
    constexpr uint32_t kPastOne = power_of_x(8 * kStream - 33);
    constexpr uint32_t kPastTwo = power_of_x(16 * kStream - 33);
    uint64_t first = state, second = 0, third = 0;
    for (size_t i = 0; i < kStream; i += 8) {
        first = _mm_crc32_u64(first, word(at + i));
        second = _mm_crc32_u64(second, word(at + kStream + i));
        third = _mm_crc32_u64(third, word(at + 2 * kStream + i));
    }
    return multiply(static_cast<uint32_t>(first), kPastTwo) ^ multiply(static_cast<uint32_t>(second), kPastOne) ^
           static_cast<uint32_t>(third);
}

}  // namespace

uint32_t update_sse42(uint32_t state, const std::byte* at, size_t count) {
    constexpr size_t kLong = 1360, kShort = 128;  // 3 x 1360 bytes is just under a page
    for (; count >= 3 * kLong; at += 3 * kLong, count -= 3 * kLong)
        state = update_block<kLong>(state, at);
    for (; count >= 3 * kShort; at += 3 * kShort, count -= 3 * kShort)
        state = update_block<kShort>(state, at);
    uint64_t wide = state;
    for (; count >= 8; at += 8, count -= 8)
        wide = _mm_crc32_u64(wide, word(at));
    state = static_cast<uint32_t>(wide);
    for (; count > 0; ++at, --count)
        state = _mm_crc32_u8(state, std::to_integer<unsigned char>(*at));
    return state;
}

}  // namespace mome::crc32c_detail

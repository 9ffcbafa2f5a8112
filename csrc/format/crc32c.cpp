// Chooses the crc32c implementation, and the portable one: eight tables, eight bytes a step ("slicing by 8").
#include "format/crc32c.h"

#include <array>

namespace mome {
namespace crc32c_detail {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;

// kTables[k][b]: the register after byte b followed by k zero bytes.
constexpr auto kTables = [] {
    std::array<std::array<uint32_t, 256>, 8> tables{};
    for (uint32_t b = 0; b < 256; ++b) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; ++bit)
            crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
        tables[0][b] = crc;
    }
    for (size_t k = 1; k < 8; ++k) {
        for (size_t b = 0; b < 256; ++b) {
            tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 0xFF];
        }
    }
    return tables;
}();

}  // namespace

uint32_t update_table(uint32_t state, const std::byte* at, size_t count) {
    Bytes bytes(at, count);
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const uint64_t word = load<uint64_t>(bytes, i) ^ state;
        state = 0;
        for (size_t k = 0; k < 8; ++k)
            state ^= kTables[7 - k][(word >> (8 * k)) & 0xFF];
    }
    for (; i < count; ++i)
        state = (state >> 8) ^ kTables[0][(state ^ std::to_integer<uint32_t>(at[i])) & 0xFF];
    return state;
}

bool has_sse42() {
#ifdef MOME_X86
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
#else
    return false;
#endif
}

}  // namespace crc32c_detail

uint32_t crc32c(Bytes bytes, uint32_t prefix) {
    using namespace crc32c_detail;
#ifdef MOME_X86
    static const auto update = has_sse42() ? update_sse42 : update_table;
#else
    constexpr auto update = update_table;
#endif
    return ~update(~prefix, bytes.data(), bytes.size());
}

}  // namespace mome

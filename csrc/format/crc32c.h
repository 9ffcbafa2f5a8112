// CRC-32C (Castagnoli), the checksum of records and of shard indexes (RFC 3720, appendix B.4: reflected polynomial
// 0x82F63B78, initial value and final xor all ones). With SSE4.2 and PCLMULQDQ it runs several streams at once.
#pragma once

#include <cstdint>

#include "format/bytes.h"

namespace mome {

// The checksum of the bytes whose prefix has checksum `prefix` (0: no prefix).
uint32_t crc32c(Bytes bytes, uint32_t prefix = 0);

namespace crc32c_detail {

// Both continue a raw register (neither the initial value nor the final xor applied).
uint32_t update_table(uint32_t state, const std::byte* at, size_t count);
uint32_t update_sse42(uint32_t state, const std::byte* at, size_t count);

// True when this machine runs update_sse42.
bool has_sse42();

}  // namespace crc32c_detail
}  // namespace mome

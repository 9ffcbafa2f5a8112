// What a key must be: numbers that are all finite.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "format/bytes.h"

namespace mome {

// Which of the keys of `key_dim` float32 that begin at offsets `at` of `bytes` hold a number that is not finite:
// positions in `at`, ascending. The caller has checked that they lie inside.
std::vector<int64_t> keys_not_finite(Bytes bytes, int64_t key_dim, std::span<const int64_t> at);

}  // namespace mome

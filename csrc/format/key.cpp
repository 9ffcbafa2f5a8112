// Judges keys.
#include "format/key.h"

namespace mome {

std::vector<int64_t> keys_not_finite(Bytes bytes, int64_t key_dim, std::span<const int64_t> at) {
    constexpr uint32_t kExponent = 0x7F800000;  // all ones: infinite or not a number
    std::vector<int64_t> found;
    for (size_t i = 0; i < at.size(); ++i) {
        const Bytes key = bytes.subspan(static_cast<size_t>(at[i]), static_cast<size_t>(4 * key_dim));
        uint32_t bad = 0;  // no way out of the loop: so the compiler takes many numbers at once
        for (size_t offset = 0; offset < key.size(); offset += 4)
            bad |= static_cast<uint32_t>((load<uint32_t>(key, offset) & kExponent) == kExponent);
        if (bad != 0) found.push_back(static_cast<int64_t>(i));
    }
    return found;
}

}  // namespace mome

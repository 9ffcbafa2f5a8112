// How integers are read from files: little-endian, at any alignment.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>

namespace mome {

static_assert(std::endian::native == std::endian::little, "the file formats are little-endian and read in place");

using Bytes = std::span<const std::byte>;

// The T at `offset` of `bytes`; the caller has checked that it lies inside.
template <class T>
T load(Bytes bytes, size_t offset) {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
    return value;
}

constexpr size_t round_up(size_t value, size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

}  // namespace mome

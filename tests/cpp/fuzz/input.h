// Takes a fuzzer's input apart, and says when a property does not hold.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

namespace mome::fuzz {

// Ends the program, which libFuzzer takes for a finding.
inline void require(bool holds, const char* property) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", property);
    std::abort();
}

class Input {
  public:
    Input(const uint8_t* bytes, size_t size) : rest_(std::as_bytes(std::span(bytes, size))) {}

    // The next number; zeros follow the end.
    template <class T>
    T take() {
        T value{};
        const size_t count = std::min(sizeof value, rest_.size());
        if (count > 0) std::memcpy(&value, rest_.data(), count);
        rest_ = rest_.subspan(count);
        return value;
    }
    std::span<const std::byte> rest() const { return rest_; }

  private:
    std::span<const std::byte> rest_;
};

}  // namespace mome::fuzz

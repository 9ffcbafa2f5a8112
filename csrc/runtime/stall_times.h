// How long leases waited for their records: counts in buckets that grow by a quarter of a power of two, so that a
// percentile is told at most a quarter too high.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace mome {

class StallTimes {
  public:
    using Duration = std::chrono::nanoseconds;

    void add(Duration time) {
        ++counts_[bucket(time)];
        ++count_;
        total_ += time;
    }

    int64_t count() const { return count_; }
    Duration total() const { return total_; }

    // The upper edge of the bucket that the share `p` of all times does not exceed; 0 when there are none.
    Duration percentile(double p) const {
        const auto wanted = static_cast<int64_t>(std::ceil(p * static_cast<double>(count_)));
        int64_t seen = 0;
        for (size_t i = 0; i < counts_.size() && count_ > 0; ++i) {
            seen += counts_[i];
            if (seen >= wanted) return Duration(upper_edge(i));
        }
        return Duration(0);
    }

  private:
    static constexpr size_t kPerPower = 4;

    // Values 2^k (1 + j/4) .. 2^k (1 + (j + 1)/4) share bucket 4 k + j; up to 3 each value has its own.
    static size_t bucket(Duration time) {
        const auto value = static_cast<uint64_t>(std::max<int64_t>(0, time.count()));
        if (value < kPerPower) return value;
        const auto power = static_cast<size_t>(std::bit_width(value)) - 1;
        return std::min(kBuckets - 1, kPerPower * (power - 1) + ((value >> (power - 2)) & 3));
    }
    static int64_t upper_edge(size_t bucket) {
        if (bucket < kPerPower) return static_cast<int64_t>(bucket);
        const size_t power = bucket / kPerPower + 1;
        return static_cast<int64_t>((uint64_t{kPerPower + bucket % kPerPower + 1} << (power - 2)) - 1);
    }

    static constexpr size_t kBuckets = kPerPower * 48;  // up to days
    std::array<int64_t, kBuckets> counts_{};
    int64_t count_ = 0;
    Duration total_{0};
};

}  // namespace mome

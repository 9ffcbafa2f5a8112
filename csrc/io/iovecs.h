// The buffers of a read as the system calls take them, less what has been filled already: reads may come back short.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>
#include <vector>

namespace mome {

class Iovecs {
  public:
    explicit Iovecs(std::span<const std::span<std::byte>> parts) {
        for (const std::span<std::byte> part : parts)
            vectors_.push_back({.iov_base = part.data(), .iov_len = part.size()});
    }

    bool empty() const { return first_ == vectors_.size(); }
    const iovec* data() const { return vectors_.data() + first_; }
    int count() const { return static_cast<int>(vectors_.size() - first_); }
    size_t done() const { return done_; }

    // `bytes` more have arrived.
    void advance(size_t bytes) {
        done_ += bytes;
        while (bytes > 0) {
            iovec& vector = vectors_[first_];
            if (bytes < vector.iov_len) {
                vector.iov_base = static_cast<std::byte*>(vector.iov_base) + bytes;
                vector.iov_len -= bytes;
                return;
            }
            bytes -= vector.iov_len;
            ++first_;
        }
    }

  private:
    std::vector<iovec> vectors_;
    size_t first_ = 0;
    size_t done_ = 0;
};

}  // namespace mome

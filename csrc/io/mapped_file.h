// A whole file mapped for reading. The mapping outlives the descriptor and the file's name.
#pragma once

#include <cstdint>
#include <string>

#include "format/bytes.h"

namespace mome {

class MappedFile {
  public:
    // Maps the file behind `fd` (left open, not kept). Throws DamagedStoreError unless it has `expected_bytes` bytes,
    // and ReadError when the operating system refuses. `path` is for messages.
    MappedFile(int fd, std::string path, int64_t expected_bytes);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    Bytes bytes() const { return bytes_; }
    const std::string& path() const { return path_; }

    // Starts reading a range into the page cache, without waiting.
    void advise(int64_t offset, int64_t count) const;

    // Brings a range into memory, so that touching it can't fault. A mapped read that fails would be a SIGBUS; here it
    // is a ReadError, or a DamagedStoreError when the file has become shorter. (On kernels before 5.14, which can't do
    // this, it does nothing.)
    void load(int64_t offset, int64_t count) const;

    // Lets go of the pages that were touched so far; they stay in the page cache.
    void forget() const;

    // True when a range is in the page cache, as far as the kernel tells: it tells only the owner of a file, or who may
    // write it, and says yes to everybody else.
    bool resident(int64_t offset, int64_t count) const;

    // True when `fd` is the very file that is mapped.
    bool is(int fd) const;

  private:
    std::string path_;
    Bytes bytes_;
    uint64_t device_;
    uint64_t inode_;
};

}  // namespace mome

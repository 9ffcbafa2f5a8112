// Descriptors of our own for positional reads of a shard, beside the snapshot's.
#pragma once

#include <string>

namespace mome {

// How the bytes of a shard can be reached besides through its mapping.
enum class Access {
    mapped,    // not at all
    buffered,  // positional reads through the page cache
    direct     // positional reads past it (O_DIRECT): offsets, lengths and addresses are multiples of 4096
};

class ReadFile {
  public:
    // Opens the file behind `fd` once more, which works after it has lost its name, too. Throws ReadError: EINVAL when
    // the file system has no O_DIRECT. `path` is for messages.
    ReadFile(int fd, Access access, const std::string& path);
    ~ReadFile();
    ReadFile(const ReadFile&) = delete;
    ReadFile& operator=(const ReadFile&) = delete;

    int fd() const { return fd_; }                 // as the access says; -1 when there is none
    int buffered_fd() const { return buffered_; }  // through the page cache, also with Access::direct

  private:
    void close_all() const;

    int fd_ = -1;
    int buffered_ = -1;
};

}  // namespace mome

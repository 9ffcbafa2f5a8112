// Opens shards for positional reads.
#include "io/read_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "format/errors.h"

namespace mome {

ReadFile::ReadFile(int fd, Access access, const std::string& path) {
    if (access == Access::mapped) return;
    // O_DIRECT belongs to the open file, which a duplicated descriptor would share with the snapshot's.
    const std::string again = "/proc/self/fd/" + std::to_string(fd);
    buffered_ = fd_ = open(again.c_str(), O_RDONLY | O_CLOEXEC);
    if (access == Access::direct) fd_ = open(again.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd_ < 0 || buffered_ < 0) {
        const int reason = errno;
        close_all();
        throw ReadError(path, 0, reason);
    }
}

ReadFile::~ReadFile() {
    close_all();
}

void ReadFile::close_all() const {
    if (fd_ >= 0 && fd_ != buffered_) close(fd_);
    if (buffered_ >= 0) close(buffered_);
}

}  // namespace mome

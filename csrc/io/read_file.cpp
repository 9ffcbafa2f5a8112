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
    fd_ = open(again.c_str(), O_RDONLY | O_CLOEXEC | (access == Access::direct ? O_DIRECT : 0));
    if (fd_ < 0) throw ReadError(path, 0, errno);
}

ReadFile::~ReadFile() {
    if (fd_ >= 0) close(fd_);
}

}  // namespace mome

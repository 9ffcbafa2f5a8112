// Maps files, and asks the kernel to bring ranges of them into memory.
#include "io/mapped_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "format/errors.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; absent from older headers
#endif

namespace mome {
namespace {

size_t page_bytes() {
    static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

// The pages that hold [offset, offset + count), as madvise wants them.
std::pair<void*, size_t> pages(Bytes mapping, int64_t offset, int64_t count) {
    const size_t begin = static_cast<size_t>(offset) / page_bytes() * page_bytes();
    const auto* at = mapping.data() + begin;
    return {const_cast<std::byte*>(at), static_cast<size_t>(offset + count) - begin};
}

DamagedStoreError wrong_size(const std::string& path, int64_t found, int64_t expected) {
    return {path, std::nullopt, std::nullopt,
            "the file has " + std::to_string(found) + " bytes, expected " + std::to_string(expected)};
}

}  // namespace

MappedFile::MappedFile(int fd, std::string path, int64_t expected_bytes) : path_(std::move(path)) {
    struct stat status{};
    if (fstat(fd, &status) != 0) throw ReadError(path_, 0, errno);
    if (status.st_size != expected_bytes) throw wrong_size(path_, status.st_size, expected_bytes);
    device_ = status.st_dev;
    inode_ = status.st_ino;
    const auto count = static_cast<size_t>(expected_bytes);
    void* at = mmap(nullptr, count, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) throw ReadError(path_, 0, errno);
    bytes_ = Bytes(static_cast<const std::byte*>(at), count);
}

MappedFile::~MappedFile() {
    munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::advise(int64_t offset, int64_t count) const {
    const auto [at, length] = pages(bytes_, offset, count);
    madvise(at, length, MADV_WILLNEED);  // advice: what it fails to do, load() or the touch itself will
}

void MappedFile::load(int64_t offset, int64_t count) const {
    const auto [at, length] = pages(bytes_, offset, count);
    if (madvise(at, length, MADV_POPULATE_READ) == 0 || errno == EINVAL) return;
    const int reason = errno;
    struct stat status{};
    const auto expected = static_cast<int64_t>(bytes_.size());
    if (stat(path_.c_str(), &status) == 0 && status.st_ino == inode_ && status.st_size < expected) {
        throw wrong_size(path_, status.st_size, expected);
    }
    throw ReadError(path_, offset, reason == EFAULT ? EIO : reason);  // EFAULT: touching it would be a SIGBUS
}

void MappedFile::forget() const {
    madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

bool MappedFile::resident(int64_t offset, int64_t count) const {
    constexpr size_t kMost = 1024;  // pages asked about at once
    unsigned char present[kMost];
    auto [at, length] = pages(bytes_, offset, count);
    while (length > 0) {
        const size_t asked = std::min(length, kMost * page_bytes());
        if (mincore(at, asked, present) != 0) return false;
        const size_t counted = (asked + page_bytes() - 1) / page_bytes();
        if (!std::all_of(present, present + counted, [](unsigned char page) { return (page & 1) != 0; })) return false;
        at = static_cast<std::byte*>(at) + asked;
        length -= asked;
    }
    return true;
}

bool MappedFile::is(int fd) const {
    struct stat status{};
    return fstat(fd, &status) == 0 && status.st_dev == device_ && status.st_ino == inode_ &&
           status.st_size == static_cast<int64_t>(bytes_.size());
}

}  // namespace mome

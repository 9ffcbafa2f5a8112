// Shard files for tests, written from the description in docs/format.md rather than with the code under test (except
// for crc32c, which test_format checks against published values).
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "format/crc32c.h"
#include "format/record.h"
#include "io/shard_set.h"

namespace mome::test {

using Buffer = std::vector<std::byte>;

template <class T>
void put(Buffer& buffer, size_t offset, T value) {
    std::memcpy(buffer.data() + offset, &value, sizeof value);
}

inline void seal_record(Buffer& record) {
    put(record, record.size() - 4, crc32c(Bytes(record).first(record.size() - 4)));
}

// A record of `format` with a random payload.
inline Buffer make_record(const RecordFormat& format, uint64_t expert_id, uint64_t group_id, uint32_t rank) {
    Buffer record(static_cast<size_t>(format.record_bytes));
    std::mt19937_64 random(expert_id);
    for (size_t i = 0; i < static_cast<size_t>(format.payload_bytes); ++i)
        record[i] = std::byte(random() & 0xFF);
    const size_t at = record.size() - 64;
    std::memcpy(record.data() + at, "MOMEREC\n", 8);
    put(record, at + 8, uint32_t{1});
    put(record, at + 16, expert_id);
    put(record, at + 24, group_id);
    put(record, at + 32, static_cast<uint64_t>(format.payload_bytes));
    put(record, at + 40, rank);
    put(record, at + 44, format.schema_crc);
    seal_record(record);
    return record;
}

// A shard file that holds records by slot; `index_crc` is what a catalogue would say.
struct ShardImage {
    Buffer bytes;
    uint32_t index_crc;
};

inline void seal_index(ShardImage& image, size_t slots) {
    const size_t entries = 16 * slots;
    image.index_crc = crc32c(Bytes(image.bytes).subspan(image.bytes.size() - entries - 4, entries));
    put(image.bytes, image.bytes.size() - 4, image.index_crc);
}

inline ShardImage make_shard(const std::map<size_t, Buffer>& records, size_t slots) {
    ShardImage image{};
    std::vector<uint64_t> entries(2 * slots, ~uint64_t{0});
    for (const auto& [slot, record] : records) {
        entries[2 * slot] = image.bytes.size();
        entries[2 * slot + 1] = record.size();
        image.bytes.insert(image.bytes.end(), record.begin(), record.end());
    }
    const size_t data = image.bytes.size();
    image.bytes.resize(data + 16 * slots + 4);
    std::memcpy(image.bytes.data() + data, entries.data(), 16 * slots);
    seal_index(image, slots);
    return image;
}

// A folder that is gone when the test is.
class TemporaryFolder {
  public:
    TemporaryFolder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "mome_test_XXXXXX").string();
        if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
        path_ = pattern;
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

// A shard file on disk and the descriptor that a snapshot would hold.
class ShardFile {
  public:
    ShardFile(const TemporaryFolder& folder, int64_t number, ShardImage image)
        : image_(std::move(image)), number_(number), path_((folder.path() / std::to_string(number)).string()) {
        fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        const auto count = image_.bytes.size();
        if (fd_ < 0 || write(fd_, image_.bytes.data(), count) != static_cast<ssize_t>(count)) {
            throw std::runtime_error("can't write " + path_);
        }
    }
    ~ShardFile() { close(fd_); }
    ShardFile(const ShardFile&) = delete;
    ShardFile& operator=(const ShardFile&) = delete;

    ShardSource source() const {
        return {.number = number_,
                .fd = fd_,
                .path = path_,
                .bytes = static_cast<int64_t>(image_.bytes.size()),
                .index_crc = image_.index_crc};
    }
    int fd() const { return fd_; }

  private:
    ShardImage image_;
    int64_t number_;
    std::string path_;
    int fd_;
};

}  // namespace mome::test

// Where the records of a shard lie: the index at the end of a Zarr v3 `sharding_indexed` file.
// Format: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
//
//   K pairs (u64 offset, u64 nbytes), both 2^64 - 1 for a missing inner chunk, then the u32 crc32c of the pairs.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "format/bytes.h"

namespace mome {

class ShardIndex {
  public:
    static constexpr uint64_t kMissing = std::numeric_limits<uint64_t>::max();

    static constexpr size_t bytes_for(size_t slots) { return 16 * slots + 4; }

    // Parses the index of a whole shard file. Checks the index's checksum against itself and against `committed_crc`,
    // and that every record has `record_bytes`, is 4096-aligned, ends before the index and overlaps no other. Throws
    // DamagedStoreError naming `path` (and the row, counted from `first_row`).
    static ShardIndex parse(Bytes file, size_t slots, size_t record_bytes, uint32_t committed_crc,
                            const std::string& path, int64_t first_row);

    // Byte offset of the record in `slot`, or kMissing.
    uint64_t offset(size_t slot) const { return offsets_[slot]; }

  private:
    std::vector<uint64_t> offsets_;
};

}  // namespace mome

// Parses shard indexes, trusting nothing in the file.
#include "format/shard_index.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "format/crc32c.h"
#include "format/errors.h"
#include "format/layout.h"

namespace mome {

ShardIndex ShardIndex::parse(Bytes file, size_t slots, size_t record_bytes, uint32_t committed_crc,
                             const std::string& path, int64_t first_row) {
    auto damaged = [&](std::optional<size_t> slot, const std::string& problem) {
        const auto row = slot ? std::optional(first_row + static_cast<int64_t>(*slot)) : std::nullopt;
        return DamagedStoreError(path, row, std::nullopt, problem);
    };
    const size_t index_bytes = bytes_for(slots);
    if (file.size() < index_bytes) throw damaged(std::nullopt, "the file is shorter than its index");
    const size_t data_bytes = file.size() - index_bytes;
    const Bytes index = file.subspan(data_bytes);
    const auto stored_crc = load<uint32_t>(index, index_bytes - 4);
    if (stored_crc != committed_crc || crc32c(index.first(index_bytes - 4)) != stored_crc) {
        throw damaged(std::nullopt, "the checksum of the shard's index does not match");
    }

    ShardIndex parsed;
    parsed.offsets_.resize(slots, kMissing);
    std::vector<std::pair<uint64_t, size_t>> present;  // (offset, slot)
    for (size_t slot = 0; slot < slots; ++slot) {
        const auto offset = load<uint64_t>(index, 16 * slot);
        const auto nbytes = load<uint64_t>(index, 16 * slot + 8);
        if (offset == kMissing && nbytes == kMissing) continue;
        if (nbytes != record_bytes) {
            throw damaged(
                slot, "the record has " + std::to_string(nbytes) + " bytes, expected " + std::to_string(record_bytes));
        }
        if (offset % RecordLayout::kRecordAlignment != 0)
            throw damaged(slot, "the record is not aligned to 4096 bytes");
        if (offset > data_bytes || data_bytes - offset < nbytes) {
            throw damaged(slot, "the record lies outside the shard's data");
        }
        parsed.offsets_[slot] = offset;
        present.emplace_back(offset, slot);
    }
    std::ranges::sort(present);
    for (size_t i = 1; i < present.size(); ++i) {
        if (present[i].first - present[i - 1].first < record_bytes) {
            throw damaged(present[i].second, "the record overlaps another");
        }
    }
    return parsed;
}

}  // namespace mome

// Input: a byte that says how many slots and whether the checksum is made to fit, then the shard file. What is parsed
// must be what the header promises: records that are aligned, inside the file and apart from each other.
#include <iterator>
#include <random>
#include <vector>

#include "format/crc32c.h"
#include "format/errors.h"
#include "format/shard_index.h"
#include "input.h"

using namespace mome;

namespace {

constexpr size_t kRecordBytes = 4096;

void check(const ShardIndex& index, size_t slots, size_t data_bytes) {
    std::vector<uint64_t> offsets;
    for (size_t slot = 0; slot < slots; ++slot) {
        if (index.offset(slot) != ShardIndex::kMissing) offsets.push_back(index.offset(slot));
    }
    std::sort(offsets.begin(), offsets.end());
    for (size_t i = 0; i < offsets.size(); ++i) {
        fuzz::require(offsets[i] % 4096 == 0, "a record is aligned");
        fuzz::require(offsets[i] <= data_bytes && data_bytes - offsets[i] >= kRecordBytes, "a record is inside");
        fuzz::require(i == 0 || offsets[i] - offsets[i - 1] >= kRecordBytes, "records do not overlap");
    }
}

}  // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t* bytes, size_t size, size_t max_size);

// Every other time a number of the index becomes one that is likely to mean something there.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* bytes, size_t size, size_t max_size, unsigned seed) {
    std::minstd_rand chance(seed);
    const size_t slots = size > 0 ? 1 + bytes[0] % 16 : 1;
    const size_t index_bytes = ShardIndex::bytes_for(slots);
    if (size < 1 + index_bytes || chance() % 2 == 0) return LLVMFuzzerMutate(bytes, size, max_size);
    const uint64_t likely[] = {4096 * (chance() % 4), 4096 * (chance() % 4), kRecordBytes, kRecordBytes,
                               ShardIndex::kMissing,  0 - uint64_t{4096},    chance()};
    const uint64_t value = likely[chance() % std::size(likely)];
    std::memcpy(bytes + size - index_bytes + 8 * (chance() % (2 * slots)), &value, sizeof value);
    return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    fuzz::Input input(bytes, size);
    const auto settings = input.take<uint8_t>();
    const size_t slots = 1 + settings % 16;
    std::vector<std::byte> file(input.rest().begin(), input.rest().end());
    uint32_t committed = 0;
    const size_t index_bytes = ShardIndex::bytes_for(slots);
    if (settings & 0x80 && file.size() >= index_bytes) {
        const Bytes entries = Bytes(file).subspan(file.size() - index_bytes, index_bytes - 4);
        committed = crc32c(entries);
        std::memcpy(file.data() + file.size() - 4, &committed, 4);
    }
    try {
        check(ShardIndex::parse(file, slots, kRecordBytes, committed, "shard", 7), slots, file.size() - index_bytes);
    } catch (const DamagedStoreError& error) {
        fuzz::require(error.file == "shard", "an error names the file");
        fuzz::require(!error.row || (*error.row >= 7 && *error.row < 7 + static_cast<int64_t>(slots)),
                      "an error names a row of the shard");
    }
    return 0;
}

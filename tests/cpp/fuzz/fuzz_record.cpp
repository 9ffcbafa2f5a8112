// Input: a byte that says whether the checksum is made to fit, then a record of 4096 bytes (cut, or filled up with
// zeros before its trailer). A record that passes is the one that was asked for, whole.
#include <array>

#include "format/crc32c.h"
#include "format/record.h"
#include "input.h"

using namespace mome;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    constexpr RecordFormat kFormat{.record_bytes = 4096, .payload_bytes = 288, .rank = 2, .schema_crc = 0x90F2D28A};
    fuzz::Input input(bytes, size);
    const bool sealed = input.take<uint8_t>() & 1;
    std::array<std::byte, 4096> record{};
    const auto given = input.rest().first(std::min(input.rest().size(), record.size()));
    const size_t trailer = std::min(given.size(), sizeof(Trailer));
    std::copy(given.begin(), given.end() - static_cast<std::ptrdiff_t>(trailer), record.begin());
    std::copy(given.end() - static_cast<std::ptrdiff_t>(trailer), given.end(),
              record.end() - static_cast<std::ptrdiff_t>(trailer));
    if (sealed) {
        const uint32_t crc = crc32c(Bytes(record).first(record.size() - 4));
        std::memcpy(record.data() + record.size() - 4, &crc, 4);
    }
    const auto found = load<Trailer>(record, record.size() - sizeof(Trailer));
    for (const bool with_checksum : {false, true}) {
        const RecordVerdict verdict = check_record(record, kFormat, 1, 1, with_checksum);
        if (!verdict.problem.empty()) continue;
        fuzz::require(found.expert_id == 1 && found.group_id == 1, "it is the expert that was asked for");
        fuzz::require(verdict.rank == found.rank && verdict.rank >= 1 && verdict.rank <= kFormat.rank,
                      "its rank is one of the schema's");
        fuzz::require(found.schema_crc == kFormat.schema_crc, "it is of the schema");
        fuzz::require(!with_checksum || crc32c(Bytes(record).first(record.size() - 4)) == found.crc, "it is whole");
    }
    return 0;
}

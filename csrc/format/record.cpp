// Judges records.
#include "format/record.h"

#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include "format/crc32c.h"

namespace mome {
namespace {

std::string hex(uint32_t value) {
    char text[11];
    std::snprintf(text, sizeof text, "0x%08x", value);
    return text;
}

struct Field {
    std::string_view name;
    uint64_t found;
    int64_t expected;
};

}  // namespace

RecordVerdict check_record(Bytes record, const RecordFormat& format, int64_t expert_id, int64_t group_id,
                           bool with_checksum) {
    auto bad = [](std::string problem) { return RecordVerdict{.rank = 0, .problem = std::move(problem)}; };
    const auto trailer = load<Trailer>(record, record.size() - sizeof(Trailer));
    if (std::memcmp(trailer.magic, Trailer::kMagic, sizeof trailer.magic) != 0) {
        return bad("no record here: the trailer does not begin with MOMEREC");
    }
    if (with_checksum) {
        const uint32_t found = crc32c(record.first(record.size() - sizeof trailer.crc));
        if (found != trailer.crc) {
            return bad("checksum of the record is " + hex(found) + ", its trailer says " + hex(trailer.crc));
        }
    }
    const Field fields[] = {
        {.name = "version", .found = trailer.version, .expected = Trailer::kVersion},
        {.name = "flags", .found = trailer.flags, .expected = 0},
        {.name = "expert_id", .found = trailer.expert_id, .expected = expert_id},
        {.name = "group_id", .found = trailer.group_id, .expected = group_id},
        {.name = "payload_bytes", .found = trailer.payload_bytes, .expected = format.payload_bytes},
        {.name = "schema_crc", .found = trailer.schema_crc, .expected = format.schema_crc},
        {.name = "reserved", .found = trailer.reserved, .expected = 0},
    };
    for (const Field& field : fields) {
        if (field.found != static_cast<uint64_t>(field.expected)) {
            return bad("the record's " + std::string(field.name) + " is " + std::to_string(field.found) +
                       ", expected " + std::to_string(field.expected));
        }
    }
    if (trailer.rank < 1 || trailer.rank > format.rank) {
        return bad("the record's rank is " + std::to_string(trailer.rank) + ", expected 1 to " +
                   std::to_string(format.rank));
    }
    return {.rank = trailer.rank, .problem = {}};
}

std::vector<RecordProblem> check_records(Bytes bytes, const RecordFormat& format, std::span<const int64_t> at,
                                         std::span<const int64_t> expert_ids, std::span<const int64_t> group_ids) {
    std::vector<RecordProblem> found;
    for (size_t i = 0; i < at.size(); ++i) {
        const Bytes record = bytes.subspan(static_cast<size_t>(at[i]), static_cast<size_t>(format.record_bytes));
        RecordVerdict verdict = check_record(record, format, expert_ids[i], group_ids[i], true);
        if (!verdict.problem.empty()) {
            found.push_back({.index = static_cast<int64_t>(i), .problem = std::move(verdict.problem)});
        }
    }
    return found;
}

}  // namespace mome

// What a record's trailer says, and whether a record is the one that was committed (docs/format.md, "Record").
#pragma once

#include <cstdint>
#include <string>

#include "format/bytes.h"

namespace mome {

// The last 64 bytes of a record, byte for byte.
struct Trailer {
    static constexpr char kMagic[8] = {'M', 'O', 'M', 'E', 'R', 'E', 'C', '\n'};
    static constexpr uint32_t kVersion = 1;

    char magic[8];
    uint32_t version;
    uint32_t flags;
    uint64_t expert_id;
    uint64_t group_id;
    uint64_t payload_bytes;
    uint32_t rank;
    uint32_t schema_crc;
    uint64_t commit;
    uint32_t reserved;
    uint32_t crc;  // of every byte of the record before this field
};
static_assert(sizeof(Trailer) == 64);

// What every record of a store has in common.
struct RecordFormat {
    int64_t record_bytes;
    int64_t payload_bytes;
    int64_t rank;  // the most rows that an expert may have
    uint32_t schema_crc;
};

struct RecordVerdict {
    int64_t rank;         // of the expert
    std::string problem;  // empty: the record is good
};

// Judges the record that should be `expert_id` of `group_id`: the trailer always, the checksum too when
// `with_checksum`.
RecordVerdict check_record(Bytes record, const RecordFormat& format, int64_t expert_id, int64_t group_id,
                           bool with_checksum);

}  // namespace mome

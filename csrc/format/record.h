// What a record's trailer says, and whether a record is the one that was committed (docs/format.md, "Record").
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

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

// The `index`-th of many records is not what it should be.
struct RecordProblem {
    int64_t index;
    std::string problem;
};

// Judges the records that begin at offsets `at` of `bytes`, checksums included, and gives those with a problem. The
// caller has checked that they lie inside and that the three lists are of one length.
std::vector<RecordProblem> check_records(Bytes bytes, const RecordFormat& format, std::span<const int64_t> at,
                                         std::span<const int64_t> expert_ids, std::span<const int64_t> group_ids);

}  // namespace mome

// The checksum, the record layout, records and shard indexes.
#include <map>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "format/crc32c.h"
#include "format/errors.h"
#include "format/key.h"
#include "format/layout.h"
#include "format/record.h"
#include "format/shard_index.h"
#include "shard_file.h"

using namespace mome;
using namespace mome::test;

namespace {

constexpr RecordFormat kFormat{.record_bytes = 8192, .payload_bytes = 5000, .rank = 4, .schema_crc = 77};

Bytes as_bytes(const std::string& text) {
    return std::as_bytes(std::span(text));
}

std::string problem_of(const Buffer& record) {
    return check_record(record, kFormat, 5, 9, true).problem;
}

}  // namespace

TEST("crc32c has the published values (RFC 3720 B.4)") {
    CHECK(crc32c({}) == 0);
    CHECK(crc32c(as_bytes("123456789")) == 0xE3069283);
    CHECK(crc32c(Buffer(32, std::byte{0})) == 0x8A9136AA);
    CHECK(crc32c(Buffer(32, std::byte{0xFF})) == 0x62A8AB43);
}

TEST("crc32c by instruction equals crc32c by table at every length and start") {
    if (!crc32c_detail::has_sse42()) return;
    std::mt19937_64 random(1);
    Buffer buffer(20000);
    for (auto& byte : buffer)
        byte = std::byte(random() & 0xFF);
    for (size_t count = 0; count < buffer.size() - 8; count += (count < 900 ? 1 : 613)) {
        const size_t start = count % 8;
        const auto* at = buffer.data() + start;
        CHECK(crc32c_detail::update_sse42(123, at, count) == crc32c_detail::update_table(123, at, count));
    }
}

TEST("crc32c continues the checksum of a prefix") {
    const Buffer buffer = make_record(kFormat, 1, 1, 1);
    for (const size_t cut : {0, 1, 63, 4096, 8192}) {
        CHECK(crc32c(Bytes(buffer).subspan(cut), crc32c(Bytes(buffer).first(cut))) == crc32c(buffer));
    }
}

TEST("sections follow each other at multiples of 256 and the record ends on a page") {
    const std::vector<ModuleShape> modules{{.d_in = 1536, .d_out = 576}, {.d_in = 8, .d_out = 24}};
    const RecordLayout layout = RecordLayout::make(modules, 3, DType::bfloat16);
    CHECK(layout.sections[0].a_offset == 0);
    CHECK(layout.sections[0].b_offset == 9216);         // 3 x 1536 x 2 bytes
    CHECK(layout.sections[1].a_offset == 9216 + 3584);  // 3 x 576 x 2 = 3456, rounded up
    CHECK(layout.sections[1].b_offset == 9216 + 3584 + 256);
    CHECK(layout.payload_bytes == 9216 + 3584 + 256 + 144);
    CHECK(layout.record_bytes == 16384);
}

TEST("the trailer never shares its bytes with the payload") {
    for (int64_t d = 8; d < 3000; d += 8) {
        const std::vector<ModuleShape> modules{{.d_in = 8, .d_out = d}};
        const RecordLayout layout = RecordLayout::make(modules, 1, DType::float32);
        CHECK(layout.record_bytes % 4096 == 0);
        CHECK(layout.payload_bytes + 64 <= layout.record_bytes);
        CHECK(layout.record_bytes - 4096 < layout.payload_bytes + 128);
    }
}

TEST("a layout of impossible shapes is refused") {
    const std::vector<ModuleShape> odd{{.d_in = 12, .d_out = 8}};
    const std::vector<ModuleShape> good{{.d_in = 8, .d_out = 8}};
    CHECK_THROWS(SchemaError, RecordLayout::make(odd, 1, DType::float16));
    CHECK_THROWS(SchemaError, RecordLayout::make(good, 0, DType::float16));
    CHECK_THROWS(SchemaError, RecordLayout::make({}, 1, DType::float16));

    const int64_t most = std::numeric_limits<int64_t>::max();
    const std::vector<ModuleShape> widest{{.d_in = most - 7, .d_out = 8}};
    const std::vector<ModuleShape> wide(5, {.d_in = int64_t{1} << 45, .d_out = 8});
    CHECK_THROWS(SchemaError, RecordLayout::make(widest, 1, DType::float32));
    CHECK_THROWS(SchemaError, RecordLayout::make(good, most, DType::float16));
    CHECK_THROWS(SchemaError, RecordLayout::make(wide, 1, DType::float32));  // each would do, all together not
}

TEST("a good record tells its rank") {
    const RecordVerdict verdict = check_record(make_record(kFormat, 5, 9, 3), kFormat, 5, 9, true);
    CHECK(verdict.problem.empty());
    CHECK(verdict.rank == 3);
}

TEST("a flipped bit anywhere in a record is found") {
    const Buffer good = make_record(kFormat, 5, 9, 3);
    for (size_t byte = 0; byte < good.size(); byte += (byte < good.size() - 64 ? 97 : 1)) {
        Buffer bad = good;
        bad[byte] ^= std::byte{0x10};
        CHECK(!problem_of(bad).empty());
    }
}

TEST("a sealed record that is not the one asked for is found") {
    const size_t trailer = 8192 - 64;
    const std::map<size_t, std::string> fields{{8, "version"},     {12, "flags"},         {16, "expert_id"},
                                               {24, "group_id"},   {32, "payload_bytes"}, {40, "rank"},
                                               {44, "schema_crc"}, {56, "reserved"}};
    for (const auto& [offset, name] : fields) {
        Buffer record = make_record(kFormat, 5, 9, 3);
        put(record, trailer + offset, uint32_t{1000});
        seal_record(record);
        CHECK(problem_of(record).find(name) != std::string::npos);
    }
    Buffer record = make_record(kFormat, 5, 9, 0);
    CHECK(problem_of(record).find("rank is 0") != std::string::npos);
}

TEST("without the checksum the trailer is still judged") {
    Buffer record = make_record(kFormat, 5, 9, 3);
    record[0] ^= std::byte{1};
    CHECK(check_record(record, kFormat, 5, 9, false).problem.empty());
    CHECK(!check_record(record, kFormat, 6, 9, false).problem.empty());
}

TEST("of many records those that are not what they should be are found, each with its problem") {
    Buffer bytes;
    for (int64_t id = 1; id <= 4; ++id) {
        const Buffer record = make_record(kFormat, id, 9, 3);
        bytes.insert(bytes.end(), record.begin(), record.end());
    }
    bytes[2 * 8192 + 77] ^= std::byte{1};
    const std::vector<int64_t> at{0, 8192, 16384, 24576}, experts{1, 7, 3, 4}, groups{9, 9, 9, 9};
    const auto found = check_records(bytes, kFormat, at, experts, groups);
    CHECK(found.size() == 2);
    CHECK(found[0].index == 1 && found[0].problem.find("expert_id") != std::string::npos);
    CHECK(found[1].index == 2 && found[1].problem.find("checksum") != std::string::npos);
    CHECK(check_records(bytes, kFormat, {}, {}, {}).empty());
}

TEST("a key with a number that is not finite is found wherever it is") {
    constexpr int64_t kWidth = 37;
    for (const uint32_t bits : {0x7F800000u, 0xFF800000u, 0x7FC00000u, 0x7F800001u, 0x7F7FFFFFu, 0u}) {
        for (size_t place = 0; place < kWidth; place += 9) {
            Buffer keys(3 * 4 * kWidth);
            put(keys, 4 * kWidth + 4 * place, bits);
            const auto found = keys_not_finite(keys, kWidth, std::vector<int64_t>{0, 4 * kWidth, 8 * kWidth});
            CHECK(found == (bits > 0x7F7FFFFF ? std::vector<int64_t>{1} : std::vector<int64_t>{}));
        }
    }
}

TEST("a shard's index gives each present record's offset and no other") {
    const Buffer record = make_record(kFormat, 5, 9, 3);
    const ShardImage image = make_shard({{1, record}, {3, record}}, 4);
    const ShardIndex index = ShardIndex::parse(image.bytes, 4, 8192, image.index_crc, "shard", 40);
    CHECK(index.offset(0) == ShardIndex::kMissing);
    CHECK(index.offset(1) == 0);
    CHECK(index.offset(2) == ShardIndex::kMissing);
    CHECK(index.offset(3) == 8192);
}

TEST("every kind of broken index is refused, by row") {
    const Buffer record = make_record(kFormat, 5, 9, 3);
    const ShardImage good = make_shard({{0, record}, {1, record}}, 2);
    const size_t entries = 2 * 8192;
    auto parse = [](const ShardImage& image) {
        return ShardIndex::parse(image.bytes, 2, 8192, image.index_crc, "shard", 40);
    };
    auto with = [&](size_t word, uint64_t value) {
        ShardImage image = good;
        put(image.bytes, entries + 8 * word, value);
        seal_index(image, 2);
        return image;
    };
    CHECK_THROWS(DamagedStoreError, parse(with(2, 100)), error.row == 41);              // not aligned
    CHECK_THROWS(DamagedStoreError, parse(with(2, 0)), error.row == 41);                // over the first
    CHECK_THROWS(DamagedStoreError, parse(with(2, 4096)), error.row == 41);             // half over the first
    CHECK_THROWS(DamagedStoreError, parse(with(2, 12288)), error.row == 41);            // into the index
    CHECK_THROWS(DamagedStoreError, parse(with(2, ~uint64_t{4095})), error.row == 41);  // sum wraps around
    CHECK_THROWS(DamagedStoreError, parse(with(1, 4096)), error.row == 40);             // wrong length
    CHECK_THROWS(DamagedStoreError, parse(with(0, ~uint64_t{0})), error.row == 40);     // half missing

    ShardImage flipped = good;
    flipped.bytes[entries] ^= std::byte{1};
    CHECK_THROWS(DamagedStoreError, parse(flipped), !error.row);
    ShardImage other = good;
    other.index_crc ^= 1;  // a whole shard, but not the committed one
    CHECK_THROWS(DamagedStoreError, parse(other), !error.row);
    ShardImage tiny{.bytes = Buffer(10), .index_crc = 0};
    CHECK_THROWS(DamagedStoreError, parse(tiny), !error.row);
}

int main() {
    return run();
}

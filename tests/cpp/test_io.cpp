// Mapped files and shard sets.
#include <unistd.h>

#include <atomic>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "format/errors.h"
#include "io/iovecs.h"
#include "io/shard_set.h"
#include "shard_file.h"

using namespace mome;
using namespace mome::test;

namespace {

constexpr RecordFormat kFormat{.record_bytes = 4096, .payload_bytes = 3000, .rank = 4, .schema_crc = 77};
constexpr int64_t kSlots = 4;

// Expert id 10 + i in slot i, of group 100 and rank 1 + i.
ShardImage shard_of(std::initializer_list<size_t> slots) {
    std::map<size_t, Buffer> records;
    for (const size_t slot : slots) {
        records[slot] = make_record(kFormat, 10 + slot, 100, static_cast<uint32_t>(1 + slot));
    }
    return make_shard(records, kSlots);
}

std::shared_ptr<ShardSet> open_set(const ShardFile& file, const std::vector<int64_t>& ids,
                                   const std::vector<int64_t>& rows, Verify verify = Verify::record,
                                   const ShardSet* previous = nullptr) {
    const std::vector<ShardSource> sources{file.source()};
    const std::vector<int64_t> groups(ids.size(), 100);
    return std::make_shared<ShardSet>(kFormat, kSlots, verify, sources, runs_of(ids, rows, groups), previous);
}

std::vector<int64_t> find(const ShardSet& set, std::vector<int64_t> ids) {
    return set.find(ids);
}

}  // namespace

TEST("experts are found by id, with their own bytes and rank, and checked once") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 2, shard_of({0, 1, 3}));
    const auto set = open_set(file, {10, 11, 13}, {8, 9, 11});
    const auto positions = find(*set, {13, 10});
    const ExpertRef expert = set->expert(positions[0]);
    const Buffer record = make_record(kFormat, 13, 100, 4);
    CHECK(std::memcmp(expert.base, record.data(), record.size()) == 0);
    CHECK(expert.rank == 4);
    CHECK(expert.checked_now);
    CHECK(!set->expert(positions[0]).checked_now);
    CHECK(set->expert(positions[1]).rank == 1);
}

TEST("every unknown id is named, once") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, shard_of({0, 1}));
    const auto set = open_set(file, {10, 11}, {0, 1});
    CHECK_THROWS(UnknownIdError, find(*set, {12, 10, 9, 12}), error.ids == std::vector<int64_t>({9, 12}));
}

TEST("a damaged record is an error that names row and expert, and stays one") {
    const TemporaryFolder folder;
    ShardImage image = shard_of({0, 1});
    image.bytes[4096 + 17] ^= std::byte{4};
    const ShardFile file(folder, 3, image);
    const auto set = open_set(file, {10, 11}, {12, 13});
    for (int attempt = 0; attempt < 2; ++attempt) {
        CHECK_THROWS(DamagedStoreError, set->expert(1), error.row == 13 && error.expert_id == 11);
    }
    CHECK(set->expert(0).rank == 1);
    CHECK(open_set(file, {10, 11}, {12, 13}, Verify::open)->expert(1).rank == 2);
}

TEST("a shard of another size is refused at open, one cut short later at first use") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, shard_of({0, 1}));
    const auto set = open_set(file, {10, 11}, {0, 1});
    set->expert(0);
    CHECK(ftruncate(file.fd(), 4096) == 0);
    CHECK_THROWS(DamagedStoreError, set->expert(1), error.problem.find("4096 bytes") != std::string::npos);
    CHECK(!set->expert(0).checked_now);
    CHECK_THROWS(DamagedStoreError, open_set(file, {10, 11}, {0, 1}));
}

TEST("a live expert whose shard or slot is missing is refused at open") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, shard_of({0, 1}));
    CHECK_THROWS(DamagedStoreError, open_set(file, {10, 12}, {0, 2}), error.row == 2 && error.expert_id == 12);
    CHECK_THROWS(DamagedStoreError, open_set(file, {10, 12}, {0, 400}), error.row == 400 && error.expert_id == 12);
}

TEST("a closed descriptor is a read error") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, shard_of({0}));
    ShardSource source = file.source();
    source.fd = -1;
    const std::vector<ShardSource> sources{source};
    CHECK_THROWS(ReadError,
                 ShardSet(kFormat, kSlots, Verify::record, sources,
                          {{.row = 0, .id = 10, .group_id = 100, .groups = 1, .per_group = 1}}),
                 error.error_number == EBADF);
}

TEST("ids out of order, rows without ids and odd record sizes are refused") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, shard_of({0, 1}));
    CHECK_THROWS(SchemaError, open_set(file, {11, 10}, {1, 0}));
    CHECK_THROWS(SchemaError, open_set(file, {10, 10}, {0, 0}));
    CHECK_THROWS(SchemaError, open_set(file, {10}, {0, 1}));
    CHECK_THROWS(SchemaError, open_set(file, {10}, {-1}));
    const std::vector<ShardSource> sources{file.source()};
    CHECK_THROWS(SchemaError, ShardSet({.record_bytes = 100, .payload_bytes = 8, .rank = 1, .schema_crc = 0}, kSlots,
                                       Verify::record, sources, {}));
}

TEST("runs say what their experts say one by one") {
    const std::vector<int64_t> ids{3, 4, 5, 9, 10, 11, 12, 13}, rows{0, 1, 2, 3, 4, 7, 8, 20},
        groups{1, 2, 3, 7, 7, 7, 8, 9};
    const ExpertRuns runs(runs_of(ids, rows, groups), 100);
    CHECK(runs.count() == 8 && runs.runs().size() == 4);
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto position = static_cast<int64_t>(i);
        CHECK(runs.position_of(ids[i]) == position);
        CHECK(runs.at(position).id == ids[i] && runs.at(position).row == rows[i] &&
              runs.at(position).group == groups[i]);
    }
    for (const int64_t unknown : {-1, 0, 2, 6, 8, 14})
        CHECK(runs.position_of(unknown) == -1);
    CHECK(ExpertRuns({}, 0).position_of(0) == -1);
}

TEST("runs that can't be are refused before anything is counted out") {
    const ExpertRun good{.row = 0, .id = 10, .group_id = 1, .groups = 3, .per_group = 2};
    auto refused = [](std::vector<ExpertRun> runs) { CHECK_THROWS(SchemaError, ExpertRuns(std::move(runs), 8)); };
    for (const auto& [groups, per_group] :
         {std::pair<int64_t, int64_t>{0, 1}, {1, 0}, {-1, 2}, {3, 3}, {int64_t{1} << 40, int64_t{1} << 40}}) {
        ExpertRun run = good;
        run.groups = groups;
        run.per_group = per_group;
        refused({run});
    }
    refused({good, {.row = 6, .id = 15, .group_id = 4, .groups = 1, .per_group = 1}});  // expert 15 is in both
    const int64_t most = std::numeric_limits<int64_t>::max();
    refused({{.row = 0, .id = most - 1, .group_id = 1, .groups = 2, .per_group = 1}});
    refused({{.row = most - 1, .id = 1, .group_id = 1, .groups = 2, .per_group = 1}});
    refused({{.row = 0, .id = 1, .group_id = most - 1, .groups = 2, .per_group = 1}});
}

TEST("a later snapshot takes mapped shards over with what is known of their records") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, shard_of({0, 1}));
    auto first = open_set(file, {10, 11}, {0, 1});
    const auto* base = first->expert(0).base;
    const auto second = open_set(file, {10}, {0}, Verify::record, first.get());
    first.reset();
    CHECK(second->expert(0).base == base);
    CHECK(!second->expert(0).checked_now);
    CHECK_THROWS(UnknownIdError, find(*second, {11}));
}

TEST("a shard of the same number in another file is not taken over") {
    const TemporaryFolder folder, elsewhere;
    const ShardFile file(folder, 0, shard_of({0, 1}));
    const ShardFile other(elsewhere, 0, shard_of({0, 1}));
    const auto first = open_set(file, {10, 11}, {0, 1});
    first->expert(0);
    const auto second = open_set(other, {10, 11}, {0, 1}, Verify::record, first.get());
    CHECK(second->expert(0).checked_now);
}

TEST("reading ahead counts only records that have not been used") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, shard_of({0, 1}));
    const auto set = open_set(file, {10, 11}, {0, 1});
    set->expert(0);
    const std::vector<int64_t> both{0, 1};
    CHECK(set->advise(both) == 1);
}

TEST("threads that use a record for the first time together all see it good") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, shard_of({0, 1, 2, 3}));
    for (int round = 0; round < 20; ++round) {
        const auto set = open_set(file, {10, 11, 12, 13}, {0, 1, 2, 3});
        std::atomic<int> wrong{0};
        std::vector<std::thread> threads;
        for (int thread = 0; thread < 4; ++thread) {
            threads.emplace_back([&, thread] {
                for (int64_t i = 0; i < 4; ++i) {
                    const int64_t position = (i + thread) % 4;
                    if (set->expert(position).rank != 1 + position) ++wrong;
                }
            });
        }
        for (auto& thread : threads)
            thread.join();
        CHECK(wrong == 0);
    }
}

TEST("a read that comes back short goes on where it stopped, across buffers") {
    Buffer first(3), second(5), third(2);
    const std::vector<std::span<std::byte>> parts{first, second, third};
    for (const std::vector<size_t>& pieces : {std::vector<size_t>{10}, {1, 2, 7}, {4, 4, 2}, {3, 5, 2}, {9, 1}}) {
        Iovecs left(parts);
        size_t done = 0;
        for (const size_t piece : pieces) {
            CHECK(!left.empty() && left.done() == done);
            size_t rest = 0;
            for (int i = 0; i < left.count(); ++i)
                rest += left.data()[i].iov_len;
            CHECK(rest == 10 - done);
            const auto* at = static_cast<std::byte*>(left.data()->iov_base);
            const Buffer& in = done < 3 ? first : done < 8 ? second : third;
            CHECK(at == in.data() + (done < 3 ? done : done < 8 ? done - 3 : done - 8));
            left.advance(piece);
            done += piece;
        }
        CHECK(left.empty() && left.done() == 10);
    }
}

int main() {
    return run();
}

// Leases and the expert cache.
#include <atomic>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "format/errors.h"
#include "runtime/expert_cache.h"
#include "shard_file.h"

using namespace mome;
using namespace mome::test;

namespace {

constexpr RecordFormat kFormat{.record_bytes = 4096, .payload_bytes = 3000, .rank = 4, .schema_crc = 77};

// Experts 0 .. 7 of group 1, expert i of rank 1 + i % 4, in one shard.
ShardImage eight_experts() {
    std::map<size_t, Buffer> records;
    for (uint32_t i = 0; i < 8; ++i)
        records[i] = make_record(kFormat, i, 1, 1 + i % 4);
    return make_shard(records, 8);
}

std::shared_ptr<ShardSet> open_set(const ShardFile& file, std::vector<int64_t> ids) {
    const std::vector<ShardSource> sources{file.source()};
    auto rows = ids;
    return std::make_shared<ShardSet>(kFormat, 8, Verify::record, sources, std::move(ids), std::move(rows),
                                      std::vector<int64_t>(rows.size(), 1));
}

const std::vector<int64_t> kAll{0, 1, 2, 3, 4, 5, 6, 7};

std::shared_ptr<Lease> acquire(const ExpertCache& cache, const std::vector<int64_t>& counts,
                               const std::vector<int64_t>& ids, std::vector<float> weights = {}) {
    if (weights.empty()) weights.assign(ids.size(), 1.0F);
    return cache.acquire(counts, ids, weights);
}

}  // namespace

TEST("a lease lists each sequence's experts in the route's order") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, eight_experts());
    const ExpertCache cache(open_set(file, kAll), std::nullopt);
    const auto lease = acquire(cache, {2, 0, 3}, {7, 2, 2, 0, 7}, {1, 2, 3, 4, 5});
    CHECK(lease->indptr == std::vector<int32_t>({0, 2, 2, 5}));
    CHECK(lease->rank == std::vector<int32_t>({4, 3, 3, 1, 4}));
    CHECK(lease->weight == std::vector<float>({1, 2, 3, 4, 5}));
    CHECK(lease->base[0] == lease->base[4] && lease->base[1] == lease->base[2]);
    const Buffer record = make_record(kFormat, 7, 1, 4);
    CHECK(std::memcmp(reinterpret_cast<const void*>(lease->base[0]), record.data(), record.size()) == 0);
    CHECK(cache.counters().experts_leased == 3);
    CHECK(cache.counters().records_checked == 3);
}

TEST("a batch of no experts, and of no sequences, is a lease") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, eight_experts());
    const ExpertCache cache(open_set(file, kAll), 1);
    CHECK(acquire(cache, {0, 0}, {})->indptr == std::vector<int32_t>({0, 0, 0}));
    CHECK(acquire(cache, {}, {})->indptr == std::vector<int32_t>({0}));
}

TEST("the capacity bounds distinct experts, and is checked before anything is read") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, eight_experts());
    const ExpertCache cache(open_set(file, kAll), 2);
    acquire(cache, {2, 2}, {1, 2, 2, 1});
    CHECK_THROWS(CapacityError, acquire(cache, {2, 1}, {3, 4, 5}), error.needed == 3 && error.slots == 2);
    CHECK(cache.counters().records_checked == 2);
    CHECK_THROWS(CapacityError, ExpertCache(open_set(file, kAll), 0));
}

TEST("malformed routes are refused") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, eight_experts());
    const ExpertCache cache(open_set(file, kAll), std::nullopt);
    CHECK_THROWS(SchemaError, acquire(cache, {1}, {1, 2}));
    CHECK_THROWS(SchemaError, acquire(cache, {-1, 2}, {1}));
    CHECK_THROWS(SchemaError, acquire(cache, {2}, {1, 2}, {1.0F}));
    CHECK_THROWS(SchemaError, acquire(cache, {1}, {1}, {std::numeric_limits<float>::quiet_NaN()}));
    CHECK_THROWS(UnknownIdError, acquire(cache, {1}, {8}));
}

TEST("a lease keeps its records when the cache moves on to another snapshot, and when the cache is gone") {
    const TemporaryFolder folder;
    auto file = std::make_unique<ShardFile>(folder, 0, eight_experts());
    auto cache = std::make_unique<ExpertCache>(open_set(*file, kAll), std::nullopt);
    const auto lease = acquire(*cache, {1}, {7});
    std::filesystem::remove(folder.path() / "0");
    const TemporaryFolder elsewhere;
    const ShardFile other(elsewhere, 0, eight_experts());
    cache->refresh(open_set(other, {0, 1}));
    CHECK_THROWS(UnknownIdError, acquire(*cache, {1}, {7}));
    CHECK(cache->counters().leases_live == 1);
    cache.reset();
    file.reset();
    const Buffer record = make_record(kFormat, 7, 1, 4);
    CHECK(std::memcmp(reinterpret_cast<const void*>(lease->base[0]), record.data(), record.size()) == 0);
}

TEST("leases are counted while they live, also when making one fails") {
    const TemporaryFolder folder;
    ShardImage image = eight_experts();
    image.bytes[4096 + 3] ^= std::byte{1};  // expert 1
    const ShardFile file(folder, 0, image);
    const ExpertCache cache(open_set(file, kAll), std::nullopt);
    {
        const auto lease = acquire(cache, {1}, {0});
        CHECK(cache.counters().leases_live == 1);
        CHECK_THROWS(DamagedStoreError, acquire(cache, {2}, {2, 1}), error.expert_id == 1);
    }
    CHECK(cache.counters().leases_live == 0);
}

TEST("threads may acquire, prefetch and refresh at once") {
    const TemporaryFolder folder;
    const ShardFile file(folder, 0, eight_experts());
    ExpertCache cache(open_set(file, kAll), std::nullopt);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int64_t thread = 0; thread < 3; ++thread) {
        threads.emplace_back([&, thread] {
            for (int64_t i = 0; i < 200; ++i) {
                const int64_t id = (i + thread) % 8;
                const std::vector<int64_t> ids{id};
                cache.prefetch(ids);
                if (acquire(cache, {1}, ids)->rank[0] != 1 + id % 4) ++wrong;
            }
        });
    }
    for (int i = 0; i < 50; ++i)
        cache.refresh(open_set(file, kAll));
    for (auto& thread : threads)
        thread.join();
    CHECK(wrong == 0);
    CHECK(cache.counters().leases == 600 && cache.counters().leases_live == 0);
}

int main() {
    return run();
}

// Leases over mapped records.
#include <atomic>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "experts.h"
#include "format/errors.h"
#include "runtime/expert_cache.h"
#include "runtime/stall_times.h"

using namespace mome;
using namespace mome::test;

TEST("a lease lists each sequence's experts in the route's order") {
    const Experts experts(8);
    const auto cache = make_mapped_cache(experts.open());
    const TestRoute route({7, 2, 2, 0, 7}, {2, 0, 3}, {1, 2, 3, 4, 5});
    const auto lease = cache->acquire(route.view());
    CHECK(lease->indptr == std::vector<int32_t>({0, 2, 2, 5}));
    CHECK(lease->rank == std::vector<int32_t>({4, 3, 3, 1, 4}));
    CHECK(lease->weight == std::vector<float>({1, 2, 3, 4, 5}));
    CHECK(lease->base[0] == lease->base[4] && lease->base[1] == lease->base[2]);
    CHECK(holds_records(*lease, route.ids));
    CHECK(cache->statistics().experts_leased == 3);
    CHECK(cache->statistics().records_checked == 3);
}

TEST("a batch of no experts, and of no sequences, is a lease") {
    const Experts experts(8);
    const auto cache = make_mapped_cache(experts.open());
    CHECK(cache->acquire(TestRoute({}, {0, 0}).view())->indptr == std::vector<int32_t>({0, 0, 0}));
    CHECK(cache->acquire({})->indptr == std::vector<int32_t>({0}));
}

TEST("malformed routes are refused") {
    const Experts experts(8);
    const auto cache = make_mapped_cache(experts.open());
    CHECK_THROWS(SchemaError, cache->acquire(TestRoute({1, 2}, {1}).view()));
    CHECK_THROWS(SchemaError, cache->acquire(TestRoute({1}, {-1, 2}).view()));
    CHECK_THROWS(SchemaError, cache->acquire(TestRoute({1, 2}, {2}, {1.0F}).view()));
    CHECK_THROWS(SchemaError, cache->acquire(TestRoute({1}, {1}, {std::numeric_limits<float>::quiet_NaN()}).view()));
    CHECK_THROWS(UnknownIdError, cache->acquire(TestRoute({8}).view()), error.ids == std::vector<int64_t>({8}));
}

TEST("a lease keeps its records when the cache moves on to another snapshot, and when the cache is gone") {
    auto experts = std::make_unique<Experts>(8);
    auto cache = make_mapped_cache(experts->open());
    const auto lease = cache->acquire(TestRoute({7}).view());
    const Experts others(8);
    cache->refresh(others.open({0, 1}));
    CHECK_THROWS(UnknownIdError, cache->acquire(TestRoute({7}).view()));
    CHECK(cache->statistics().leases_live == 1);
    cache.reset();
    experts.reset();
    CHECK(holds_records(*lease, {7}));
}

TEST("leases are counted while they live, also when making one fails") {
    const TemporaryFolder folder;
    std::map<size_t, Buffer> records;
    for (int64_t i = 0; i < 8; ++i)
        records[static_cast<size_t>(i)] = record_of(i);
    ShardImage image = make_shard(records, 8);
    image.bytes[4096 + 3] ^= std::byte{1};  // expert 1
    const ShardFile file(folder, 0, image);
    const std::vector<ShardSource> sources{file.source()};
    const std::vector<int64_t> ids{0, 1, 2};
    const auto cache = make_mapped_cache(std::make_shared<ShardSet>(kFormat, 8, Verify::record, sources,
                                                                    runs_of(ids, ids, std::vector<int64_t>{1, 1, 1})));
    {
        const auto lease = cache->acquire(TestRoute({0}).view());
        CHECK(cache->statistics().leases_live == 1);
        CHECK_THROWS(DamagedStoreError, cache->acquire(TestRoute({2, 1}).view()), error.expert_id == 1);
    }
    CHECK(cache->statistics().leases_live == 0);
}

TEST("threads may acquire, prefetch and refresh at once") {
    const Experts experts(8);
    const auto cache = make_mapped_cache(experts.open());
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int64_t thread = 0; thread < 3; ++thread) {
        threads.emplace_back([&, thread] {
            for (int64_t i = 0; i < 200; ++i) {
                const TestRoute route({(i + thread) % 8});
                cache->prefetch(route.ids);
                if (!holds_records(*cache->acquire(route.view()), route.ids)) ++wrong;
            }
        });
    }
    for (int i = 0; i < 50; ++i)
        cache->refresh(experts.open());
    for (auto& thread : threads)
        thread.join();
    CHECK(wrong == 0);
    CHECK(cache->statistics().leases == 600 && cache->statistics().leases_live == 0);
}

TEST("a copy stream of the cpu waits for the event that it is told to, and what comes after waits with it") {
    struct Gate final : Event {
        void wait() override { open.wait(false); }
        std::atomic<bool> open{false};
    };
    const auto device = make_device("cpu");
    const auto memory = device->allocate(8);
    const auto staging = device->allocate_staging(8);
    const auto stream = device->make_stream();
    staging->span()[0] = std::byte{7};
    const auto gate = std::make_shared<Gate>();
    stream->wait(device->record(0));  // reached from the beginning
    stream->copy(std::vector<Copy>{{.to_device = memory->data(), .from_host = staging->data(), .bytes = 1}});
    stream->record()->wait();
    staging->span()[0] = std::byte{8};
    stream->wait(gate);
    stream->copy(std::vector<Copy>{{.to_device = memory->data(), .from_host = staging->data(), .bytes = 1}});
    const auto copied = stream->record();
    std::byte found{};
    device->read({&found, 1}, memory->data());
    CHECK(found == std::byte{7});
    gate->open = true;
    gate->open.notify_all();
    copied->wait();
    device->read({&found, 1}, memory->data());
    CHECK(found == std::byte{8});
    stream->drain();
}

TEST("a percentile of stall times is at most a quarter above the true one, and never below") {
    StallTimes times;
    CHECK(times.percentile(0.5).count() == 0);
    for (int64_t i = 1; i <= 1000; ++i)
        times.add(std::chrono::nanoseconds(i * i * i));
    for (const int64_t percent : {1, 10, 50, 90, 99, 100}) {
        const int64_t exact = percent * percent * percent * 1000;
        const int64_t told = times.percentile(static_cast<double>(percent) / 100).count();
        CHECK(told >= exact && told <= exact + exact / 4);
    }
    CHECK(times.count() == 1000);
}

int main() {
    return run();
}

// The slot cache: what is where, who waits for what, and what happens when reads fail.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "experts.h"
#include "format/errors.h"
#include "readers.h"
#include "runtime/expert_cache.h"

using namespace mome;
using namespace mome::test;

namespace {

struct Setting {
    int64_t slots = 4;
    std::string policy = "lru";
    int64_t staging = 0;
    std::chrono::milliseconds timeout{20'000};
};

std::shared_ptr<ExpertCache> open_cache(std::shared_ptr<ShardSet> shards, std::unique_ptr<Reader> reader,
                                        const Setting& setting = {}) {
    return make_slot_cache(
        std::move(shards), open_device(), std::move(reader),
        {.slots = setting.slots, .policy = setting.policy, .staging = setting.staging, .timeout = setting.timeout});
}

// A cache whose reads the test lets go one by one.
struct HeldCache {
    explicit HeldCache(const Experts& experts, const Setting& setting = {})
        : reads(std::make_shared<HeldReads>()),
          cache(open_cache(experts.open(), std::make_unique<HeldReader>(reads), setting)) {}
    // A cache with staging buffers waits for its reads before the reader goes, which would deliver them.
    ~HeldCache() {
        while (cache->statistics().queue_depth > 0)
            reads->deliver_all();
    }
    HeldCache(const HeldCache&) = delete;
    HeldCache& operator=(const HeldCache&) = delete;
    std::shared_ptr<HeldReads> reads;
    std::shared_ptr<ExpertCache> cache;
};

// Until nothing is on its way any more: what was read may still have to be copied to the device.
void settle(const ExpertCache& cache) {
    while (cache.statistics().queue_depth > 0)
        std::this_thread::yield();
}

bool staged(int64_t staging) {
    return staging > 0 || !open_device()->host_writes();
}

}  // namespace

TEST("records come into slots once and are found there afterwards") {
    const Experts experts(16);
    const auto cache = open_cache(experts.open(), make_mmap_reader(1));
    const TestRoute route({7, 12, 7, 0}, {3, 1}, {1, 2, 3, 4});
    const auto first = cache->acquire(route.view());
    CHECK(holds_records(*first, route.ids));
    CHECK(first->indptr == std::vector<int32_t>({0, 3, 4}) && first->weight == route.weights);
    CHECK(first->base[0] == first->base[2]);
    const auto second = cache->acquire(route.view());
    CHECK(second->base == first->base && second->rank == first->rank);
    const CacheStatistics counted = cache->statistics();
    CHECK(counted.misses == 3 && counted.hits == 3 && counted.joins == 0 && counted.evictions == 0);
    CHECK(counted.slots_held == 3 && counted.slots_free == 1);
    CHECK(counted.bytes_from_memory + counted.bytes_from_disk == 3 * 4096);
}

TEST("every reader, with and without staging, brings the right bytes") {
    const Experts experts(64);
    for (const char* wanted : {"mmap", "pread", "io_uring", "auto"}) {
        const ShardSource sample = experts.source(0);
        const ReaderChoice choice = choose_reader(wanted, &sample, 1);
        for (const int64_t staging : {0, 3}) {
            const auto cache = open_cache(experts.open({}, choice.access), choice.make(),
                                          {.slots = 24, .policy = "s3fifo", .staging = staging});
            for (int64_t first = 0; first < 40; first += 5) {
                const TestRoute route({first, first + 1, first + 2, first + 9, first + 17, first + 23});
                CHECK(holds_records(*cache->acquire(route.view()), route.ids));
            }
            CHECK(cache->statistics().evictions > 0);
            CHECK((cache->statistics().bytes_staged > 0) == staged(staging));
        }
    }
}

TEST("neighbours on disk are read at once, in the order of the file") {
    const Experts experts(16);
    HeldCache held(experts, {.slots = 8});
    held.cache->prefetch(std::vector<int64_t>{9, 3, 2, 15, 4});
    CHECK(held.reads->count() == 3);
    CHECK(held.reads->offset(0) == 2 * 4096 && held.reads->parts(0) == 3);
    CHECK(held.reads->offset(1) == 1 * 4096 && held.reads->parts(1) == 1);  // of the second shard
    CHECK(held.reads->offset(2) == 7 * 4096 && held.reads->parts(2) == 1);
}

TEST("a request for a record on its way joins the load, and each waits only for its own") {
    const Experts experts(16);
    HeldCache held(experts);
    held.cache->prefetch(std::vector<int64_t>{1});
    const auto first = held.cache->reserve(TestRoute({1}).view());
    const auto second = held.cache->reserve(TestRoute({1, 5}).view());
    CHECK(held.reads->count() == 2);
    CHECK(held.cache->statistics().joins == 2 && held.cache->statistics().queue_depth == 2);
    CHECK(!first->ready() && !second->ready());
    held.reads->deliver();
    first->wait();
    CHECK(first->ready() && !second->ready());
    CHECK(holds_records(*first, {1}));
    std::thread late([&] { held.reads->deliver(); });
    second->wait();
    late.join();
    CHECK(holds_records(*second, {1, 5}));
    CHECK(held.cache->statistics().queue_depth_peak == 2 && held.cache->statistics().queue_depth == 0);
}

TEST("a slot that is leased or loading is never evicted") {
    const Experts experts(16);
    HeldCache held(experts, {.slots = 3});
    const auto kept = held.cache->reserve(TestRoute({0}).view());
    held.reads->deliver();
    kept->wait();
    held.cache->prefetch(std::vector<int64_t>{1});
    for (int64_t id = 2; id < 16; ++id) {
        const auto lease = held.cache->reserve(TestRoute({id}).view());
        held.reads->deliver(1);  // expert 1 stays on its way
        lease->wait();
        CHECK(holds_records(*lease, {id}));
        CHECK(holds_records(*kept, {0}));
    }
    CHECK(held.cache->statistics().evictions == 13);
    const auto joined = held.cache->reserve(TestRoute({1}).view());
    held.reads->deliver();
    joined->wait();
    CHECK(holds_records(*joined, {1}));
}

TEST("more experts than slots are refused before anything is read") {
    const Experts experts(16);
    HeldCache held(experts, {.slots = 3});
    CHECK_THROWS(CapacityError, held.cache->reserve(TestRoute({1, 2, 3, 4, 1}).view()),
                 error.needed == 4 && error.slots == 3);
    CHECK(held.reads->count() == 0 && held.cache->statistics().slots_free == 3);
    CHECK_THROWS(CapacityError, open_cache(experts.open(), make_mmap_reader(1), {.slots = 0}));
}

TEST("a batch waits for slots that others hold, and gives up after the timeout with nothing held") {
    const Experts experts(16);
    const auto cache = open_cache(experts.open(), make_mmap_reader(1), {.slots = 3});
    auto holder = cache->acquire(TestRoute({0, 1}).view());
    std::atomic<bool> came{false};
    std::thread waiter([&] {
        const auto lease = cache->acquire(TestRoute({2, 3, 0}).view());
        came = holds_records(*lease, {2, 3, 0});
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(!came);
    holder.reset();
    waiter.join();
    CHECK(came);

    const auto hasty =
        open_cache(experts.open(), make_mmap_reader(1), {.slots = 3, .timeout = std::chrono::milliseconds(30)});
    const auto all = hasty->acquire(TestRoute({0, 1}).view());
    CHECK_THROWS(CapacityError, hasty->acquire(TestRoute({2, 3}).view()), error.needed == 2 && error.slots == 1);
    CHECK(hasty->statistics().slots_held == 2 && hasty->statistics().leases_live == 1);
}

TEST("unknown experts are all named and nothing is read") {
    const Experts experts(16);
    HeldCache held(experts);
    CHECK_THROWS(UnknownIdError, held.cache->reserve(TestRoute({99, 1, 77}).view()),
                 error.ids == std::vector<int64_t>({77, 99}));
    CHECK_THROWS(UnknownIdError, held.cache->prefetch(std::vector<int64_t>{1, 16}));
    CHECK(held.reads->count() == 0 && held.cache->statistics().slots_free == 4);
}

TEST("prefetch takes the room there is and evicts nothing that it was asked for") {
    const Experts experts(16);
    HeldCache held(experts, {.slots = 3});
    held.cache->prefetch(std::vector<int64_t>{0, 1, 2});
    held.reads->deliver_all();
    settle(*held.cache);
    held.cache->prefetch(std::vector<int64_t>{0, 1, 9, 10, 11});
    held.reads->deliver_all();
    settle(*held.cache);
    const auto lease = held.cache->reserve(TestRoute({0, 1, 9}).view());
    CHECK(lease->ready());
    CHECK(held.cache->statistics().records_prefetched == 4);
}

TEST("a failed read reaches all who wait for it, frees the slot, and is tried again the next time") {
    const Experts experts(16);
    for (const int64_t staging : {0, 2}) {
        HeldCache held(experts, {.slots = 4, .staging = staging});
        auto first = held.cache->reserve(TestRoute({5, 1}).view());
        auto second = held.cache->reserve(TestRoute({5}).view());
        held.reads->fail(1, EIO);  // expert 5, after expert 1 in the file
        CHECK_THROWS(ReadError, second->wait(), error.error_number == EIO && error.offset == 5 * 4096);
        held.reads->deliver();
        CHECK_THROWS(ReadError, first->wait());
        CHECK(held.cache->statistics().loads_failed == 1);
        first.reset();
        second.reset();
        CHECK(held.cache->statistics().slots_held == 0 && held.cache->statistics().slots_free == 3);
        const auto again = held.cache->reserve(TestRoute({5, 1}).view());
        held.reads->deliver();
        again->wait();
        CHECK(holds_records(*again, {5, 1}));
    }
}

TEST("a read that does not come in time is an error, and its slot is not given away while it may still land") {
    const Experts experts(16);
    HeldCache held(experts, {.slots = 2, .timeout = std::chrono::milliseconds(30)});
    {
        const auto lease = held.cache->reserve(TestRoute({3}).view());
        CHECK_THROWS(ReadError, lease->wait(), error.error_number == ETIMEDOUT && error.offset == 3 * 4096);
    }
    CHECK(held.cache->statistics().slots_held == 1);
    CHECK_THROWS(CapacityError, held.cache->reserve(TestRoute({4, 5}).view()));
    held.reads->deliver();
    settle(*held.cache);
    CHECK(held.cache->reserve(TestRoute({3}).view())->ready());
}

TEST("a damaged record is named, and the others of the same read are not harmed") {
    const TemporaryFolder folder;
    std::map<size_t, Buffer> records;
    for (int64_t i = 0; i < 8; ++i)
        records[static_cast<size_t>(i)] = record_of(i);
    ShardImage image = make_shard(records, 8);
    image.bytes[2 * 4096 + 10] ^= std::byte{4};
    const ShardFile file(folder, 0, image);
    const std::vector<ShardSource> sources{file.source()};
    const std::vector<int64_t> ids{0, 1, 2, 3};
    const auto cache = open_cache(std::make_shared<ShardSet>(kFormat, 8, Verify::record, sources,
                                                             runs_of(ids, ids, std::vector<int64_t>{1, 1, 1, 1})),
                                  make_mmap_reader(1));
    CHECK_THROWS(DamagedStoreError, cache->acquire(TestRoute({1, 2, 3}).view()),
                 error.expert_id == 2 && error.row == 2);
    const auto lease = cache->acquire(TestRoute({1, 3}).view());
    CHECK(holds_records(*lease, {1, 3}));
    CHECK(cache->statistics().misses == 3);  // 1 and 3 were there
}

TEST("a shard that was cut short is an error for every reader") {
    for (const char* wanted : {"mmap", "pread", "io_uring"}) {
        const Experts experts(8);
        const ShardSource sample = experts.source(0);
        const ReaderChoice choice = choose_reader(wanted, &sample, 1);
        const auto cache = open_cache(experts.open({}, choice.access), choice.make());
        std::filesystem::resize_file(experts.folder().path() / "0", 4096);
        CHECK_THROWS(DamagedStoreError, cache->acquire(TestRoute({6}).view()),
                     error.problem.find("expected") != std::string::npos);
        CHECK(holds_records(*cache->acquire(TestRoute({0}).view()), {0}));
    }
}

TEST("a pinned set stays, counts against what leases may have, and is replaced by the next") {
    const Experts experts(32);
    const auto cache = open_cache(experts.open(), make_mmap_reader(1), {.slots = 4});
    cache->pin(std::vector<int64_t>{30, 31});
    for (int64_t id = 0; id < 20; id += 2)
        CHECK(holds_records(*cache->acquire(TestRoute({id, id + 1}).view()), {id, id + 1}));
    const int64_t misses = cache->statistics().misses;
    CHECK(cache->reserve(TestRoute({30, 31}).view())->ready());
    CHECK(cache->statistics().misses == misses);
    CHECK_THROWS(CapacityError, cache->acquire(TestRoute({1, 2, 3}).view()), error.needed == 3 && error.slots == 2);
    CHECK(holds_records(*cache->acquire(TestRoute({1, 2, 30}).view()), {1, 2, 30}));
    CHECK_THROWS(CapacityError, cache->pin(std::vector<int64_t>{1, 2, 3, 4, 5}));
    cache->pin({});
    CHECK(cache->statistics().slots_held == 0);
    CHECK(holds_records(*cache->acquire(TestRoute({1, 2, 3}).view()), {1, 2, 3}));
}

TEST("a refresh keeps what both snapshots hold, forgets the rest, and leaves leases alone") {
    const Experts experts(16);
    HeldCache held(experts, {.slots = 4});
    const auto lease = held.cache->reserve(TestRoute({2, 3}).view());
    held.reads->deliver_all();
    lease->wait();
    held.cache->prefetch(std::vector<int64_t>{4});  // still on its way when its expert goes
    held.cache->refresh(experts.open({0, 1, 3, 5, 6, 7, 8}));
    CHECK(holds_records(*lease, {2, 3}));
    CHECK_THROWS(UnknownIdError, held.cache->reserve(TestRoute({2}).view()));
    CHECK(held.cache->reserve(TestRoute({3}).view())->ready());
    held.reads->deliver_all();
    settle(*held.cache);
    CHECK(held.cache->statistics().slots_held == 2 && held.cache->statistics().slots_free == 2);
    const auto others = held.cache->reserve(TestRoute({5, 8}).view());
    held.reads->deliver_all();
    others->wait();
    CHECK(holds_records(*others, {5, 8}) && holds_records(*lease, {2, 3}));
}

TEST("a snapshot whose records are of another kind is refused") {
    const Experts experts(8);
    const auto cache = open_cache(experts.open(), make_mmap_reader(1));
    RecordFormat other = kFormat;
    other.schema_crc = 78;
    const std::vector<ShardSource> sources{experts.source(0)};
    CHECK_THROWS(SchemaError,
                 cache->refresh(std::make_shared<ShardSet>(
                     other, kRowsPerShard, Verify::record, sources,
                     std::vector<ExpertRun>{{.row = 0, .id = 0, .group_id = 1, .groups = 1, .per_group = 1}})));
}

TEST("a cache may go while reads are in flight, and a lease keeps its slots when the cache is gone") {
    const Experts experts(64);
    std::vector<int64_t> many;
    for (int64_t id = 2; id < 60; ++id)
        many.push_back(id);
    for (const int64_t staging : {0, 2}) {
        auto cache =
            open_cache(experts.open(), std::make_unique<ChaoticReader>(1, 2, 0), {.slots = 64, .staging = staging});
        auto lease = cache->acquire(TestRoute({1}).view());
        cache->prefetch(many);
        cache.reset();
        CHECK(holds_records(*lease, {1}));
        lease.reset();

        cache = open_cache(experts.open(), std::make_unique<ChaoticReader>(2, 2, 3), {.slots = 64, .staging = staging});
        cache->prefetch(many);
        cache.reset();
    }
}

TEST("an exception in a poll ends the wait, and nothing stays held") {
    const Experts experts(16);
    HeldCache held(experts);
    const auto interrupt = [] { throw std::runtime_error("interrupted"); };
    {
        const auto lease = held.cache->reserve(TestRoute({1}).view());
        CHECK_THROWS(std::runtime_error, lease->wait(interrupt), std::string(error.what()) == "interrupted");
    }
    CHECK(held.cache->statistics().leases_live == 0 && held.cache->statistics().slots_held == 1);  // by the load
    held.reads->deliver();
    settle(*held.cache);
    CHECK(held.cache->statistics().slots_held == 0);
}

TEST("after a fork the child is told to make its own cache, and its leases keep what they have") {
    const Experts experts(16);
    const auto cache = open_cache(experts.open(), make_mmap_reader(1));
    auto lease = cache->acquire(TestRoute({1, 2}).view());
    const bool readable = open_device()->host_writes();  // in the child
    const pid_t child = fork();
    if (child == 0) {
        bool good = !readable || holds_records(*lease, {1, 2});
        try {
            cache->acquire(TestRoute({3}).view());
            good = false;
        } catch (const ClosedError&) {
        }
        lease.reset();
        _exit(good ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(holds_records(*cache->acquire(TestRoute({3}).view()), {3}));
}

TEST("a lease that is released to a stream is over, once, and its slots are written again") {
    const Experts experts(16);
    const auto cache = open_cache(experts.open(), make_mmap_reader(1), {.slots = 2});
    for (int64_t id = 0; id < 16; ++id) {
        const auto lease = cache->acquire(TestRoute({id, (id + 5) % 16}).view());
        CHECK(holds_records(*lease, {id, (id + 5) % 16}));
        lease->release(0);
        lease->release(0);
        CHECK(cache->statistics().leases_live == 0 && cache->statistics().slots_held == 0);
        CHECK_THROWS(ClosedError, lease->wait());
    }
    HeldCache held(experts);
    const auto given_up = held.cache->reserve(TestRoute({3}).view());
    given_up->release(0);                             // before it came
    CHECK(held.cache->statistics().slots_held == 1);  // by the load
    held.reads->deliver();
    settle(*held.cache);
    CHECK(held.cache->statistics().slots_held == 0);
}

int main() {
    return run(check_device);
}

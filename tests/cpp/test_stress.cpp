// Random work by many threads on a tiny cache whose reads come late, out of order, and now and then not at all. Every
// slot that is leased holds its record; nothing is left held at the end. For the sanitizers above all.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <random>
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

constexpr int64_t kExperts = 64;
constexpr int kThreads = 4;

struct Case {
    const char* policy;
    int64_t staging;
};

// One thread's share.
void work(ExpertCache& cache, const Experts& experts, uint64_t seed, int rounds, std::atomic<int>& wrong) {
    std::mt19937_64 random(seed);
    std::vector<int64_t> without_some;
    for (int64_t i = 0; i < kExperts; ++i) {
        if (i % 7 != 3) without_some.push_back(i);
    }
    for (int round = 0; round < rounds; ++round) {
        std::vector<int64_t> ids(random() % 5);
        for (int64_t& id : ids)
            id = static_cast<int64_t>(std::min(random() % kExperts, random() % kExperts));
        try {
            const uint64_t action = random() % 100;
            if (action < 2) {
                cache.refresh(random() % 2 == 0 ? experts.open() : experts.open(without_some));
            } else if (action < 4) {
                cache.pin(std::vector<int64_t>(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(ids.size() / 3)));
            } else if (action < 30) {
                cache.prefetch(ids);
            } else {
                const TestRoute route(ids);
                const auto lease = cache.reserve(route.view());
                if (action < 35) continue;  // given up before it came
                lease->wait();
                if (!holds_records(*lease, ids)) ++wrong;
                if (random() % 4 == 0) std::this_thread::yield();
                if (!holds_records(*lease, ids)) ++wrong;
            }
        } catch (const UnknownIdError&) {  // the present snapshot lacks it
        } catch (const ReadError& error) {
            if (error.error_number != EIO) ++wrong;
        }
    }
}

}  // namespace

TEST("leased slots hold their records whatever the threads, the timing and the failures") {
    const char* rounds_text = std::getenv("MOME_STRESS_ROUNDS");
    const int rounds = rounds_text == nullptr ? 400 : std::atoi(rounds_text);
    const Experts experts(kExperts);
    for (const auto& [policy, staging] : {Case{"lru", 0}, {"clock", 3}, {"s3fifo", 0}, {"lfu", 2}}) {
        const auto cache = make_slot_cache(experts.open(), open_device(), std::make_unique<ChaoticReader>(7, 3, 25),
                                           {.slots = 20, .policy = policy, .staging = staging});
        std::atomic<int> wrong{0};
        std::vector<std::thread> threads;
        for (int i = 0; i < kThreads; ++i) {
            threads.emplace_back([&, i] { work(*cache, experts, static_cast<uint64_t>(i), rounds, wrong); });
        }
        for (std::thread& thread : threads)
            thread.join();
        CHECK(wrong == 0);
        while (cache->statistics().queue_depth > 0)
            std::this_thread::yield();
        cache->pin({});
        const CacheStatistics counted = cache->statistics();
        CHECK(counted.leases_live == 0 && counted.slots_held == 0);
        CHECK(counted.evictions > 0 && counted.loads_failed > 0 && counted.joins > 0 && counted.hits > 0);
        CHECK(counted.experts_leased == counted.hits + counted.joins + counted.misses);
    }
}

int main() {
    return run(check_device);
}

// Eviction policies and the replay of traces.
#include <algorithm>
#include <cstdint>
#include <ctime>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"
#include "format/errors.h"
#include "runtime/eviction.h"
#include "runtime/replay.h"

using namespace mome;
using namespace mome::test;

namespace {

// A cache over a policy, reduced to which expert is in which slot.
class Cache {
  public:
    Cache(std::string_view policy, int32_t slots)
        : policy_(make_policy(policy, slots)), holds_(static_cast<size_t>(slots), 0) {}

    // Runs a batch of distinct experts and releases it; the number of hits.
    int run(const std::vector<int64_t>& experts) {
        int hits = 0;
        for (const int64_t expert : experts) {
            if (!slot_of_.contains(expert)) continue;
            policy_->touch(slot_of_[expert]);
            ++holds_[slot_of_[expert]];
            ++hits;
        }
        std::vector<int64_t> missing;
        std::ranges::copy_if(experts, std::back_inserter(missing), [&](int64_t e) { return !slot_of_.contains(e); });
        for (const int64_t expert : missing)
            ++holds_[load(expert)];
        for (const int64_t expert : experts)
            --holds_[slot_of_[expert]];
        return hits;
    }

    bool contains(int64_t expert) const { return slot_of_.contains(expert); }

    std::vector<int64_t> contents() const {
        std::vector<int64_t> experts;
        for (const auto& [expert, slot] : slot_of_)
            experts.push_back(expert);
        return experts;
    }

  private:
    int32_t load(int64_t expert) {
        auto slot = static_cast<int32_t>(slot_of_.size());
        if (slot_of_.size() == holds_.size()) {
            slot = policy_->evict(holds_).value();
            CHECK(holds_[slot] == 0);
            std::erase_if(slot_of_, [slot](const auto& entry) { return entry.second == slot; });
        }
        policy_->admit(slot, expert);
        slot_of_[expert] = slot;
        return slot;
    }

    std::unique_ptr<EvictionPolicy> policy_;
    std::vector<int32_t> holds_;
    std::map<int64_t, int32_t> slot_of_;
};

// `count` distinct experts of [0, experts), the low ones far more often.
std::vector<int64_t> skewed_batch(std::mt19937& random, int64_t experts, size_t count) {
    std::set<int64_t> chosen;
    std::uniform_real_distribution<double> uniform(0, 1);
    while (chosen.size() < count) {
        const double draw = uniform(random);
        chosen.insert(static_cast<int64_t>(draw * draw * draw * static_cast<double>(experts)));
    }
    std::vector<int64_t> batch(chosen.begin(), chosen.end());
    std::ranges::shuffle(batch, random);
    return batch;
}

std::vector<int64_t> range(int64_t first, int64_t count) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < count; ++i)
        ids.push_back(first + i);
    return ids;
}

// What a policy does, said as plainly as can be: which of `unheld` goes, by expert.
struct Model {
    virtual ~Model() = default;
    virtual void admit(int64_t expert) = 0;
    virtual void touch(int64_t expert) = 0;
    virtual void remove(int64_t expert) = 0;
    virtual int64_t evict(const std::set<int64_t>& unheld) = 0;
};

struct LruModel final : Model {
    std::list<int64_t> order;  // the most recent in front
    void admit(int64_t expert) override { order.push_front(expert); }
    void touch(int64_t expert) override {
        order.remove(expert);
        order.push_front(expert);
    }
    void remove(int64_t expert) override { order.remove(expert); }
    int64_t evict(const std::set<int64_t>& unheld) override {
        while (!unheld.contains(order.back()))
            order.splice(order.begin(), order, std::prev(order.end()));
        const int64_t expert = order.back();
        order.pop_back();
        return expert;
    }
};

struct LfuModel final : Model {
    struct Entry {
        int64_t uses, priority, when;
    };
    std::map<int64_t, Entry> entries;
    int64_t age = 0;
    int64_t now = 0;
    void admit(int64_t expert) override { entries[expert] = {1, age + 1, ++now}; }
    void touch(int64_t expert) override {
        const int64_t uses = entries[expert].uses + 1;
        entries[expert] = {uses, age + uses, ++now};
    }
    void remove(int64_t expert) override { entries.erase(expert); }
    int64_t evict(const std::set<int64_t>& unheld) override {
        const auto last = std::ranges::min(
            unheld, {}, [&](int64_t expert) { return std::pair(entries[expert].priority, entries[expert].when); });
        age = std::max(age, entries[last].priority);
        entries.erase(last);
        return last;
    }
};

// The published algorithm, over lists of experts. A held expert that is met waits aside, and comes back to the front of
// its queue when it was released or touched.
struct S3FifoModel final : Model {
    size_t small_slots, ghost_slots;
    std::list<int64_t> small, main, ghost, aside;  // the newest in front
    std::set<int64_t> of_main;
    std::map<int64_t, int> uses;
    explicit S3FifoModel(size_t slots)
        : small_slots(std::max<size_t>(1, slots / 10)), ghost_slots(std::max<size_t>(1, slots - small_slots)) {}

    void enqueue(int64_t expert) { (of_main.contains(expert) ? main : small).push_front(expert); }
    void admit(int64_t expert) override {
        const auto found = std::ranges::find(ghost, expert);
        of_main.erase(expert);
        if (found != ghost.end()) {
            of_main.insert(expert);
            *found = -1;  // its place isn't given to another
        }
        uses[expert] = 0;
        enqueue(expert);
    }
    void touch(int64_t expert) override {
        uses[expert] = std::min(uses[expert] + 1, 3);
        if (aside.remove(expert) > 0) enqueue(expert);
    }
    void remove(int64_t expert) override {
        for (auto* queue : {&small, &main, &aside})
            queue->remove(expert);
    }
    int64_t evict(const std::set<int64_t>& unheld) override {
        for (bool released = true; released && !aside.empty();) {
            const int64_t expert = aside.back();
            aside.pop_back();
            released = unheld.contains(expert);
            if (released) {
                enqueue(expert);
            } else {
                aside.push_front(expert);
            }
        }
        while (true) {
            const bool from_small = small.size() >= small_slots || main.empty();
            std::list<int64_t>& queue = from_small ? small : main;
            const int64_t expert = queue.back();
            queue.pop_back();
            if (!unheld.contains(expert)) {
                aside.push_front(expert);
            } else if (from_small && uses[expert] >= 2) {
                uses[expert] = 0;
                of_main.insert(expert);
                main.push_front(expert);
            } else if (from_small) {
                ghost.push_front(expert);
                if (ghost.size() > ghost_slots) ghost.pop_back();
                return expert;
            } else if (uses[expert] > 0) {
                --uses[expert];
                main.push_front(expert);
            } else {
                return expert;
            }
        }
    }
};

// The slots themselves, and a hand that goes round them.
struct ClockModel final : Model {
    std::vector<std::pair<int64_t, bool>> ring;  // expert (-1: none) and whether it was used
    size_t hand = 0;
    explicit ClockModel(size_t slots) : ring(slots, {-1, false}) {}

    auto at(int64_t expert) {
        return std::ranges::find(ring, expert, [](const auto& entry) { return entry.first; });
    }
    void admit(int64_t expert) override { *at(-1) = {expert, false}; }
    void touch(int64_t expert) override { at(expert)->second = true; }
    void remove(int64_t expert) override { *at(expert) = {-1, false}; }
    int64_t evict(const std::set<int64_t>& unheld) override {
        while (true) {
            auto& entry = ring[hand];
            hand = (hand + 1) % ring.size();
            if (!unheld.contains(entry.first)) continue;
            if (!entry.second) return std::exchange(entry.first, -1);
            entry.second = false;
        }
    }
};

// Runs the same random batches (each of them released before the next, as a single lease is) against policy and
// model. The victims must be the same, one by one. `removals`: now and then a slot is emptied otherwise.
void compare_with_model(std::string_view name, size_t slots, size_t largest_batch, Model& model) {
    std::mt19937 random(static_cast<uint32_t>(slots * 31 + largest_batch));
    const auto policy = make_policy(name, static_cast<int64_t>(slots));
    std::map<int64_t, int32_t> slot_of;
    std::vector<int32_t> holds(slots, 0);
    std::set<int32_t> empty;
    for (size_t slot = 0; slot < slots; ++slot)
        empty.insert(static_cast<int32_t>(slot));
    int evictions = 0;
    const int steps = largest_batch == 1 ? 10'000 : 2'000;
    for (int step = 0; step < steps; ++step) {
        const size_t count = 1 + random() % largest_batch;
        const auto batch = skewed_batch(random, static_cast<int64_t>(4 * slots), count);
        std::set<int64_t> held;
        for (const int64_t expert : batch) {
            if (!slot_of.contains(expert)) continue;
            policy->touch(slot_of[expert]);
            model.touch(expert);
            holds[slot_of[expert]] = 1;
            held.insert(expert);
        }
        for (const int64_t expert : batch) {
            if (held.contains(expert)) continue;
            if (empty.empty()) {
                std::set<int64_t> unheld;
                for (const auto& [cached, slot] : slot_of) {
                    if (holds[slot] == 0) unheld.insert(cached);
                }
                const int64_t expected = model.evict(unheld);
                const int32_t slot = policy->evict(holds).value();
                ++evictions;
                if (slot != slot_of[expected]) {
                    report(__FILE__, __LINE__, std::string(name) + " gave up another slot than the model");
                    return;
                }
                slot_of.erase(expected);
                empty.insert(slot);
            }
            const int32_t slot = *empty.begin();
            empty.erase(empty.begin());
            policy->admit(slot, expert);
            model.admit(expert);
            slot_of[expert] = slot;
            holds[slot] = 1;
            held.insert(expert);
        }
        std::ranges::fill(holds, 0);
        if (random() % 16 == 0) {
            const auto gone = std::next(slot_of.begin(), static_cast<int64_t>(random() % slot_of.size()));
            policy->remove(gone->second);
            model.remove(gone->first);
            empty.insert(gone->second);
            slot_of.erase(gone);
        }
    }
    CHECK(evictions > 500);
}

std::vector<int64_t> indptr_of(const std::vector<std::vector<int64_t>>& batches) {
    std::vector<int64_t> indptr{0};
    for (const auto& batch : batches)
        indptr.push_back(indptr.back() + std::ssize(batch));
    return indptr;
}

std::vector<int64_t> ids_of(const std::vector<std::vector<int64_t>>& batches) {
    std::vector<int64_t> ids;
    for (const auto& batch : batches)
        ids.insert(ids.end(), batch.begin(), batch.end());
    return ids;
}

}  // namespace

TEST("lru gives up what a list in order of use gives up") {
    for (const size_t slots : {1, 2, 10, 64}) {
        LruModel model;
        compare_with_model("lru", slots, slots, model);
    }
}

TEST("lfu gives up the least frequently used as of the cache's age, then the least recently used") {
    for (const size_t slots : {1, 2, 10, 64}) {
        LfuModel model;
        compare_with_model("lfu", slots, slots, model);
    }
}

TEST("clock gives up the first slot of its round that was not used since the last one") {
    for (const size_t slots : {1, 2, 10, 64}) {
        ClockModel model(slots);
        compare_with_model("clock", slots, slots, model);
    }
}

TEST("s3fifo gives up what the published algorithm gives up") {
    for (const size_t slots : {1, 2, 10, 64, 200}) {
        for (const size_t largest_batch : {size_t{1}, (slots + 2) / 3, slots}) {
            S3FifoModel model(slots);
            compare_with_model("s3fifo", slots, largest_batch, model);
        }
    }
}

TEST("no policy gives up a held or unknown slot, and each finds the last one that is free") {
    for (const std::string_view name : policy_names()) {
        for (const int32_t slots : {1, 3, 17, 100}) {
            std::mt19937 random(static_cast<uint32_t>(slots));
            const auto policy = make_policy(name, slots);
            std::vector<int32_t> holds(static_cast<size_t>(slots), 0);
            std::set<int32_t> known;
            int64_t next_expert = 0;
            for (int step = 0; step < 20'000; ++step) {
                const auto slot = static_cast<int32_t>(random() % static_cast<uint32_t>(slots));
                const bool is_known = known.contains(slot);
                switch (random() % 6) {
                    case 0:
                        if (!is_known) {
                            // Of 3 slots' worth of ids, so that ghosts return.
                            policy->admit(slot, next_expert++ % (3 * slots) * slots + slot);
                            known.insert(slot);
                        }
                        break;
                    case 1:
                        if (is_known) policy->touch(slot);
                        break;
                    case 2:
                        if (is_known && random() % 8 == 0) {
                            policy->remove(slot);
                            known.erase(slot);
                        }
                        break;
                    case 3:
                        holds[slot] = holds[slot] > 0 ? 0 : 1 + static_cast<int32_t>(random() % 3);
                        break;
                    default: {
                        const bool any = std::ranges::any_of(known, [&](int32_t each) { return holds[each] == 0; });
                        const auto victim = policy->evict(holds);
                        CHECK(victim.has_value() == any);
                        if (victim) {
                            CHECK(known.contains(*victim) && holds[*victim] == 0);
                            known.erase(*victim);
                        }
                    }
                }
            }
        }
    }
}

TEST("a batch may take every slot, and the next one after it") {
    for (const std::string_view name : policy_names()) {
        Cache cache(name, 50);
        CHECK(cache.run(range(0, 50)) == 0);
        CHECK(cache.run(range(0, 50)) == 50);
        CHECK(cache.run(range(100, 50)) == 0);
        CHECK(cache.contents() == range(100, 50));
        CHECK(cache.run(range(120, 50)) == 30);
    }
}

TEST("s3fifo keeps its working set through a scan that lru and clock lose it to") {
    const auto hits_after_scan = [](std::string_view name) {
        Cache cache(name, 100);
        for (int round = 0; round < 8; ++round) {
            for (int64_t expert = 0; expert < 60; ++expert)
                cache.run({expert});
            for (int64_t i = 0; i < 20; ++i)  // what pushes the working set through the small queue
                cache.run({1000 + round * 20 + i});
        }
        for (int64_t i = 0; i < 1000; ++i)
            cache.run({1'000'000 + i});
        int hits = 0;
        for (int64_t expert = 0; expert < 60; ++expert)
            hits += cache.contains(expert) ? 1 : 0;
        return hits;
    };
    CHECK(hits_after_scan("s3fifo") >= 50);
    CHECK(hits_after_scan("lru") == 0);
    CHECK(hits_after_scan("clock") == 0);
}

TEST("an expert that returns soon after it was given up skips s3fifo's small queue") {
    Cache cache("s3fifo", 20);
    for (int64_t expert = 0; expert < 20; ++expert)
        cache.run({expert});
    cache.run({20});  // gives up 0
    CHECK(!cache.contains(0));
    cache.run({0});  // from the ghosts into the main queue
    for (int64_t expert = 100; expert < 200; ++expert)
        cache.run({expert});
    CHECK(cache.contains(0));
    CHECK(!cache.contains(20));
}

TEST("lfu keeps the frequent, and lets go of them once others have been so for long") {
    Cache cache("lfu", 10);
    for (int round = 0; round < 20; ++round)
        cache.run(range(0, 5));
    for (int64_t expert = 100; expert < 115; ++expert)
        cache.run({expert});
    for (int64_t expert = 0; expert < 5; ++expert)
        CHECK(cache.contains(expert));
    for (int round = 0; round < 200; ++round) {  // 15 others in turn: each eviction ages the cache
        for (int64_t expert = 200; expert < 215; ++expert)
            cache.run({expert});
    }
    for (int64_t expert = 0; expert < 5; ++expert)
        CHECK(!cache.contains(expert));
}

TEST("a policy is known by name, and has at least one slot") {
    CHECK(policy_names().size() == 4);
    for (const std::string_view name : policy_names())
        CHECK(make_policy(name, 1)->evict(std::vector<int32_t>(1, 0)) == std::nullopt);
    CHECK_THROWS(SchemaError, make_policy("belady", 4));
    CHECK_THROWS(SchemaError, make_policy("", 4));
    CHECK_THROWS(SchemaError, make_policy("lru", 0));
    CHECK_THROWS(SchemaError, make_policy("lru", int64_t{1} << 31));
}

TEST("a batch that pins many slots does not pay for each of them at every eviction") {
    // Its hits are what s3fifo would give up first, its misses what lfu would. Passing them over each time takes more
    // than 10^10 steps.
    constexpr int64_t kSlots = 200'000;
    const auto batch = [](int64_t old, int64_t first_new) {
        std::vector<int64_t> ids = range(0, old);
        std::ranges::copy(range(first_new, kSlots - old), std::back_inserter(ids));
        return ids;
    };
    const std::vector<std::vector<int64_t>> batches{range(0, kSlots), range(0, kSlots), batch(kSlots / 2, kSlots),
                                                    batch(kSlots / 4, 2 * kSlots)};
    for (const std::string_view name : policy_names()) {
        const std::clock_t start = std::clock();
        const ReplayResult result = replay(name, kSlots, indptr_of(batches), ids_of(batches));
        CHECK((std::clock() - start) / CLOCKS_PER_SEC < 10);  // well under one without a sanitizer
        CHECK(result.hits == kSlots + kSlots / 2 + kSlots / 4);
        CHECK(result.evictions == kSlots / 2 + kSlots * 3 / 4);
    }
}

TEST("replay counts distinct experts of a batch once, and evictions once the slots are full") {
    const std::vector<std::vector<int64_t>> batches{{7, 7, 9}, {}, {9}, {5, 7}, {9, 5, 9}};
    const ReplayResult result = replay("lru", 2, indptr_of(batches), ids_of(batches));
    CHECK(result.requests == 7);  // 7 9 | 9 | 5 7 | 9 5
    CHECK(result.hits == 3);      // 9, then 7, then 5: 9 made way for 5, as 7 was held
    CHECK(result.misses == 4);
    CHECK(result.evictions == 2);
}

TEST("in a replay, too, no expert of a batch makes way for another one of it") {
    // Of the fourth batch, the new ones are what s3fifo and lfu would give up first, the others what clock would.
    std::vector<std::vector<int64_t>> batches(3, range(0, 10));
    batches.push_back({0, 1, 2, 3, 4, 20, 21, 22, 23, 24});
    batches.push_back(batches.back());
    for (const std::string_view name : policy_names()) {
        const ReplayResult result = replay(name, 10, indptr_of(batches), ids_of(batches));
        CHECK(result.hits == 20 + 5 + 10);
        CHECK(result.evictions == 5);
    }
}

TEST("a batch that needs more than the slots runs in waves of consecutive experts") {
    const std::vector<std::vector<int64_t>> batches{{1, 2, 1, 3, 4, 5}, {5, 1}};
    const ReplayResult result = replay("lru", 2, indptr_of(batches), ids_of(batches));  // 1 2 | 3 4 | 5 || 5 1
    CHECK(result.requests == 7);
    CHECK(result.hits == 1);
    const ReplayResult best = belady(2, indptr_of(batches), ids_of(batches));  // nothing outlives a wave of all slots
    CHECK(best.requests == 7);
    CHECK(best.hits == 1);
}

TEST("belady gives up what is needed farthest in the future, and has the hits of an exhaustive search") {
    std::mt19937 random(3);
    for (int round = 0; round < 300; ++round) {
        const int64_t slots = 2 + static_cast<int64_t>(random() % 2);
        std::vector<std::vector<int64_t>> batches;
        for (int i = 0; i < 7; ++i)
            batches.push_back(skewed_batch(random, 6, 1 + random() % static_cast<uint32_t>(slots)));
        // The most hits from each content that is possible, batch by batch.
        std::map<std::set<int64_t>, int64_t> reachable{{{}, 0}};
        for (const auto& batch : batches) {
            std::map<std::set<int64_t>, int64_t> next;
            const std::set<int64_t> wanted(batch.begin(), batch.end());
            for (const auto& [content, hits] : reachable) {
                const auto found = std::ranges::count_if(wanted, [&](int64_t each) { return content.contains(each); });
                std::vector<int64_t> rest;
                std::ranges::set_difference(content, wanted, std::back_inserter(rest));
                for (unsigned kept = 0; kept < 1U << rest.size(); ++kept) {
                    std::set<int64_t> after = wanted;
                    for (size_t i = 0; i < rest.size(); ++i) {
                        if ((kept >> i & 1U) != 0) after.insert(rest[i]);
                    }
                    if (std::ssize(after) <= slots) next[after] = std::max(next[after], hits + found);
                }
            }
            reachable = std::move(next);
        }
        const int64_t most =
            std::ranges::max_element(reachable, {}, [](const auto& entry) { return entry.second; })->second;
        const ReplayResult result = belady(slots, indptr_of(batches), ids_of(batches));
        CHECK(result.hits == most);
        CHECK(result.hits + result.misses == result.requests);
        CHECK(result.evictions == std::max<int64_t>(0, result.misses - slots));
    }
}

TEST("a trace that is none is refused") {
    const std::vector<int64_t> ids{1, 2, 3};
    const std::vector<std::vector<int64_t>> wrong{{}, {1, 3}, {0, 2}, {0, 4}, {0, 2, 1, 3}, {0, -1, 3}};
    for (const auto& indptr : wrong) {
        CHECK_THROWS(SchemaError, replay("lru", 2, indptr, ids));
        CHECK_THROWS(SchemaError, belady(2, indptr, ids));
    }
    const std::vector<int64_t> whole{0, 3};
    CHECK_THROWS(SchemaError, replay("lru", 0, whole, ids));
    CHECK_THROWS(SchemaError, belady(-1, whole, ids));
    CHECK_THROWS(SchemaError, replay("fifo", 2, whole, ids));
    CHECK_THROWS(SchemaError, replay("lru", 2, whole, std::vector<int64_t>{1, -2, 3}));
    const ReplayResult nothing = replay("s3fifo", 2, std::vector<int64_t>{0}, {});
    CHECK(nothing.requests == 0);
}

int main() {
    return run();
}

// A fixed number of slots in device memory, fully associative.
//
//   FREE -> LOADING -> READY -> (evicted) LOADING ...          one mutex guards every transition
//              \-> FAILED -> FREE                              once nobody holds the slot
//
// holds[slot] counts who needs the slot: each lease over it, a pin, and the load that fills it. Only a READY slot with
// no hold is evicted, so a record can't change under a lease, and a read never lands in a slot that was given away. A
// slot is listed while its expert's id leads to it; it is no longer after a failed load, or when a new snapshot lacks
// the expert. It then serves the leases it has and is FREE when the last is gone.
//
// Work on the device outlives the lease that it was begun under. A lease can be released with an event behind that
// work; its slots keep the event as a use of theirs, and the copy of the next load into such a slot waits for it, on
// the device.
//
// A batch takes all its slots at once or none: it waits, holding nothing, until as many are free of holds as it lacks.
// So two batches can't wait for each other's slots.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "format/errors.h"
#include "runtime/eviction.h"
#include "runtime/expert_cache.h"
#include "runtime/prefetcher.h"
#include "runtime/route.h"
#include "runtime/slot_uses.h"
#include "runtime/stall_times.h"

namespace mome {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollEvery = std::chrono::milliseconds(100);  // how long Ctrl-C may go unheard
constexpr int64_t kDefaultStaging = 64;

class SlotCache;

class SlotLease final : public Lease {
  public:
    explicit SlotLease(std::shared_ptr<SlotCache> cache) : cache_(std::move(cache)) {}
    ~SlotLease() override;
    void wait(const Poll& poll) override;
    bool ready() const override { return missing_ == 0; }
    void release(uintptr_t stream) override;

  private:
    friend class SlotCache;
    std::shared_ptr<SlotCache> cache_;
    std::vector<int32_t> slots_;                         // held, by expert id
    std::vector<int32_t> entry_slots_;                   // [entries]
    std::atomic<int64_t> missing_{0};                    // records still on their way
    std::condition_variable arrived_;                    // missing_ is 0; with the cache's mutex, as the rest:
    std::vector<std::pair<int64_t, Failure>> failures_;  // by expert
    bool counted_ = false;                               // as a live lease; one that could not be reserved is not
    bool complete_ = false;                              // ranks are filled in
    bool released_ = false;
};

class SlotCache final : public ExpertCache, public std::enable_shared_from_this<SlotCache> {
  public:
    SlotCache(std::shared_ptr<const ShardSet> shards, std::shared_ptr<Device> device, std::unique_ptr<Reader> reader,
              const SlotCacheOptions& options)
        : record_bytes_(shards->format().record_bytes),
          schema_crc_(shards->format().schema_crc),
          timeout_(options.timeout),
          policy_(make_policy(options.policy, options.slots)),
          device_(std::move(device)),
          slab_(device_->allocate(static_cast<size_t>(options.slots * record_bytes_))),
          shards_(std::move(shards)),
          slots_(static_cast<size_t>(options.slots)),
          holds_(static_cast<size_t>(options.slots), 0),
          available_(options.slots) {
        by_expert_.reserve(slots_.size());
        for (auto slot = static_cast<int32_t>(options.slots); slot > 0; --slot)
            free_.push_back(slot - 1);
        reader->attach(*shards_);
        const int64_t staging = options.staging > 0      ? options.staging
                                : device_->host_writes() ? 0
                                                         : std::min(kDefaultStaging, options.slots);
        staged_ = staging > 0;
        if (!staged_) reader->attach(slab_->span());
        prefetcher_ = std::make_unique<Prefetcher>(
            *device_, std::move(reader), record_bytes_, staging,
            [this](const Load& load, const LoadOutcome& outcome) { loaded(load, outcome); });
    }

    ~SlotCache() override {
        if (getpid() == process_) {
            prefetcher_.reset();
            uses_.wait_for_all();  // or the slab would go under them
            return;
        }
        // The threads of the parent are not here to be joined, nor may its locks be waited for.
        static_cast<void>(prefetcher_.release());
        static_cast<void>(slab_.release());
    }

    void prefetch(std::span<const int64_t> ids) override {
        check_process();
        const std::vector<int64_t> wanted = distinct(ids);
        std::vector<Load> loads;
        std::shared_ptr<const ShardSet> set;
        {
            const std::lock_guard lock(mutex_);
            set = shards_;
            const Found found = find(wanted);
            for (const int32_t slot : found.present)
                hold(slot);  // or one that is wanted could be given up for another
            for (const int64_t expert : found.absent) {
                if (available_ == 0) break;
                loads.push_back(begin_load(expert));
            }
            for (const int32_t slot : found.present)
                unhold(slot);
            counted_.records_prefetched += static_cast<int64_t>(loads.size());
        }
        if (!loads.empty()) prefetcher_->start(set, loads);
    }

    std::shared_ptr<Lease> reserve(const RouteView& route, const Poll& poll) override {
        check_process();
        check_route(route);
        const std::vector<int64_t> wanted = distinct(route.ids);
        auto lease = std::make_shared<SlotLease>(shared_from_this());
        start_lease(*lease, route);
        std::vector<Load> loads;
        std::shared_ptr<const ShardSet> set;
        {
            std::unique_lock lock(mutex_);
            const Found found = wait_for_room(lock, wanted, poll);
            set = shards_;
            lease->slots_.reserve(wanted.size());
            for (const int32_t slot : found.present) {
                hold(slot);
                policy_->touch(slot);
                lease->slots_.push_back(slot);
                if (slots_[at(slot)].state != State::loading) continue;
                ++counted_.joins;
                loading_[slot].waiting.push_back(lease.get());
                ++lease->missing_;
            }
            for (const int64_t expert : found.absent) {
                const Load load = begin_load(expert);
                hold(load.slot);
                lease->slots_.push_back(load.slot);
                loading_[load.slot].waiting.push_back(lease.get());
                ++lease->missing_;
                loads.push_back(load);
            }
            lease->entry_slots_.reserve(route.ids.size());
            for (size_t i = 0; i < route.ids.size(); ++i) {
                const int32_t slot = by_expert_.find(route.ids[i])->second;
                lease->entry_slots_.push_back(slot);
                lease->base[i] = reinterpret_cast<int64_t>(memory(slot));
            }
            ++counted_.leases;
            ++counted_.leases_live;
            lease->counted_ = true;
            counted_.experts_leased += static_cast<int64_t>(wanted.size());
            counted_.misses += static_cast<int64_t>(loads.size());
        }
        if (!loads.empty()) prefetcher_->start(set, loads);
        return lease;
    }

    void pin(std::span<const int64_t> ids, const Poll& poll) override {
        check_process();
        unpin();
        const std::vector<int64_t> wanted = distinct(ids);
        const std::vector<float> weights(wanted.size(), 1.0F);
        const std::vector<int64_t> counts{static_cast<int64_t>(wanted.size())};
        const auto lease = acquire({.counts = counts, .ids = wanted, .weights = weights}, poll);
        const std::lock_guard lock(mutex_);
        for (const int64_t expert : wanted) {
            const auto slot = by_expert_.find(expert);
            if (slot == by_expert_.end()) continue;  // a refresh took it away meanwhile
            if (pinned_.emplace(expert, slot->second).second) hold(slot->second);
        }
    }

    void refresh(std::shared_ptr<const ShardSet> shards) override {
        check_process();
        if (shards->format().record_bytes != record_bytes_ || shards->format().schema_crc != schema_crc_) {
            throw SchemaError("the other snapshot's records are not of the kind that the cache was made for");
        }
        std::shared_ptr<const ShardSet> retired;  // unmapped after the lock is gone
        prefetcher_->reader().attach(*shards);
        const std::lock_guard lock(mutex_);
        for (size_t i = 0; i < slots_.size(); ++i) {
            Slot& slot = slots_[i];
            if (!slot.listed) continue;
            const int64_t before = shards_->position_of(slot.expert);
            const int64_t after = shards->position_of(slot.expert);
            if (after >= 0 && before >= 0 && shards->group(after) == shards_->group(before)) continue;
            const auto number = static_cast<int32_t>(i);
            unlist(number);
            if (const auto pin = pinned_.find(slot.expert); pin != pinned_.end()) {
                pinned_.erase(pin);
                unhold(number);
            }
            if (holds_[i] == 0) retire(number);
        }
        retired = std::exchange(shards_, std::move(shards));
    }

    std::shared_ptr<const ShardSet> shards() const override {
        check_process();
        const std::lock_guard lock(mutex_);
        return shards_;
    }

    std::optional<int64_t> slots() const override { return static_cast<int64_t>(slots_.size()); }

    CacheStatistics statistics() const override {
        check_process();
        const std::lock_guard lock(mutex_);
        CacheStatistics counted = counted_;
        counted.hits = counted.experts_leased - counted.joins - counted.misses;
        counted.queue_depth = static_cast<int64_t>(loading_.size());
        counted.slots_free = static_cast<int64_t>(free_.size());
        counted.slots_held = static_cast<int64_t>(slots_.size()) - available_;
        counted.stall_p50 = stalls_.percentile(0.5);
        counted.stall_p99 = stalls_.percentile(0.99);
        counted.stall_total = stalls_.total();
        return counted;
    }

    // For leases:
    void wait_for(SlotLease& lease, const Poll& poll) {
        check_process();
        const auto begun = Clock::now();
        while (lease.missing_ > 0 && prefetcher_->help()) {
        }
        std::unique_lock lock(mutex_);
        const bool came = wait_until(lock, lease.arrived_, begun + timeout_, poll, [&] { return lease.missing_ == 0; });
        stalls_.add(Clock::now() - begun);
        if (!came) timed_out(lease).raise();
        if (!lease.failures_.empty()) {
            std::ranges::min_element(lease.failures_, {}, [](const auto& each) { return each.first; })->second.raise();
        }
        for (size_t i = 0; i < lease.entry_slots_.size(); ++i)
            lease.rank[i] = slots_[at(lease.entry_slots_[i])].rank;
        lease.complete_ = true;
    }

    void release(SlotLease& lease) {
        if (getpid() != process_) return;
        const std::lock_guard lock(mutex_);
        end(lease);
    }

    void release(SlotLease& lease, uintptr_t stream) {
        check_process();
        const std::lock_guard lock(mutex_);
        const std::shared_ptr<Event> done = device_->record(stream);  // under the lock: uses are added in its order
        for (const int32_t slot : lease.slots_)
            uses_.add(slot, stream, done);
        end(lease);
    }

  private:
    enum class State : uint8_t { free, loading, ready, failed };
    struct Slot {
        State state = State::free;
        bool listed = false;  // by_expert_ and the policy know it
        int32_t rank = 0;
        int64_t expert = 0;
    };
    struct Underway {
        std::vector<SlotLease*> waiting;
        Load load;
        std::shared_ptr<const ShardSet> shards;
    };
    struct Found {
        std::vector<int32_t> present;  // slots
        std::vector<int64_t> absent;   // experts
        int64_t takes = 0;             // slots that would no longer be available
    };

    static size_t at(int32_t slot) { return static_cast<size_t>(slot); }
    std::byte* memory(int32_t slot) const { return slab_->data() + slot * record_bytes_; }

    void check_process() const {
        if (getpid() != process_) {
            throw ClosedError("the expert cache was made before this process was forked; make a new one here");
        }
    }

    // Where experts are. Throws UnknownIdError naming all that the snapshot lacks.
    Found find(std::span<const int64_t> wanted) const {
        Found found;
        std::vector<int64_t> unknown;
        for (const int64_t expert : wanted) {
            const auto slot = by_expert_.find(expert);
            if (slot != by_expert_.end()) {
                found.present.push_back(slot->second);
                found.takes += holds_[at(slot->second)] == 0 ? 1 : 0;
            } else {
                found.absent.push_back(expert);
                if (shards_->position_of(expert) < 0) unknown.push_back(expert);
            }
        }
        if (!unknown.empty()) throw UnknownIdError(std::move(unknown));
        found.takes += static_cast<int64_t>(found.absent.size());
        return found;
    }

    // As `find`, when there are slots for all.
    Found wait_for_room(std::unique_lock<std::mutex>& lock, std::span<const int64_t> wanted, const Poll& poll) {
        const auto deadline = Clock::now() + timeout_;
        const auto also_pinned = std::ranges::count_if(wanted, [&](int64_t id) { return pinned_.contains(id); });
        const int64_t for_leases = static_cast<int64_t>(slots_.size() - pinned_.size()) + also_pinned;
        const auto needed = static_cast<int64_t>(wanted.size());
        if (needed > for_leases) throw CapacityError(needed, for_leases);
        Found found;
        const bool room = wait_until(lock, unheld_, deadline, poll, [&] {
            found = find(wanted);
            return found.takes <= available_;
        });
        if (!room) throw CapacityError(needed, needed - found.takes + available_);
        return found;
    }

    // Waits until `done()`; false when the deadline came first.
    template <class Done>
    static bool wait_until(std::unique_lock<std::mutex>& lock, std::condition_variable& changed,
                           Clock::time_point deadline, const Poll& poll, Done done) {
        while (!done()) {
            const auto now = Clock::now();
            if (now >= deadline) return false;
            changed.wait_until(lock, poll ? std::min(deadline, now + kPollEvery) : deadline);
            if (poll && !done()) {
                lock.unlock();
                poll();
                lock.lock();
            }
        }
        return true;
    }

    // A slot for an expert that is to be loaded, held by the load. There must be one available.
    Load begin_load(int64_t expert) {
        int32_t slot = 0;
        if (!free_.empty()) {
            slot = free_.back();
            free_.pop_back();
        } else {
            const auto victim = policy_->evict(holds_);
            if (!victim) throw std::logic_error("a slot is available but the policy finds none");
            slot = *victim;
            by_expert_.erase(slots_[at(slot)].expert);
            ++counted_.evictions;
        }
        slots_[at(slot)] = {.state = State::loading, .listed = true, .rank = 0, .expert = expert};
        hold(slot);
        by_expert_.emplace(expert, slot);
        policy_->admit(slot, expert);
        const Load load{.expert = expert,
                        .position = shards_->position_of(expert),
                        .slot = slot,
                        .to = memory(slot),
                        .after = uses_.of(slot)};
        loading_.emplace(slot, Underway{.waiting = {}, .load = load, .shards = shards_});
        counted_.queue_depth_peak = std::max(counted_.queue_depth_peak, static_cast<int64_t>(loading_.size()));
        return load;
    }

    void loaded(const Load& load, const LoadOutcome& outcome) {
        const std::lock_guard lock(mutex_);
        Slot& slot = slots_[at(load.slot)];
        ++counted_.records_checked;
        if (outcome.failure) {
            ++counted_.loads_failed;
            slot.state = State::failed;
            if (slot.listed) unlist(load.slot);
        } else {
            slot.state = State::ready;
            slot.rank = static_cast<int32_t>(outcome.rank);
            (outcome.from_memory ? counted_.bytes_from_memory : counted_.bytes_from_disk) += record_bytes_;
            if (staged_) counted_.bytes_staged += record_bytes_;
            uses_.forget(load.slot, load.after);  // a load that failed may not have waited for them
        }
        const auto underway = loading_.find(load.slot);
        for (SlotLease* lease : underway->second.waiting) {
            if (outcome.failure) lease->failures_.emplace_back(load.expert, outcome.failure);
            if (--lease->missing_ == 0) lease->arrived_.notify_all();
        }
        loading_.erase(underway);
        unhold(load.slot);
    }

    void end(SlotLease& lease) {
        if (lease.missing_ > 0) {
            for (auto& [slot, underway] : loading_)
                std::erase(underway.waiting, &lease);
        }
        for (const int32_t slot : std::exchange(lease.slots_, {}))
            unhold(slot);
        if (std::exchange(lease.counted_, false)) --counted_.leases_live;
    }

    void hold(int32_t slot) {
        if (holds_[at(slot)]++ == 0) --available_;
    }

    void unhold(int32_t slot) {
        if (--holds_[at(slot)] > 0) return;
        ++available_;
        if (!slots_[at(slot)].listed) retire(slot);
        unheld_.notify_all();
    }

    // The expert's id no longer leads to the slot.
    void unlist(int32_t slot) {
        by_expert_.erase(slots_[at(slot)].expert);
        policy_->remove(slot);
        slots_[at(slot)].listed = false;
    }

    // An unlisted slot that nobody holds is free.
    void retire(int32_t slot) {
        if (slots_[at(slot)].state == State::free) return;
        slots_[at(slot)].state = State::free;
        free_.push_back(slot);
    }

    void unpin() {
        const std::lock_guard lock(mutex_);
        for (const auto& [expert, slot] : std::exchange(pinned_, {}))
            unhold(slot);
    }

    // The error for a record that a lease still waits for.
    Failure timed_out(const SlotLease& lease) const {
        for (const auto& [slot, underway] : loading_) {
            if (std::ranges::find(underway.waiting, &lease) == underway.waiting.end()) continue;
            const ShardSet::Location place = underway.shards->locate(underway.load.position);
            return read_failure(*place.shard, place.offset, ETIMEDOUT);
        }
        throw std::logic_error("a lease waits for a record that is not on its way");
    }

    const pid_t process_ = getpid();
    const int64_t record_bytes_;
    const uint32_t schema_crc_;
    const std::chrono::milliseconds timeout_;

    mutable std::mutex mutex_;  // guards all down to the prefetcher, and what leases share
    std::condition_variable unheld_;
    std::unique_ptr<EvictionPolicy> policy_;
    std::shared_ptr<Device> device_;
    std::unique_ptr<Allocation> slab_;
    std::shared_ptr<const ShardSet> shards_;
    std::vector<Slot> slots_;
    std::vector<int32_t> holds_;
    int64_t available_;  // slots without a hold
    std::vector<int32_t> free_;
    std::unordered_map<int64_t, int32_t> by_expert_;
    std::unordered_map<int32_t, Underway> loading_;
    std::unordered_map<int64_t, int32_t> pinned_;
    SlotUses uses_;
    bool staged_ = false;  // records come by staging buffers
    CacheStatistics counted_;
    StallTimes stalls_;

    std::unique_ptr<Prefetcher> prefetcher_;  // last: its threads use all of the above
};

SlotLease::~SlotLease() {
    cache_->release(*this);
}

void SlotLease::release(uintptr_t stream) {
    if (released_) return;
    cache_->release(*this, stream);
    released_ = true;
}

void SlotLease::wait(const Poll& poll) {
    if (released_) throw ClosedError("the lease was released");
    if (!complete_) cache_->wait_for(*this, poll);
}

}  // namespace

std::shared_ptr<ExpertCache> make_slot_cache(std::shared_ptr<const ShardSet> shards, std::shared_ptr<Device> device,
                                             std::unique_ptr<Reader> reader, const SlotCacheOptions& options) {
    if (options.slots < 1) throw CapacityError(1, options.slots);
    return std::make_shared<SlotCache>(std::move(shards), std::move(device), std::move(reader), options);
}

}  // namespace mome

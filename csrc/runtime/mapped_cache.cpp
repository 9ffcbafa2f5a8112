// Leases over records where they lie in the mapping of their shard.
#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "runtime/expert_cache.h"
#include "runtime/route.h"

namespace mome {
namespace {

struct Counters {
    std::atomic<int64_t> leases{0}, leases_live{0}, experts_leased{0}, checked{0}, prefetched{0};
};

class MappedLease final : public Lease {
  public:
    MappedLease(std::shared_ptr<const ShardSet> shards, std::shared_ptr<Counters> counters)
        : shards_(std::move(shards)), counters_(std::move(counters)) {
        ++counters_->leases;
        ++counters_->leases_live;
    }
    ~MappedLease() override { release(0); }
    void wait(const Poll&) override {}
    void release(uintptr_t) final {
        if (std::exchange(shards_, nullptr)) --counters_->leases_live;
    }
    bool ready() const override { return true; }

  private:
    std::shared_ptr<const ShardSet> shards_;
    std::shared_ptr<Counters> counters_;
};

class MappedCache final : public ExpertCache {
  public:
    explicit MappedCache(std::shared_ptr<const ShardSet> shards) : shards_(std::move(shards)) {}

    void prefetch(std::span<const int64_t> ids) override {
        const auto set = shards();
        counters_->prefetched += set->advise(set->find(ids));
    }

    std::shared_ptr<Lease> reserve(const RouteView& route, const Poll&) override {
        check_route(route);
        const auto set = shards();
        const std::vector<int64_t> positions = set->find(route.ids);
        const std::vector<int64_t> each = distinct(positions);
        set->advise(each);  // all reads under way before the first one is waited for
        auto lease = std::make_shared<MappedLease>(set, counters_);
        start_lease(*lease, route);
        for (size_t i = 0; i < positions.size(); ++i) {
            const ExpertRef expert = set->expert(positions[i]);
            counters_->checked += expert.checked_now ? 1 : 0;
            lease->base[i] = reinterpret_cast<int64_t>(expert.base);
            lease->rank[i] = static_cast<int32_t>(expert.rank);
        }
        counters_->experts_leased += static_cast<int64_t>(each.size());
        return lease;
    }

    void pin(std::span<const int64_t> ids, const Poll&) override {
        const auto set = shards();
        const std::vector<int64_t> positions = set->find(ids);
        set->advise(positions);
        for (const int64_t position : positions)
            counters_->checked += set->expert(position).checked_now ? 1 : 0;
    }

    void refresh(std::shared_ptr<const ShardSet> shards) override {
        std::shared_ptr<const ShardSet> retired;  // unmapped after the lock is gone
        const std::lock_guard lock(mutex_);
        retired = std::exchange(shards_, std::move(shards));
    }

    std::shared_ptr<const ShardSet> shards() const override {
        const std::lock_guard lock(mutex_);
        return shards_;
    }

    std::optional<int64_t> slots() const override { return std::nullopt; }

    CacheStatistics statistics() const override {
        CacheStatistics counted;
        counted.leases = counters_->leases;
        counted.leases_live = counters_->leases_live;
        counted.experts_leased = counters_->experts_leased;
        counted.records_checked = counters_->checked;
        counted.misses = counted.records_checked;
        counted.hits = std::max<int64_t>(0, counted.experts_leased - counted.misses);
        counted.records_prefetched = counters_->prefetched;
        return counted;
    }

  private:
    mutable std::mutex mutex_;  // guards shards_
    std::shared_ptr<const ShardSet> shards_;
    std::shared_ptr<Counters> counters_ = std::make_shared<Counters>();
};

}  // namespace

std::shared_ptr<ExpertCache> make_mapped_cache(std::shared_ptr<const ShardSet> shards) {
    return std::make_shared<MappedCache>(std::move(shards));
}

}  // namespace mome

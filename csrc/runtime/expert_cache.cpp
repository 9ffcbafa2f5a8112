// Makes leases over the mapped shards.
#include "runtime/expert_cache.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "format/errors.h"

namespace mome {

Lease::Lease(std::shared_ptr<const ShardSet> shards, std::shared_ptr<CacheCounters> counters)
    : shards_(std::move(shards)), counters_(std::move(counters)) {
    ++counters_->leases;
    ++counters_->leases_live;
}

Lease::~Lease() {
    --counters_->leases_live;
}

ExpertCache::ExpertCache(std::shared_ptr<const ShardSet> shards, std::optional<int64_t> slots)
    : shards_(std::move(shards)), slots_(slots) {
    if (slots_ && *slots_ < 1) throw CapacityError(1, *slots_);
}

void ExpertCache::prefetch(std::span<const int64_t> ids) const {
    const auto set = shards();
    counters_->records_advised += set->advise(set->find(ids));
}

std::shared_ptr<Lease> ExpertCache::acquire(std::span<const int64_t> counts, std::span<const int64_t> ids,
                                            std::span<const float> weights) const {
    if (ids.size() != weights.size()) throw SchemaError("a route needs one weight for each expert");
    if (ids.size() > std::numeric_limits<int32_t>::max()) throw SchemaError("the route has too many entries");
    if (std::ranges::any_of(counts, [](int64_t count) { return count < 0; }) ||
        std::accumulate(counts.begin(), counts.end(), int64_t{0}) != static_cast<int64_t>(ids.size())) {
        throw SchemaError("the experts of the sequences do not add up to the experts of the route");
    }
    if (!std::ranges::all_of(weights, [](float weight) { return std::isfinite(weight); })) {
        throw SchemaError("a route's weights must be finite");
    }
    const auto set = shards();
    const std::vector<int64_t> positions = set->find(ids);
    std::vector<int64_t> distinct = positions;
    std::ranges::sort(distinct);
    distinct.erase(std::ranges::unique(distinct).begin(), distinct.end());
    const auto needed = static_cast<int64_t>(distinct.size());
    if (slots_ && needed > *slots_) throw CapacityError(needed, *slots_);

    set->advise(distinct);  // all reads under way before the first one is waited for
    auto lease = std::make_shared<Lease>(set, counters_);
    lease->indptr.reserve(counts.size() + 1);
    lease->indptr.push_back(0);
    for (const int64_t count : counts)
        lease->indptr.push_back(lease->indptr.back() + static_cast<int32_t>(count));
    lease->base.reserve(ids.size());
    lease->rank.reserve(ids.size());
    for (const int64_t position : positions) {
        const ExpertRef expert = set->expert(position);
        counters_->records_checked += expert.checked_now ? 1 : 0;
        lease->base.push_back(reinterpret_cast<int64_t>(expert.base));
        lease->rank.push_back(static_cast<int32_t>(expert.rank));
    }
    lease->weight.assign(weights.begin(), weights.end());
    counters_->experts_leased += needed;
    return lease;
}

void ExpertCache::refresh(std::shared_ptr<const ShardSet> shards) {
    std::shared_ptr<const ShardSet> retired;  // unmapped after the lock is gone
    const std::lock_guard lock(mutex_);
    retired = std::exchange(shards_, std::move(shards));
}

std::shared_ptr<const ShardSet> ExpertCache::shards() const {
    const std::lock_guard lock(mutex_);
    return shards_;
}

}  // namespace mome

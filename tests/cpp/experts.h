// Experts 0 .. n - 1 of group 1, expert i of rank 1 + i % 4, in shards of eight records, and routes over them.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "runtime/expert_cache.h"
#include "shard_file.h"
#include "tested_device.h"

namespace mome::test {

constexpr RecordFormat kFormat{.record_bytes = 4096, .payload_bytes = 3000, .rank = 4, .schema_crc = 77};
constexpr int64_t kRowsPerShard = 8;

inline Buffer record_of(int64_t expert) {
    return make_record(kFormat, static_cast<uint64_t>(expert), 1, static_cast<uint32_t>(1 + expert % 4));
}

class Experts {
  public:
    explicit Experts(int64_t count) : count_(count) {
        for (int64_t shard = 0; shard * kRowsPerShard < count; ++shard) {
            std::map<size_t, Buffer> records;
            for (int64_t i = shard * kRowsPerShard; i < std::min(count, (shard + 1) * kRowsPerShard); ++i)
                records[static_cast<size_t>(i % kRowsPerShard)] = record_of(i);
            files_.push_back(std::make_unique<ShardFile>(folder_, shard, make_shard(records, kRowsPerShard)));
        }
    }

    // The experts of `ids` (ascending), or all of them.
    std::shared_ptr<ShardSet> open(std::vector<int64_t> ids = {}, Access access = Access::mapped) const {
        if (ids.empty()) {
            for (int64_t i = 0; i < count_; ++i)
                ids.push_back(i);
        }
        std::vector<ShardSource> sources;
        for (const auto& file : files_)
            sources.push_back(file->source());
        const std::vector<int64_t> groups(ids.size(), 1);
        return std::make_shared<ShardSet>(kFormat, kRowsPerShard, Verify::record, sources, runs_of(ids, ids, groups),
                                          nullptr, access);
    }

    ShardSource source(size_t shard) const { return files_[shard]->source(); }
    const TemporaryFolder& folder() const { return folder_; }
    int64_t count() const { return count_; }

  private:
    int64_t count_;
    TemporaryFolder folder_;
    std::vector<std::unique_ptr<ShardFile>> files_;
};

// A route with weight 1 everywhere, one sequence unless `counts` says otherwise; it owns what its view shows.
struct TestRoute {
    explicit TestRoute(std::vector<int64_t> ids_, std::vector<int64_t> counts_ = {}, std::vector<float> weights_ = {})
        : ids(std::move(ids_)), counts(std::move(counts_)), weights(std::move(weights_)) {
        if (counts.empty()) counts.push_back(static_cast<int64_t>(ids.size()));
        if (weights.empty()) weights.assign(ids.size(), 1.0F);
    }
    RouteView view() const { return {.counts = counts, .ids = ids, .weights = weights}; }
    std::vector<int64_t> ids;
    std::vector<int64_t> counts;
    std::vector<float> weights;
};

// Whether every entry of a lease points at the record of its expert, with its rank.
inline bool holds_records(const Lease& lease, const std::vector<int64_t>& ids) {
    if (lease.base.size() != ids.size()) return false;
    for (size_t i = 0; i < ids.size(); ++i) {
        const Buffer record = record_of(ids[i]);
        if (lease.rank[i] != 1 + ids[i] % 4) return false;
        Buffer found(record.size());
        read_device(found, reinterpret_cast<const std::byte*>(lease.base[i]));
        if (found != record) return false;
    }
    return true;
}

}  // namespace mome::test

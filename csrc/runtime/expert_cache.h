// Leases: the experts of one route, found, checked and pinned for as long as they are in use.
//
// On the cpu device records are used where they lie in the mapping. A lease then pins the mapping, and the capacity
// only bounds how many distinct experts one lease may hold.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "io/shard_set.h"

namespace mome {

// Counts since the cache was made.
struct CacheCounters {
    std::atomic<int64_t> leases{0};           // acquired
    std::atomic<int64_t> leases_live{0};      // not yet released
    std::atomic<int64_t> experts_leased{0};   // distinct experts, summed over leases
    std::atomic<int64_t> records_checked{0};  // of those, first uses
    std::atomic<int64_t> records_advised{0};  // read ahead by prefetch
};

// The experts of a batch of sequences, as the kernels take them. `indptr[s] .. indptr[s + 1]` are the entries of
// sequence s.
class Lease {
  public:
    Lease(std::shared_ptr<const ShardSet> shards, std::shared_ptr<CacheCounters> counters);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    std::vector<int32_t> indptr;  // [sequences + 1]
    std::vector<int64_t> base;    // [entries] address of the record
    std::vector<int32_t> rank;    // [entries]
    std::vector<float> weight;    // [entries]

  private:
    std::shared_ptr<const ShardSet> shards_;
    std::shared_ptr<CacheCounters> counters_;
};

class ExpertCache {
  public:
    // `slots`: the most distinct experts that a lease may hold; none: as many as it likes.
    ExpertCache(std::shared_ptr<const ShardSet> shards, std::optional<int64_t> slots);

    // Starts reading the records of `ids` without waiting. Throws UnknownIdError.
    void prefetch(std::span<const int64_t> ids) const;

    // `counts[s]` entries of `ids` and `weights` belong to sequence s. Before anything is read, throws SchemaError,
    // UnknownIdError or CapacityError; then DamagedStoreError or ReadError for the first record that is no good.
    std::shared_ptr<Lease> acquire(std::span<const int64_t> counts, std::span<const int64_t> ids,
                                   std::span<const float> weights) const;

    // Uses another snapshot from now on; leases that are out keep the one they were made from.
    void refresh(std::shared_ptr<const ShardSet> shards);

    std::shared_ptr<const ShardSet> shards() const;
    const CacheCounters& counters() const { return *counters_; }
    std::optional<int64_t> slots() const { return slots_; }

  private:
    mutable std::mutex mutex_;  // guards shards_
    std::shared_ptr<const ShardSet> shards_;
    std::optional<int64_t> slots_;
    std::shared_ptr<CacheCounters> counters_ = std::make_shared<CacheCounters>();
};

}  // namespace mome

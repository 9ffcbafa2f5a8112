// From a route to records that are in memory, checked and pinned: leases, and the two ways to give them out.
//
//   make_mapped_cache   records are used where they lie in the mapping; a lease pins the mapping. For the cpu without a
//                       budget: nothing is copied and nothing is evicted.
//   make_slot_cache     a fixed number of slots in device memory; records are read into them and evicted from them.
//
// Both may be used from several threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "device/device.h"
#include "io/reader.h"
#include "io/shard_set.h"

namespace mome {

// The experts of a batch: `counts[s]` entries of `ids` and `weights` belong to sequence s.
struct RouteView {
    std::span<const int64_t> counts;
    std::span<const int64_t> ids;
    std::span<const float> weights;
};

// Called now and then while something waits; it may throw to end the wait (an interrupt from the keyboard).
using Poll = std::function<void()>;

// The experts of a route as the kernels take them, pinned until the lease goes. `indptr[s] .. indptr[s + 1]` are the
// entries of sequence s.
class Lease {
  public:
    virtual ~Lease() = default;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    // Returns once every record is there. Throws what kept one from coming: DamagedStoreError, DeviceError, or
    // ReadError (ETIMEDOUT when it took longer than the cache's timeout); ClosedError when the lease was released. To
    // be called by one thread at a time.
    virtual void wait(const Poll& poll = {}) = 0;
    virtual bool ready() const = 0;

    // Ends the lease for work that runs later: what has been put into `stream` of the cache's device until now (a
    // cudaStream_t; 0 is the default stream) may still use the records, and a slot is only written again after it.
    // Nobody waits for that: the device orders it. The destructor, in contrast, says that no work uses the records any
    // more. Throws DeviceError, and the lease goes on, when the stream can't say so. To be called while no `wait` is
    // under way; a second call does nothing.
    virtual void release(uintptr_t stream) = 0;

    std::vector<int32_t> indptr;  // [sequences + 1]
    std::vector<int64_t> base;    // [entries] address of the record
    std::vector<int32_t> rank;    // [entries] known once the lease is ready
    std::vector<float> weight;    // [entries]

  protected:
    Lease() = default;
};

// Counts since the cache was made, unless said otherwise.
struct CacheStatistics {
    int64_t leases = 0;
    int64_t leases_live = 0;     // now
    int64_t experts_leased = 0;  // distinct experts, summed over leases; each is one of the three below
    int64_t hits = 0;            // was there
    int64_t joins = 0;           // was on its way already
    int64_t misses = 0;          // had to be fetched
    int64_t evictions = 0;
    int64_t loads_failed = 0;
    int64_t records_prefetched = 0;  // begun by prefetch
    int64_t records_checked = 0;
    int64_t bytes_from_memory = 0;  // of records: out of the page cache
    int64_t bytes_from_disk = 0;
    int64_t bytes_staged = 0;  // copied from staging buffers to the device
    int64_t queue_depth = 0;   // loads under way now
    int64_t queue_depth_peak = 0;
    int64_t slots_free = 0;                 // now
    int64_t slots_held = 0;                 // now: leased, pinned or loading
    std::chrono::nanoseconds stall_p50{0};  // of the leases' waits
    std::chrono::nanoseconds stall_p99{0};
    std::chrono::nanoseconds stall_total{0};
};

class ExpertCache {
  public:
    virtual ~ExpertCache() = default;

    // Starts fetching the records of `ids` without waiting; as many as there is room for. Throws UnknownIdError.
    virtual void prefetch(std::span<const int64_t> ids) = 0;

    // Pins the route's experts and starts fetching those that are not there; Lease::wait waits for them. Before
    // anything is read, throws SchemaError, UnknownIdError, or CapacityError: at once when the route has more experts
    // than there are slots, after the timeout when other leases hold too many.
    virtual std::shared_ptr<Lease> reserve(const RouteView& route, const Poll& poll = {}) = 0;

    // reserve, then wait.
    std::shared_ptr<Lease> acquire(const RouteView& route, const Poll& poll = {});

    // Fetches experts and keeps them from being evicted until the next call. Throws as `acquire` does.
    virtual void pin(std::span<const int64_t> ids, const Poll& poll = {}) = 0;

    // Uses another snapshot of the same store from now on, and keeps what is valid in both; leases that are out keep
    // what they have. Throws SchemaError when its records are of another kind.
    virtual void refresh(std::shared_ptr<const ShardSet> shards) = 0;

    virtual std::shared_ptr<const ShardSet> shards() const = 0;
    virtual std::optional<int64_t> slots() const = 0;
    virtual CacheStatistics statistics() const = 0;
};

struct SlotCacheOptions {
    int64_t slots = 0;
    std::string policy = "s3fifo";
    // Buffers between the reader and the device; 0: none where the host can write device memory, 64 elsewhere.
    int64_t staging = 0;
    // How long a lease waits for slots that others hold, and for a read.
    std::chrono::milliseconds timeout{30'000};
};

std::shared_ptr<ExpertCache> make_mapped_cache(std::shared_ptr<const ShardSet> shards);

// Throws CapacityError for fewer than one slot, SchemaError for an unknown policy, DeviceMemoryError when the device
// has not so much memory. In a forked child, calls throw ClosedError, and leases keep what they have.
//
// When the cache goes, it waits for the work that leases were released to.
std::shared_ptr<ExpertCache> make_slot_cache(std::shared_ptr<const ShardSet> shards, std::shared_ptr<Device> device,
                                             std::unique_ptr<Reader> reader, const SlotCacheOptions& options);

}  // namespace mome

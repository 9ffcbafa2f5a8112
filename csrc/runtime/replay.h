// Replays a recorded trace against an eviction policy, or against the offline optimum, without loading anything.
//
// A trace is a CSR of batches: batch b asks for ids[indptr[b]] .. ids[indptr[b + 1]] (exclusive), in any order and with
// repetitions. A batch holds all its distinct experts at once until it ends, as a lease does: those that are cached
// are found and held first, then the others take free slots or evict. A batch with more distinct experts than there
// are slots runs in waves, each of as many of them as there are slots, in the order in which they are first asked for;
// each wave holds and ends as a batch does.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace mome {

struct ReplayResult {
    int64_t requests = 0;  // distinct experts of a batch, summed over batches; hits + misses
    int64_t hits = 0;
    int64_t misses = 0;
    int64_t evictions = 0;
};

// With a policy of runtime/eviction.h. Throws SchemaError for an unknown policy, slots < 1, an indptr that doesn't
// start at 0, falls or doesn't end at ids.size(), and ids below 0.
ReplayResult replay(std::string_view policy, int64_t slots, std::span<const int64_t> indptr,
                    std::span<const int64_t> ids);

// With knowledge of the future: gives up the expert, among those not held, whose next use is farthest (Belady, "A study
// of replacement algorithms for a virtual-storage computer", 1966). Within a batch the order of requests plays no part,
// so no policy has more hits. O(n log n) for n requests. Throws as `replay`.
ReplayResult belady(int64_t slots, std::span<const int64_t> indptr, std::span<const int64_t> ids);

}  // namespace mome

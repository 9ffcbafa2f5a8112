// Eviction policies: which slot of a full cache is given up next.
//
// One policy serves one cache, which calls it under its lock; the replay of a trace (runtime/replay.h) calls the same
// code. Experts are named by id (>= 0), slots by number in [0, slots). A policy knows a slot from admit until remove,
// or until evict returns it; an expert is in one slot at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

namespace mome {

class EvictionPolicy {
  public:
    virtual ~EvictionPolicy() = default;

    // `slot`, unknown to the policy until now, holds `expert`.
    virtual void admit(int32_t slot, int64_t expert) = 0;

    // A request found its expert in `slot`, which the policy knows.
    virtual void touch(int32_t slot) = 0;

    // `slot`, which the policy knows, was emptied otherwise: a failed load, a new snapshot.
    virtual void remove(int32_t slot) = 0;

    // The slot to give up among those that the policy knows and whose holds[slot] is 0; it is then unknown. nullopt
    // when there is none. A slot with holds[slot] > 0 is pinned or being loaded, and is never given up.
    //
    // The policy isn't told when a hold ends, so a call that finds nearly all slots held may have to look at each of
    // them. Otherwise the cost is O(1) a call, or O(log slots) for lfu, over any sequence of calls: a held slot that
    // was looked at is put where the calls that follow do not meet it again.
    virtual std::optional<int32_t> evict(std::span<const int32_t> holds) = 0;
};

// The names of the policies.
std::span<const std::string_view> policy_names();

// A policy for a cache of `slots` slots that knows none of them yet. Throws SchemaError for a name that is no policy's,
// and for a number of slots below 1 or too large for 32 bits.
std::unique_ptr<EvictionPolicy> make_policy(std::string_view name, int64_t slots);

}  // namespace mome

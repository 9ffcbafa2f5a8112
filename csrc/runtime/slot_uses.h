// By what work, of leases that have ended, slots may still be read.
//
// Not synchronised: the cache's lock is held.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device/device.h"
#include "format/errors.h"

namespace mome {

class SlotUses {
  public:
    // `done` comes after all that was added for the same stream before, and takes its place: there is at most one event
    // for each slot and stream, however often a slot is used between two loads.
    void add(int32_t slot, uintptr_t stream, const std::shared_ptr<Event>& done) {
        std::vector<Use>& uses = by_slot_[slot];
        std::erase_if(uses, [&](const Use& use) { return use.stream == stream; });
        uses.push_back({.stream = stream, .done = done});
    }

    // What a write to the slot must wait for.
    std::vector<std::shared_ptr<Event>> of(int32_t slot) const {
        std::vector<std::shared_ptr<Event>> events;
        const auto uses = by_slot_.find(slot);
        if (uses == by_slot_.end()) return events;
        for (const Use& use : uses->second)
            events.push_back(use.done);
        return events;
    }

    // These are reached. Uses that were added meanwhile stay.
    void forget(int32_t slot, const std::vector<std::shared_ptr<Event>>& reached) {
        const auto uses = by_slot_.find(slot);
        if (uses == by_slot_.end()) return;
        std::erase_if(uses->second,
                      [&](const Use& use) { return std::ranges::find(reached, use.done) != reached.end(); });
        if (uses->second.empty()) by_slot_.erase(uses);
    }

    void wait_for_all() noexcept {
        for (const auto& [slot, uses] : by_slot_) {
            for (const Use& use : uses) {
                try {
                    use.done->wait();
                } catch (const DeviceError&) {  // it was lost, and the work with it
                }
            }
        }
        by_slot_.clear();
    }

  private:
    struct Use {
        uintptr_t stream;
        std::shared_ptr<Event> done;
    };
    std::unordered_map<int32_t, std::vector<Use>> by_slot_;
};

}  // namespace mome

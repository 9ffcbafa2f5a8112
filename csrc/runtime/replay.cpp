// The replay of a trace: what a cache would have done, counted.
#include "runtime/replay.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "format/errors.h"
#include "runtime/eviction.h"

namespace mome {
namespace {

constexpr int32_t kNoSlot = -1;

void check(int64_t slots, std::span<const int64_t> indptr, std::span<const int64_t> ids) {
    if (slots < 1) throw SchemaError("a cache has at least 1 slot, not " + std::to_string(slots));
    if (indptr.empty() || indptr.front() != 0 || indptr.back() != static_cast<int64_t>(ids.size()) ||
        !std::ranges::is_sorted(indptr)) {
        throw SchemaError("the indptr of a trace must rise from 0 to the number of its ids");
    }
    if (std::ranges::any_of(ids, [](int64_t id) { return id < 0; })) throw SchemaError("expert ids can't be negative");
}

// A trace as the simulation takes it: experts numbered 0, 1, … and batches cut into waves of distinct experts.
struct Waves {
    Waves(int64_t slots, std::span<const int64_t> indptr, std::span<const int64_t> ids) {
        check(slots, indptr, ids);
        id_of.assign(ids.begin(), ids.end());
        std::ranges::sort(id_of);
        id_of.erase(std::ranges::unique(id_of).begin(), id_of.end());
        if (id_of.size() > std::numeric_limits<int32_t>::max()) throw SchemaError("the trace has too many experts");

        std::vector<int64_t> last_batch(id_of.size(), -1);
        for (size_t batch = 0; batch + 1 < indptr.size(); ++batch) {
            for (int64_t i = indptr[batch]; i < indptr[batch + 1]; ++i) {
                const auto expert = std::ranges::lower_bound(id_of, ids[i]) - id_of.begin();
                if (last_batch[expert] == static_cast<int64_t>(batch)) continue;
                last_batch[expert] = static_cast<int64_t>(batch);
                if (static_cast<int64_t>(experts.size()) - indptr_.back() == slots) end_wave();
                experts.push_back(static_cast<int32_t>(expert));
            }
            end_wave();
        }
    }

    size_t count() const { return indptr_.size() - 1; }
    std::span<const int32_t> wave(size_t index) const {
        return std::span(experts).subspan(indptr_[index], indptr_[index + 1] - indptr_[index]);
    }

    std::vector<int64_t> id_of;    // [distinct experts of the trace] rising
    std::vector<int32_t> experts;  // [requests] of all waves, one after the other

  private:
    void end_wave() {
        if (static_cast<int64_t>(experts.size()) > indptr_.back()) indptr_.push_back(std::ssize(experts));
    }

    std::vector<int64_t> indptr_{0};
};

// Slots beyond one for each expert of the trace stay empty, whatever the policy; none are simulated.
int64_t useful_slots(int64_t slots, const Waves& waves) {
    return std::clamp<int64_t>(std::ssize(waves.id_of), 1, slots);
}

}  // namespace

ReplayResult replay(std::string_view policy, int64_t slots, std::span<const int64_t> indptr,
                    std::span<const int64_t> ids) {
    const Waves waves(slots, indptr, ids);
    slots = useful_slots(slots, waves);
    const auto eviction = make_policy(policy, slots);
    std::vector<int32_t> slot_of(waves.id_of.size(), kNoSlot);
    std::vector<int32_t> expert_in(static_cast<size_t>(slots));
    std::vector<int32_t> holds(static_cast<size_t>(slots), 0);
    int32_t filled = 0;  // slots [0, filled) have been filled, and are never empty again

    ReplayResult result{.requests = std::ssize(waves.experts)};
    for (size_t index = 0; index < waves.count(); ++index) {
        const auto wave = waves.wave(index);
        for (const int32_t expert : wave) {
            if (slot_of[expert] == kNoSlot) continue;
            eviction->touch(slot_of[expert]);
            holds[slot_of[expert]] = 1;
            ++result.hits;
        }
        for (const int32_t expert : wave) {
            if (slot_of[expert] != kNoSlot) continue;
            ++result.misses;
            int32_t slot = filled;
            if (filled < slots) {
                ++filled;
            } else {
                slot = eviction->evict(holds).value();  // a wave leaves one to evict: it has at most `slots` experts
                slot_of[expert_in[slot]] = kNoSlot;
                ++result.evictions;
            }
            eviction->admit(slot, waves.id_of[expert]);
            slot_of[expert] = slot;
            expert_in[slot] = expert;
            holds[slot] = 1;
        }
        for (const int32_t expert : wave)
            holds[slot_of[expert]] = 0;
    }
    return result;
}

ReplayResult belady(int64_t slots, std::span<const int64_t> indptr, std::span<const int64_t> ids) {
    const Waves waves(slots, indptr, ids);
    const auto never = static_cast<int64_t>(waves.count());

    std::vector<int64_t> next_wave(waves.experts.size());  // [requests] the wave in which the expert is used next
    {
        std::vector<int64_t> next_use(waves.id_of.size(), never);
        for (size_t index = waves.count(); index-- > 0;) {
            const auto wave = waves.wave(index);
            const auto first = wave.data() - waves.experts.data();
            for (size_t i = 0; i < wave.size(); ++i)
                next_wave[first + i] = std::exchange(next_use[wave[i]], static_cast<int64_t>(index));
        }
    }

    // Cached experts by next use. The entry of an expert that was used since stays behind, but names a wave that is
    // past or present and so comes below all that count: the experts of the present wave, whose new entries follow at
    // its end, are not given up.
    std::priority_queue<std::pair<int64_t, int32_t>> farthest;
    std::vector<bool> cached(waves.id_of.size(), false);
    int64_t filled = 0;

    ReplayResult result{.requests = std::ssize(waves.experts)};
    for (size_t index = 0; index < waves.count(); ++index) {
        const auto wave = waves.wave(index);
        const auto first = wave.data() - waves.experts.data();
        int64_t missing = 0;
        for (const int32_t expert : wave) {
            missing += cached[expert] ? 0 : 1;
            cached[expert] = true;
        }
        result.misses += missing;
        result.hits += std::ssize(wave) - missing;
        for (filled += missing; filled > slots; --filled) {
            cached[farthest.top().second] = false;
            farthest.pop();
            ++result.evictions;
        }
        for (size_t i = 0; i < wave.size(); ++i)
            farthest.emplace(next_wave[first + i], wave[i]);
    }
    return result;
}

}  // namespace mome

// The eviction policies. State is held in arrays by slot number; nothing is allocated after construction.
#include "runtime/eviction.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "format/errors.h"

namespace mome {
namespace {

constexpr std::array<std::string_view, 4> kNames{"lru", "clock", "s3fifo", "lfu"};

// Doubly linked lists of slots, each slot in at most one of them. List l's ends are the links of element slots + l.
class SlotLists {
  public:
    static constexpr int32_t kNowhere = -1;

    SlotLists(int64_t slots, int32_t lists)
        : slots_(static_cast<int32_t>(slots)),
          next_(static_cast<size_t>(slots + lists)),
          previous_(next_.size()),
          list_(static_cast<size_t>(slots), kNowhere),
          size_(static_cast<size_t>(lists)) {
        for (int32_t list = 0; list < lists; ++list)
            next_[slots_ + list] = previous_[slots_ + list] = slots_ + list;
    }

    // The list that `slot` is in, or kNowhere.
    int32_t list_of(int32_t slot) const { return list_[slot]; }
    int64_t size(int32_t list) const { return size_[list]; }
    int32_t back(int32_t list) const { return previous_[slots_ + list]; }  // of a list that isn't empty

    void push_front(int32_t list, int32_t slot) {
        const int32_t end = slots_ + list;
        link(slot, next_[end]);
        link(end, slot);
        list_[slot] = list;
        ++size_[list];
    }

    void unlink(int32_t slot) {
        link(previous_[slot], next_[slot]);
        --size_[list_[slot]];
        list_[slot] = kNowhere;
    }

    void move_to_front(int32_t list, int32_t slot) {
        unlink(slot);
        push_front(list, slot);
    }

  private:
    void link(int32_t first, int32_t second) {
        next_[first] = second;
        previous_[second] = first;
    }

    int32_t slots_;
    std::vector<int32_t> next_;      // [slots + lists] towards the back
    std::vector<int32_t> previous_;  // [slots + lists] towards the front
    std::vector<int32_t> list_;      // [slots]
    std::vector<int64_t> size_;      // [lists]
};

// Least recently used first. A held slot counts as in use: evict moves one that it meets to the recent end.
class Lru final : public EvictionPolicy {
  public:
    explicit Lru(int64_t slots) : order_(slots, 1) {}

    void admit(int32_t slot, int64_t) override { order_.push_front(0, slot); }
    void touch(int32_t slot) override { order_.move_to_front(0, slot); }
    void remove(int32_t slot) override { order_.unlink(slot); }

    std::optional<int32_t> evict(std::span<const int32_t> holds) override {
        for (int64_t unseen = order_.size(0); unseen > 0; --unseen) {
            const int32_t slot = order_.back(0);
            if (holds[slot] == 0) {
                order_.unlink(slot);
                return slot;
            }
            order_.move_to_front(0, slot);
        }
        return std::nullopt;
    }

  private:
    SlotLists order_;  // one list: all slots that are known, the most recently used in front
};

// A hand goes round the slots and gives up the first that was not used since it last came by (Corbato, "A paging
// experiment with the Multics system", 1968). A slot starts out unused, so that what is asked for only once goes in
// the hand's first round.
class Clock final : public EvictionPolicy {
  public:
    explicit Clock(int64_t slots) : state_(static_cast<size_t>(slots), State::unknown) {}

    void admit(int32_t slot, int64_t) override { state_[slot] = State::unused; }
    void touch(int32_t slot) override { state_[slot] = State::used; }
    void remove(int32_t slot) override { state_[slot] = State::unknown; }

    std::optional<int32_t> evict(std::span<const int32_t> holds) override {
        for (size_t unseen = 2 * state_.size(); unseen > 0; --unseen) {  // the first round may only clear marks
            const size_t slot = hand_;
            hand_ = hand_ + 1 == state_.size() ? 0 : hand_ + 1;
            if (state_[slot] == State::unknown || holds[slot] != 0) continue;
            if (state_[slot] == State::unused) {
                state_[slot] = State::unknown;
                return static_cast<int32_t>(slot);
            }
            state_[slot] = State::unused;
        }
        return std::nullopt;
    }

  private:
    enum class State : uint8_t { unknown, unused, used };

    std::vector<State> state_;  // [slots]
    size_t hand_ = 0;           // the slot to look at next
};

// The slots that evict met while they were held, the first one met at the back.
//
// The experts of a running batch are the newest, so they lie where s3fifo and lfu look first: left there, each
// eviction of a batch would pass all that the batch holds already. They wait here instead. `reclaim` takes back those
// whose holds have ended, up to the first that is still held, which then waits behind the others; with one lease at a
// time, whose slots are all released together, that is every one. A slot that is touched leaves at once.
class HeldSlots {
  public:
    HeldSlots(SlotLists& lists, int32_t list) : lists_(lists), list_(list) {}

    bool contains(int32_t slot) const { return lists_.list_of(slot) == list_; }
    void add(int32_t slot) { lists_.push_front(list_, slot); }
    void remove(int32_t slot) { lists_.unlink(slot); }

    // Removes released slots and calls give_back(slot) for each.
    template <class GiveBack>
    void reclaim(std::span<const int32_t> holds, GiveBack give_back) {
        while (lists_.size(list_) > 0) {
            if (!reclaim_last(holds, give_back)) return;
        }
    }

    // As `reclaim`, but looks at every slot; whether any was released.
    template <class GiveBack>
    bool reclaim_all(std::span<const int32_t> holds, GiveBack give_back) {
        bool any = false;
        for (int64_t unseen = lists_.size(list_); unseen > 0; --unseen)
            any = reclaim_last(holds, give_back) || any;
        return any;
    }

  private:
    template <class GiveBack>
    bool reclaim_last(std::span<const int32_t> holds, GiveBack give_back) {
        const int32_t slot = lists_.back(list_);
        if (holds[slot] != 0) {
            lists_.move_to_front(list_, slot);
            return false;
        }
        lists_.unlink(slot);
        give_back(slot);
        return true;
    }

    SlotLists& lists_;
    int32_t list_;
};

// The experts last given up from s3fifo's small queue, by id: a ring of them, the oldest forgotten first (the place of
// one that returned stays empty until then), and an open-addressed table of their places in the ring, with linear
// probing and at most half full.
class GhostQueue {
  public:
    explicit GhostQueue(int64_t capacity)
        : ring_(static_cast<size_t>(capacity), kNone), table_(std::bit_ceil(2 * ring_.size()), kEmpty) {}

    // Remembers an expert that isn't in the queue.
    void push(int64_t expert) {
        if (ring_[cursor_] != kNone) erase(find(ring_[cursor_]));
        table_[find(expert)] = static_cast<int32_t>(cursor_);
        ring_[cursor_] = expert;
        cursor_ = cursor_ + 1 == ring_.size() ? 0 : cursor_ + 1;
    }

    // Forgets the expert; whether it was in the queue.
    bool take(int64_t expert) {
        const size_t cell = find(expert);
        if (table_[cell] == kEmpty) return false;
        ring_[table_[cell]] = kNone;
        erase(cell);
        return true;
    }

  private:
    static constexpr int64_t kNone = -1;
    static constexpr int32_t kEmpty = -1;

    size_t mask() const { return table_.size() - 1; }

    size_t home(int64_t expert) const {  // Fibonacci hashing: the high bits of the product depend on all of the id's
        return static_cast<size_t>((static_cast<uint64_t>(expert) * 0x9E3779B97F4A7C15U) >> 32) & mask();
    }

    // The cell with the expert's place, or the empty one where it belongs.
    size_t find(int64_t expert) const {
        size_t cell = home(expert);
        while (table_[cell] != kEmpty && ring_[table_[cell]] != expert)
            cell = (cell + 1) & mask();
        return cell;
    }

    // Empties a cell; the entries behind it that it kept from their home move up.
    void erase(size_t hole) {
        for (size_t cell = (hole + 1) & mask(); table_[cell] != kEmpty; cell = (cell + 1) & mask()) {
            const size_t wanted = home(ring_[table_[cell]]);
            if (((cell - wanted) & mask()) >= ((cell - hole) & mask())) {
                table_[hole] = table_[cell];
                hole = cell;
            }
        }
        table_[hole] = kEmpty;
    }

    std::vector<int64_t> ring_;   // [capacity] ids, kNone where there is none (any more)
    std::vector<int32_t> table_;  // places in the ring, or kEmpty
    size_t cursor_ = 0;           // where the next id goes; what is there is the oldest
};

// S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023). A new expert enters a small
// queue of a tenth of the slots. At its end, one that was asked for twice or more goes on to the main queue; the others
// are given up, and their ids remembered for a while: one that returns in that time enters the main queue directly. The
// main queue gives an expert as many further rounds as it had uses, of which two bits are counted.
//
// Every slot that is known is in the list of its queue (`queue_`), newest in front, or among the held ones.
class S3Fifo final : public EvictionPolicy {
  public:
    explicit S3Fifo(int64_t slots)
        : small_slots_(std::max<int64_t>(1, slots / 10)),
          lists_(slots, 3),
          held_(lists_, kHeld),
          ghost_(std::max<int64_t>(1, slots - small_slots_)),
          queue_(static_cast<size_t>(slots), kSmall),
          uses_(static_cast<size_t>(slots), 0),
          expert_(static_cast<size_t>(slots), 0) {}

    void admit(int32_t slot, int64_t expert) override {
        queue_[slot] = ghost_.take(expert) ? kMain : kSmall;
        uses_[slot] = 0;
        expert_[slot] = expert;
        enqueue(slot);
    }

    void touch(int32_t slot) override {
        if (uses_[slot] < kMostUses) ++uses_[slot];
        if (held_.contains(slot)) {
            held_.remove(slot);
            enqueue(slot);
        }
    }

    void remove(int32_t slot) override { lists_.unlink(slot); }

    std::optional<int32_t> evict(std::span<const int32_t> holds) override {
        const auto enqueue_again = [this](int32_t slot) { enqueue(slot); };
        held_.reclaim(holds, enqueue_again);
        while (true) {
            if (lists_.size(kSmall) + lists_.size(kMain) == 0 && !held_.reclaim_all(holds, enqueue_again)) {
                return std::nullopt;
            }
            const bool from_small = lists_.size(kSmall) >= small_slots_ || lists_.size(kMain) == 0;
            const int32_t slot = lists_.back(from_small ? kSmall : kMain);
            lists_.unlink(slot);
            if (holds[slot] != 0) {
                held_.add(slot);
            } else if (from_small && uses_[slot] >= kUsesForMain) {
                uses_[slot] = 0;
                queue_[slot] = kMain;
                enqueue(slot);
            } else if (from_small) {
                ghost_.push(expert_[slot]);
                return slot;
            } else if (uses_[slot] > 0) {
                --uses_[slot];
                enqueue(slot);
            } else {
                return slot;
            }
        }
    }

  private:
    enum List : int32_t { kSmall, kMain, kHeld };
    static constexpr uint8_t kMostUses = 3;
    static constexpr uint8_t kUsesForMain = 2;

    void enqueue(int32_t slot) { lists_.push_front(queue_[slot], slot); }

    int64_t small_slots_;  // while the small queue has as many or more, it gives up a slot before the main queue does
    SlotLists lists_;
    HeldSlots held_;
    GhostQueue ghost_;  // as many as the main queue has slots
    std::vector<List> queue_;
    std::vector<uint8_t> uses_;  // in 0 .. kMostUses, since the slot entered its queue
    std::vector<int64_t> expert_;
};

// Least frequently used first, with dynamic aging (LFU-DA; Arlitt, Cherkasova, Dilley, Friedrich and Jin, "Evaluating
// content management techniques for Web proxy caches", 1999): a slot's priority is the number of its uses plus the
// cache's age at the last of them, and the age is the highest priority at which a slot was given up. What was popular
// long ago thus ages out. Among equals the least recently used goes first.
//
// Every slot that is known is in the heap, the lowest priority on top, or among the held ones.
class Lfu final : public EvictionPolicy {
  public:
    explicit Lfu(int64_t slots)
        : lists_(slots, 1),
          held_(lists_, 0),
          uses_(static_cast<size_t>(slots), 0),
          priority_(static_cast<size_t>(slots)),
          place_(static_cast<size_t>(slots), 0) {
        heap_.reserve(static_cast<size_t>(slots));
    }

    void admit(int32_t slot, int64_t) override {
        uses_[slot] = 0;
        use(slot);
        push(slot);
    }

    void touch(int32_t slot) override {
        use(slot);
        if (held_.contains(slot)) {
            held_.remove(slot);
            push(slot);
        } else {
            sink(place_[slot]);
        }
    }

    void remove(int32_t slot) override {
        if (held_.contains(slot)) {
            held_.remove(slot);
        } else {
            pull(slot);
        }
    }

    std::optional<int32_t> evict(std::span<const int32_t> holds) override {
        const auto push_again = [this](int32_t slot) { push(slot); };
        held_.reclaim(holds, push_again);
        while (true) {
            if (heap_.empty() && !held_.reclaim_all(holds, push_again)) return std::nullopt;
            const int32_t slot = heap_.front();
            pull(slot);
            if (holds[slot] == 0) {
                age_ = std::max(age_, std::get<0>(priority_[slot]));  // lower ones may have been held
                return slot;
            }
            held_.add(slot);
        }
    }

  private:
    void use(int32_t slot) { priority_[slot] = {++uses_[slot] + age_, ++clock_}; }

    void push(int32_t slot) {
        heap_.push_back(slot);
        lift(heap_.size() - 1);
    }

    void pull(int32_t slot) {
        const size_t place = place_[slot];
        const int32_t last = heap_.back();
        heap_.pop_back();
        if (last == slot) return;
        put(place, last);
        lift(place);
        sink(place_[last]);
    }

    void put(size_t place, int32_t slot) {
        heap_[place] = slot;
        place_[slot] = place;
    }

    // Moves the slot at `place` towards the top, as far as it belongs.
    void lift(size_t place) {
        const int32_t slot = heap_[place];
        for (; place > 0 && priority_[slot] < priority_[heap_[(place - 1) / 2]]; place = (place - 1) / 2)
            put(place, heap_[(place - 1) / 2]);
        put(place, slot);
    }

    // Moves the slot at `place` away from the top, as far as it belongs.
    void sink(size_t place) {
        const int32_t slot = heap_[place];
        while (2 * place + 1 < heap_.size()) {
            size_t child = 2 * place + 1;
            if (child + 1 < heap_.size() && priority_[heap_[child + 1]] < priority_[heap_[child]]) ++child;
            if (priority_[slot] < priority_[heap_[child]]) break;
            put(place, heap_[child]);
            place = child;
        }
        put(place, slot);
    }

    SlotLists lists_;  // one list: the held ones
    HeldSlots held_;
    std::vector<int64_t> uses_;                           // [slots] since admission
    std::vector<std::tuple<int64_t, int64_t>> priority_;  // [slots] uses + age, then when that was; all different
    std::vector<int32_t> heap_;
    std::vector<size_t> place_;  // [slots] in the heap
    int64_t age_ = 0;
    int64_t clock_ = 0;  // uses of all slots
};

}  // namespace

std::span<const std::string_view> policy_names() {
    return kNames;
}

std::unique_ptr<EvictionPolicy> make_policy(std::string_view name, int64_t slots) {
    constexpr int64_t kMostSlots = std::numeric_limits<int32_t>::max() - 8;  // the lists' ends are numbered after them
    if (slots < 1 || slots > kMostSlots) {
        throw SchemaError("a cache has 1 to " + std::to_string(kMostSlots) + " slots, not " + std::to_string(slots));
    }
    if (name == "lru") return std::make_unique<Lru>(slots);
    if (name == "clock") return std::make_unique<Clock>(slots);
    if (name == "s3fifo") return std::make_unique<S3Fifo>(slots);
    if (name == "lfu") return std::make_unique<Lfu>(slots);
    std::string known;
    for (const std::string_view each : kNames)
        known += (known.empty() ? "" : ", ") + std::string(each);
    throw SchemaError("policy must be one of " + known + ", not '" + std::string(name) + "'");
}

}  // namespace mome

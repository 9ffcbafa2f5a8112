#include "fibers.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <exception>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "faults.h"
#include "values.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace standin {
namespace {

constexpr unsigned kLanes = 32;
constexpr size_t kStackBytes = 256 << 10;

std::atomic<uint64_t> seed{1};
std::atomic<uint64_t> grids{0};

std::string described(const char* what, const std::source_location& place) {
    return std::string(what) + " (" + place.file_name() + ":" + std::to_string(place.line()) + ")";
}

// A stack with a page below it that can't be touched.
class Stack {
  public:
    Stack()
        : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))),
          memory_(mmap(nullptr, page_ + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
        if (memory_ == MAP_FAILED || mprotect(memory_, page_, PROT_NONE) != 0) throw std::bad_alloc();
    }
    ~Stack() { munmap(memory_, page_ + kStackBytes); }
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;
    void* base() const { return static_cast<std::byte*>(memory_) + page_; }

  private:
    size_t page_;
    void* memory_;
};

enum class State : uint8_t { runnable, at_block_barrier, at_warp_barrier, returned };

struct Fiber {
    Stack stack;
    ucontext_t context{};
    ThreadView view;
    State state = State::returned;
    unsigned number = 0;  // in its block
    unsigned mask = 0;    // that it waits for
    std::source_location place;
    AsyncCopies copies;
    sigjmp_buf* way_out = nullptr;  // on its own stack: where a fault of its goes
#if defined(__SANITIZE_THREAD__)
    void* tsan = __tsan_create_fiber(0);
    ~Fiber() { __tsan_destroy_fiber(tsan); }
#endif
};

// What the lanes of a warp give each other. Two buffers, used in turn: a lane that is through with one exchange may
// begin the next, and no lane can begin the one after that before all have read.
struct Warp {
    std::array<std::array<std::byte, kLanes * kMostExchanged>, 2> buffer;
    std::array<unsigned, kLanes> exchanges{};  // of each lane
};

class Scheduler {
  public:
    void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
        const size_t threads = size_t{block.x} * block.y * block.z;
        while (fibers_.size() < threads)
            fibers_.push_back(std::make_unique<Fiber>());
        warps_.resize((threads + kLanes - 1) / kLanes);
        random_.seed(seed.load() * 1'000'003 + grids++);
        body_ = &body;
        error_ = nullptr;
        // Of exactly this size, so that an address sanitizer sees what lies outside.
        shared_ = std::make_unique_for_overwrite<std::byte[]>(shared_bytes + 16);
        shared_start_ = shared_.get() + (16 - reinterpret_cast<uintptr_t>(shared_.get()) % 16) % 16;

        blocks_.clear();
        for (unsigned z = 0; z < grid.z; ++z) {
            for (unsigned y = 0; y < grid.y; ++y) {
                for (unsigned x = 0; x < grid.x; ++x)
                    blocks_.push_back({x, y, z});
            }
        }
        std::ranges::shuffle(blocks_, random_);
        for (const uint3& at : blocks_) {
            for (size_t i = 0; i < shared_bytes; i += 4) {  // large numbers and NaNs
                const auto garbage = static_cast<uint32_t>(random_()) | 0x7F00'0000U;
                std::memcpy(shared_start_ + i, &garbage, std::min<size_t>(4, shared_bytes - i));
            }
            run_block(grid, block, at, threads);
        }
    }

    Fiber& current() const { return *current_; }
    std::byte* shared() const { return shared_start_; }

    void wait(State state, unsigned mask, const std::source_location& place) {
        Fiber& self = *current_;
        self.state = state;
        self.mask = mask;
        self.place = place;
        ++waiting_;
        release();
        leave(self);
        if (error_) std::rethrow_exception(error_);
    }

    const std::byte* exchange(unsigned mask, const void* mine, size_t bytes, const std::source_location& place) {
        Fiber& self = *current_;
        const unsigned lane = self.number % kLanes;
        Warp& warp = warps_[self.number / kLanes];
        std::byte* buffer = warp.buffer[warp.exchanges[lane]++ % 2].data();
        std::memcpy(buffer + lane * bytes, mine, bytes);
        wait(State::at_warp_barrier, mask, place);
        return buffer;
    }

  private:
    void run_block(dim3 grid, dim3 block, uint3 at, size_t threads) {
        live_ = threads;
        waiting_ = 0;
        runnable_.clear();
        for (Warp& warp : warps_)
            warp.exchanges.fill(0);
        warp_by_warp_ = random_() % 2 == 0;
        warp_order_.clear();
        for (size_t warp = 0; warp < warps_.size(); ++warp)
            warp_order_.push_back(random_());
        unsigned number = 0;
        for (unsigned z = 0; z < block.z; ++z) {
            for (unsigned y = 0; y < block.y; ++y) {
                for (unsigned x = 0; x < block.x; ++x, ++number) {
                    Fiber& fiber = *fibers_[number];
                    fiber.view = {.thread = {x, y, z}, .block = at, .block_dim = block, .grid_dim = grid};
                    fiber.number = number;
                    fiber.state = State::runnable;
                    fiber.copies = {};
                    fiber.way_out = nullptr;
                    prepare(fiber);
                    runnable_.push_back(&fiber);
                }
            }
        }
        threads_ = threads;
        while (live_ > 0) {
            if (runnable_.empty()) {
                if (!error_) error_ = std::make_exception_ptr(stuck());
                for (size_t i = 0; i < threads_; ++i)
                    set_runnable(*fibers_[i]);  // to end with the error
                continue;
            }
            enter(take_next());
        }
        if (error_) std::rethrow_exception(error_);
    }

    // Any of those that can go on: in every second block by chance, in the others warp before warp, as far as each
    // gets. Chance alone keeps the warps nearly abreast, and a barrier that holds one back from overtaking would not be
    // missed.
    Fiber& take_next() {
        const size_t chosen = random_() % runnable_.size();
        auto next = runnable_.begin() + static_cast<std::ptrdiff_t>(chosen);
        if (warp_by_warp_) {
            std::rotate(runnable_.begin(), next, runnable_.end());
            next = std::ranges::max_element(runnable_, {},
                                            [this](const Fiber* fiber) { return warp_order_[fiber->number / kLanes]; });
        }
        std::swap(*next, runnable_.back());
        Fiber& fiber = *runnable_.back();
        runnable_.pop_back();
        return fiber;
    }

    static void begin();

    void run_body(Fiber& fiber) {
        sigjmp_buf here;
        if (sigsetjmp(here, 0) != 0) {
            exchange_way_out(nullptr);
            if (!error_) error_ = std::make_exception_ptr(KernelFault("a thread touches memory that it may not"));
            return;
        }
        fiber.way_out = &here;
        exchange_way_out(&here);
        try {
            (*body_)();
        } catch (...) {
            if (!error_) error_ = std::current_exception();
        }
        exchange_way_out(nullptr);
    }

    static void prepare(Fiber& fiber) {
        getcontext(&fiber.context);
        fiber.context.uc_stack = {.ss_sp = fiber.stack.base(), .ss_flags = 0, .ss_size = kStackBytes};
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, &Scheduler::begin, 0);
    }

    void enter(Fiber& fiber) {
        current_ = &fiber;
        sigjmp_buf* const outside = exchange_way_out(fiber.way_out);
#if defined(__SANITIZE_ADDRESS__)
        void* fake = nullptr;
        __sanitizer_start_switch_fiber(&fake, fiber.stack.base(), kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
        own_tsan_ = __tsan_get_current_fiber();
        __tsan_switch_to_fiber(fiber.tsan, 0);
#endif
        swapcontext(&context_, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
        exchange_way_out(outside);
    }

    void leave(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
        void* fake = nullptr;
        __sanitizer_start_switch_fiber(fiber.state == State::returned ? nullptr : &fake, own_stack_, own_bytes_);
#endif
#if defined(__SANITIZE_THREAD__)
        __tsan_switch_to_fiber(own_tsan_, 0);
#endif
        swapcontext(&fiber.context, &context_);
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(fake, &own_stack_, &own_bytes_);
#endif
    }

    void set_runnable(Fiber& fiber) {
        if (fiber.state != State::at_block_barrier && fiber.state != State::at_warp_barrier) return;
        --waiting_;
        fiber.state = State::runnable;
        runnable_.push_back(&fiber);
    }

    // Lets those go on whose barrier is complete.
    void release() {
        Fiber& self = *current_;
        if (self.state == State::at_warp_barrier) {
            const unsigned first = self.number / kLanes * kLanes;
            if ((self.mask >> (self.number % kLanes) & 1) == 0) {
                return fail(described("a lane takes part in an exchange whose mask it is not in", self.place));
            }
            for (unsigned lane = 0; lane < kLanes; ++lane) {
                if ((self.mask >> lane & 1) == 0) continue;
                if (first + lane >= threads_ || fibers_[first + lane]->state == State::returned) {
                    return fail(described("the mask names a lane that has returned", self.place));
                }
                const Fiber& other = *fibers_[first + lane];
                if (other.state != State::at_warp_barrier) return;
                if (other.mask != self.mask || other.place.line() != self.place.line()) {
                    return fail(described("the lanes of a mask are at different exchanges", self.place));
                }
            }
            for (unsigned lane = 0; lane < kLanes; ++lane) {
                if ((self.mask >> lane & 1) != 0) set_runnable(*fibers_[first + lane]);
            }
        } else {
            release_block();
        }
    }

    void release_block() {
        if (waiting_ < live_) return;
        const Fiber* first = nullptr;
        for (size_t i = 0; i < threads_; ++i) {
            const Fiber& fiber = *fibers_[i];
            if (fiber.state == State::at_warp_barrier) return;
            if (fiber.state != State::at_block_barrier) continue;
            if (first != nullptr && first->place.line() != fiber.place.line()) {
                return fail(described("the threads of a block wait at different barriers", fiber.place));
            }
            first = &fiber;
        }
        for (size_t i = 0; i < threads_; ++i)
            set_runnable(*fibers_[i]);
    }

    void fail(const std::string& what) {
        if (!error_) error_ = std::make_exception_ptr(KernelError(what));
        for (size_t i = 0; i < threads_; ++i)
            set_runnable(*fibers_[i]);
    }

    KernelError stuck() const {
        for (size_t i = 0; i < threads_; ++i) {
            if (fibers_[i]->state != State::returned) {
                return KernelError(described("threads wait for others that never come", fibers_[i]->place));
            }
        }
        return KernelError("threads wait for others that never come");
    }

    const std::function<void()>* body_ = nullptr;
    std::vector<uint3> blocks_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<Warp> warps_;
    std::vector<Fiber*> runnable_;
    bool warp_by_warp_ = false;
    std::vector<uint64_t> warp_order_;
    std::unique_ptr<std::byte[]> shared_;
    std::byte* shared_start_ = nullptr;
    std::mt19937_64 random_;
    ucontext_t context_{};
    Fiber* current_ = nullptr;
    size_t threads_ = 0, live_ = 0, waiting_ = 0;
    std::exception_ptr error_;
    const void* own_stack_ = nullptr;
    size_t own_bytes_ = 0;
    void* own_tsan_ = nullptr;
};

Scheduler& scheduler() {
    thread_local Scheduler own;
    return own;
}

void Scheduler::begin() {
    Scheduler& self = scheduler();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &self.own_stack_, &self.own_bytes_);
#endif
    Fiber& fiber = *self.current_;
    if (!self.error_) self.run_body(fiber);
    fiber.state = State::returned;
    --self.live_;
    if (self.live_ > 0) self.release_block();
    self.leave(fiber);
}

}  // namespace

void run_grid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& thread_body) {
    scheduler().run(grid, block, dynamic_shared_bytes, thread_body);
}

void set_fiber_seed(uint64_t value) {
    seed = value;
    grids = 0;
}

const ThreadView& this_thread() {
    return scheduler().current().view;
}

AsyncCopies& copies_of_thread() {
    return scheduler().current().copies;
}

std::byte* dynamic_shared() {
    return scheduler().shared();
}

void block_barrier(const std::source_location& place) {
    scheduler().wait(State::at_block_barrier, 0, place);
}

void warp_barrier(unsigned mask, const std::source_location& place) {
    scheduler().wait(State::at_warp_barrier, mask, place);
}

const std::byte* warp_exchange(unsigned mask, const void* mine, size_t bytes, const std::source_location& place) {
    if (bytes > kMostExchanged) throw KernelError("lanes exchange too many bytes");
    return scheduler().exchange(mask, mine, bytes, place);
}

}  // namespace standin

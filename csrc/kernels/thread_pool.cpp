#include "kernels/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifdef MOME_X86
#include <immintrin.h>
#endif

namespace mome {
namespace {

// Long enough to meet the next call of a forward pass awake, short enough not to matter to who else wants the core.
constexpr std::chrono::microseconds kSpinTime{50};

void pause() {
#ifdef MOME_X86
    _mm_pause();
#endif
}

// Returns when `value` is no longer `old`: spins for kSpinTime, then sleeps until it is told.
void wait_while(const std::atomic<int>& value, int old) {
    const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
    do {
        for (int i = 0; i < 32; ++i) {
            if (value.load(std::memory_order_acquire) != old) return;
            pause();
        }
    } while (std::chrono::steady_clock::now() < deadline);
    value.wait(old, std::memory_order_acquire);
}

// One call. Whoever takes part does tasks of a phase as long as there are any, then waits for the others to end theirs.
class Job {
  public:
    Job(std::span<const int64_t> tasks, PhaseTask body) : tasks_(tasks), body_(body) {}

    void take_part() noexcept {
        for (size_t phase = 0; phase < tasks_.size(); ++phase) {
            int64_t done = 0;
            for (int64_t i; (i = next_[phase].fetch_add(1, std::memory_order_relaxed)) < tasks_[phase]; ++done)
                body_(phase, i);
            const int before = static_cast<int>(phase);
            if (done > 0 && done_[phase].fetch_add(done, std::memory_order_acq_rel) + done == tasks_[phase]) {
                phases_done_.store(before + 1, std::memory_order_release);
                phases_done_.notify_all();
            } else {
                // Phases end in order: a late comer finds a later number.
                for (int ended; (ended = phases_done_.load(std::memory_order_acquire)) <= before;)
                    wait_while(phases_done_, ended);
            }
        }
    }

  private:
    std::span<const int64_t> tasks_;
    PhaseTask body_;
    // Each on a cache line of its own: all threads write to them.
    alignas(64) std::array<std::atomic<int64_t>, kMostPhases> next_{};
    alignas(64) std::array<std::atomic<int64_t>, kMostPhases> done_{};
    std::atomic<int> phases_done_{0};
};

class ThreadPool {
  public:
    ThreadPool() = default;
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // The process's pool. It is never destroyed: a thread of the caller's may be in it until the very end.
    static ThreadPool& shared();

    void run(int threads, std::span<const int64_t> tasks, PhaseTask body) {
        Job job(tasks, body);
        if (busy_.test_and_set(std::memory_order_acquire)) return job.take_part();
        start_workers(threads - 1);
        {
            const std::lock_guard lock(mutex_);
            job_ = &job;
            seats_ = threads - 1;
        }
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();
        job.take_part();
        {
            const std::lock_guard lock(mutex_);
            job_ = nullptr;  // nobody enters any more
        }
        for (int inside; (inside = inside_.load(std::memory_order_acquire)) != 0;)
            wait_while(inside_, inside);
        busy_.clear(std::memory_order_release);
        busy_.notify_one();
    }

  private:
    void start_workers(int wanted) {
        if (static_cast<int>(workers_.size()) >= wanted) return;
        // Signals are for the threads of whoever embeds the library.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            while (static_cast<int>(workers_.size()) < wanted) {
                workers_.emplace_back([this, seen = calls_.load(std::memory_order_relaxed)] { work(seen); });
            }
        } catch (const std::system_error&) {  // no more threads to be had: these few do the work
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void work(int seen) {
        for (;;) {
            wait_while(calls_, seen);
            seen = calls_.load(std::memory_order_acquire);
            if (Job* job = enter()) {
                job->take_part();
                if (inside_.fetch_sub(1, std::memory_order_acq_rel) == 1) inside_.notify_one();
            } else if (stopping_.load(std::memory_order_acquire)) {
                return;
            }
        }
    }

    Job* enter() {
        const std::lock_guard lock(mutex_);
        if (job_ == nullptr || seats_ == 0) return nullptr;
        --seats_;
        inside_.fetch_add(1, std::memory_order_relaxed);
        return job_;
    }

    // Ends the workers. The pool stays busy: who calls it from now on works alone.
    void stop() {
        while (busy_.test_and_set(std::memory_order_acquire))
            busy_.wait(true, std::memory_order_relaxed);
        stopping_.store(true, std::memory_order_release);
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();
        for (std::thread& worker : workers_)
            worker.join();
        workers_.clear();
    }

    static std::atomic<ThreadPool*>& current() {
        static constinit std::atomic<ThreadPool*> pool{nullptr};
        return pool;
    }

    // What the process does at its turning points.
    struct Hooks {
        // A child has none of the parent's threads, and may find its locks taken: it leaves that pool where it is.
        Hooks() {
            pthread_atfork(nullptr, nullptr, [] { current().store(nullptr, std::memory_order_relaxed); });
        }
        ~Hooks() {
            if (ThreadPool* pool = current().load(std::memory_order_acquire)) pool->stop();
        }
    };

    std::atomic_flag busy_;       // somebody's call is being served
    std::atomic<int> calls_{0};   // counts calls; the workers wait for it to change
    std::atomic<int> inside_{0};  // workers that hold job_
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> workers_;  // changed only by who set busy_
    std::mutex mutex_;                  // of the two below
    Job* job_ = nullptr;
    int seats_ = 0;  // workers that may still enter
};

ThreadPool& ThreadPool::shared() {
    static const Hooks hooks;
    ThreadPool* pool = current().load(std::memory_order_acquire);
    if (pool == nullptr) {
        auto made = std::make_unique<ThreadPool>();
        if (current().compare_exchange_strong(pool, made.get(), std::memory_order_acq_rel)) pool = made.release();
    }
    return *pool;
}

}  // namespace

void run_phases(int threads, std::span<const int64_t> tasks, PhaseTask body) {
    const int64_t most = std::ranges::max(tasks);
    threads = static_cast<int>(std::min<int64_t>(threads, most));
    if (threads > 1) return ThreadPool::shared().run(threads, tasks, body);
    for (size_t phase = 0; phase < tasks.size(); ++phase) {
        for (int64_t i = 0; i < tasks[phase]; ++i)
            body(phase, i);
    }
}

}  // namespace mome

// Readers that do what a test wants: hold reads back, fail them, or deliver them late, out of order and sometimes not
// at all.
#pragma once

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "io/reader.h"

namespace mome::test {

inline void deliver(const Read& read) {
    const std::byte* from = read.shard->file().bytes().data() + read.offset;
    for (const std::span<std::byte> part : read.parts) {
        std::memcpy(part.data(), from, part.size());
        from += part.size();
    }
    read.done({});
}

inline void fail(const Read& read, int error_number) {
    read.done({.failure = read_failure(*read.shard, read.offset, error_number)});
}

// What was asked of a HeldReader and not done yet. What is left when the reader goes is delivered.
class HeldReads {
  public:
    size_t count() const {
        const std::lock_guard lock(mutex_);
        return reads_.size();
    }
    // Of the read at `index`, in the order of asking.
    int64_t offset(size_t index) const { return peek(index).first; }
    size_t parts(size_t index) const { return peek(index).second; }
    void deliver(size_t index = 0) { mome::test::deliver(take(index)); }
    void fail(size_t index, int error_number) { mome::test::fail(take(index), error_number); }
    void deliver_all() {
        while (count() > 0)
            deliver();
    }

  private:
    friend class HeldReader;
    std::pair<int64_t, size_t> peek(size_t index) const {
        const std::lock_guard lock(mutex_);
        return {reads_.at(index).offset, reads_.at(index).parts.size()};
    }
    // Waits for the read: with staging, it is only asked for once a buffer is free, which may be a little later.
    Read take(size_t index) {
        std::unique_lock lock(mutex_);
        asked_.wait_for(lock, std::chrono::seconds(10), [&] { return reads_.size() > index; });
        Read read = std::move(reads_.at(index));
        reads_.erase(reads_.begin() + static_cast<ptrdiff_t>(index));
        return read;
    }
    mutable std::mutex mutex_;
    std::condition_variable asked_;
    std::deque<Read> reads_;
};

class HeldReader final : public Reader {
  public:
    explicit HeldReader(std::shared_ptr<HeldReads> held) : held_(std::move(held)) {}
    ~HeldReader() override { held_->deliver_all(); }
    std::string_view name() const override { return "held"; }
    void start(std::vector<Read> reads) override {
        const std::lock_guard lock(held_->mutex_);
        for (Read& read : reads)
            held_->reads_.push_back(std::move(read));
        held_->asked_.notify_all();
    }

  private:
    std::shared_ptr<HeldReads> held_;
};

// A few threads that take reads in any order, wait a little, and fail one in `one_in` of them.
class ChaoticReader final : public Reader {
  public:
    ChaoticReader(uint64_t seed, int threads, uint32_t one_in) : one_in_(one_in) {
        for (int i = 0; i < threads; ++i)
            threads_.emplace_back([this, seed, i] { run(seed * 31 + static_cast<uint64_t>(i)); });
    }
    ~ChaoticReader() override {
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        filled_.notify_all();
        for (std::thread& thread : threads_)
            thread.join();
    }
    std::string_view name() const override { return "chaotic"; }
    void start(std::vector<Read> reads) override {
        {
            const std::lock_guard lock(mutex_);
            for (Read& read : reads)
                reads_.push_back(std::move(read));
        }
        filled_.notify_all();
    }

  private:
    void run(uint64_t seed) {
        std::mt19937_64 random(seed);
        for (;;) {
            std::unique_lock lock(mutex_);
            filled_.wait(lock, [this] { return stopping_ || !reads_.empty(); });
            if (reads_.empty()) return;
            std::swap(reads_[random() % reads_.size()], reads_.back());
            const Read read = std::move(reads_.back());
            reads_.pop_back();
            lock.unlock();
            if (random() % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
            if (one_in_ > 0 && random() % one_in_ == 0) {
                fail(read, EIO);
            } else {
                deliver(read);
            }
        }
    }

    uint32_t one_in_;
    std::mutex mutex_;
    std::condition_variable filled_;
    std::vector<Read> reads_;
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace mome::test

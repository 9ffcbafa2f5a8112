// Reads through io_uring by one thread, which is woken for new reads by an eventfd that it reads in the same ring.
//
// Memory that the reader is told of is registered, so that the kernel need not pin its pages for each read; so are the
// shards' files. Both are only faster: a read that finds neither goes by address and descriptor.
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/io_uring.h"
#include "io/iovecs.h"
#include "io/reader.h"

namespace mome {
namespace {

class IoUringReader final : public Reader {
  public:
    explicit IoUringReader(int depth) : depth_(static_cast<size_t>(depth)) {
        wake_fd_ = eventfd(0, EFD_CLOEXEC);
        if (wake_fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
        // The ring belongs to the thread that submits, so that thread makes it; an error comes back here.
        std::promise<void> made;
        auto is_made = made.get_future();
        thread_ = std::thread([this, made = std::move(made)]() mutable { run(std::move(made)); });
        try {
            is_made.get();
        } catch (...) {
            thread_.join();
            close(wake_fd_);
            throw;
        }
    }

    ~IoUringReader() override {
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        wake();
        thread_.join();
        close(wake_fd_);
    }

    std::string_view name() const override { return "io_uring"; }

    void start(std::vector<Read> reads) override {
        {
            const std::lock_guard lock(mutex_);
            std::ranges::move(reads, std::back_inserter(asked_));
        }
        wake();
    }

    void attach(const ShardSet& shards) override {
        std::vector<int> files;
        for (const auto& shard : shards.shard_list())
            files.push_back(shard->descriptor().fd());
        {
            const std::lock_guard lock(mutex_);
            new_files_ = std::move(files);
            files_changed_ = true;
        }
        wake();
    }

    void attach(std::span<std::byte> memory) override {
        {
            const std::lock_guard lock(mutex_);
            new_memory_ = memory;
        }
        wake();
    }

  private:
    static constexpr uint64_t kWake = 0;  // the user_data of the eventfd's read; all others are addresses
    static constexpr unsigned kFiles = 4096;
    static constexpr size_t kBufferBytes = size_t{1} << 30;  // the most that one registered buffer may have

    struct InFlight {
        Read read;
        Iovecs left;
    };

    void wake() const {
        const uint64_t one = 1;
        static_cast<void>(!write(wake_fd_, &one, sizeof one));  // fails only when 2^64 - 1 wakes are pending
    }

    void run(std::promise<void> made) {
        try {
            ring_ = std::make_unique<IoUring>(static_cast<unsigned>(depth_ + 1));
        } catch (...) {
            made.set_exception(std::current_exception());
            return;
        }
        have_file_table_ = ring_->register_file_table(kFiles);
        made.set_value();
        listen();
        while (take_over() || !in_flight_.empty()) {
            ring_->submit_and_wait();
            ring_->reap([this](uint64_t what, int result) {
                if (what == kWake) {
                    listening_ = false;
                } else {
                    completed(reinterpret_cast<InFlight*>(what), result);
                }
            });
            if (!listening_) listen();
        }
        ring_.reset();
    }

    void listen() {
        io_uring_sqe* entry = ring_->next();
        if (entry == nullptr) return;  // never: the ring has one entry more than there are reads in flight
        entry->opcode = IORING_OP_READ;
        entry->fd = wake_fd_;
        entry->addr = reinterpret_cast<uint64_t>(&wakes_);
        entry->len = sizeof wakes_;
        entry->user_data = kWake;
        listening_ = true;
    }

    // Fetches what other threads left, and begins as many reads as the depth allows. False when it is time to stop.
    bool take_over() {
        bool stopping = false;
        std::optional<std::vector<int>> files;
        std::span<std::byte> memory;
        {
            const std::lock_guard lock(mutex_);
            stopping = stopping_;
            std::ranges::move(asked_, std::back_inserter(pending_));
            asked_.clear();
            if (files_changed_) files = std::exchange(new_files_, {});
            files_changed_ = false;
            memory = std::exchange(new_memory_, {});
        }
        if (files) register_files(*files);
        if (!memory.empty()) register_memory(memory);
        while (!pending_.empty() && in_flight_.size() < depth_) {
            Iovecs parts(pending_.front().parts);
            auto begun = std::make_unique<InFlight>(InFlight{.read = std::move(pending_.front()), .left = parts});
            pending_.pop_front();
            submit(*begun);
            in_flight_.insert(std::move(begun));
        }
        return !stopping || !pending_.empty();
    }

    void submit(InFlight& flight) {
        io_uring_sqe* entry = ring_->next();
        const int fd = flight.read.shard->descriptor().fd();
        const auto fixed = file_slots_.find(fd);
        if (fixed != file_slots_.end()) {
            entry->fd = static_cast<int>(fixed->second);
            entry->flags = IOSQE_FIXED_FILE;
        } else {
            entry->fd = fd;
        }
        entry->off = static_cast<uint64_t>(flight.read.offset) + flight.left.done();
        entry->user_data = reinterpret_cast<uint64_t>(&flight);
        const iovec& first = *flight.left.data();
        const int buffer = flight.left.count() == 1 ? buffer_of(first) : -1;
        if (buffer >= 0) {
            entry->opcode = IORING_OP_READ_FIXED;
            entry->addr = reinterpret_cast<uint64_t>(first.iov_base);
            entry->len = static_cast<unsigned>(first.iov_len);
            entry->buf_index = static_cast<uint16_t>(buffer);
        } else {
            entry->opcode = IORING_OP_READV;
            entry->addr = reinterpret_cast<uint64_t>(flight.left.data());
            entry->len = static_cast<unsigned>(flight.left.count());
        }
    }

    void completed(InFlight* flight, int result) {
        if (result > 0) flight->left.advance(static_cast<size_t>(result));
        const bool again = result > 0 ? !flight->left.empty() : result == -EINTR || result == -EAGAIN;
        if (again) {
            submit(*flight);
            return;
        }
        const auto at = in_flight_.find(flight);
        ReadResult outcome;
        if (result <= 0) {
            const auto offset = flight->read.offset + static_cast<int64_t>(flight->left.done());
            outcome.failure = read_failure(*flight->read.shard, offset, -result);
        }
        flight->read.done(std::move(outcome));
        in_flight_.erase(at);
    }

    void register_files(const std::vector<int>& files) {
        if (!have_file_table_) return;
        for (const auto& [fd, slot] : std::exchange(file_slots_, {}))
            ring_->set_file(slot, -1);  // what is in flight has its file already
        unsigned slot = 0;
        for (const int fd : files) {
            if (slot == kFiles || !ring_->set_file(slot, fd)) return;
            file_slots_[fd] = slot++;
        }
    }

    void register_memory(std::span<std::byte> memory) {
        std::vector<std::span<std::byte>> buffers;
        for (size_t at = 0; at < memory.size(); at += kBufferBytes)
            buffers.push_back(memory.subspan(at, std::min(kBufferBytes, memory.size() - at)));
        if (ring_->register_buffers(buffers)) memory_ = memory;
    }

    // The registered buffer that a range lies in, -1 if none.
    int buffer_of(const iovec& range) const {
        const auto* at = static_cast<const std::byte*>(range.iov_base);
        if (at < memory_.data() || at + range.iov_len > memory_.data() + memory_.size()) return -1;
        const auto offset = static_cast<size_t>(at - memory_.data());
        const size_t first = offset / kBufferBytes;
        return first == (offset + range.iov_len - 1) / kBufferBytes ? static_cast<int>(first) : -1;
    }

    struct ByAddress {
        using is_transparent = void;
        static const InFlight* address(const std::unique_ptr<InFlight>& owned) { return owned.get(); }
        static const InFlight* address(const InFlight* plain) { return plain; }
        bool operator()(const auto& a, const auto& b) const { return std::less<>{}(address(a), address(b)); }
    };

    size_t depth_;
    int wake_fd_ = -1;

    std::mutex mutex_;  // guards what other threads leave for ours:
    std::vector<Read> asked_;
    std::vector<int> new_files_;
    bool files_changed_ = false;
    std::span<std::byte> new_memory_;
    bool stopping_ = false;

    // Of our thread alone:
    std::unique_ptr<IoUring> ring_;
    std::deque<Read> pending_;
    std::set<std::unique_ptr<InFlight>, ByAddress> in_flight_;
    std::unordered_map<int, unsigned> file_slots_;  // by descriptor
    std::span<std::byte> memory_;                   // registered
    bool have_file_table_ = false;
    bool listening_ = false;
    uint64_t wakes_ = 0;

    std::thread thread_;
};

}  // namespace

std::unique_ptr<Reader> make_io_uring_reader(int depth) {
    return std::make_unique<IoUringReader>(depth);
}

}  // namespace mome

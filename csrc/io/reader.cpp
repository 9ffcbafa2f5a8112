// What all readers share, the two that are made of others, and the choice between them.
#include "io/reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <new>
#include <optional>
#include <queue>
#include <random>
#include <system_error>
#include <thread>
#include <utility>

#include "format/errors.h"
#include "io/work_queue.h"

namespace mome {
namespace {

constexpr int kCopyThreads = 4;   // copies out of memory: a few saturate it
constexpr int kReadThreads = 16;  // each waits for one read: their number is the queue depth
constexpr int kRingDepth = 64;    // reads of a record's size keep a fast NVMe busy from about 32 on
constexpr size_t kSample = 4096;  // the least that O_DIRECT reads

class TieredReader final : public Reader {
  public:
    TieredReader(int threads, std::unique_ptr<Reader> other)
        : name_("auto: page cache, " + std::string(other->name())), other_(std::move(other)), queue_(threads) {}
    std::string_view name() const override { return name_; }
    bool help() override { return queue_.help(); }
    void attach(const ShardSet& shards) override { other_->attach(shards); }
    void attach(std::span<std::byte> memory) override { other_->attach(memory); }

    void start(std::vector<Read> reads) override {
        std::vector<WorkQueue::Job> jobs;
        jobs.reserve(reads.size());
        for (Read& read : reads) {
            jobs.push_back([this, read = std::move(read)] {
                if (read_cached(read)) {
                    read.done({.failure = {}, .from_memory = true});
                } else {
                    other_->start({read});
                }
            });
        }
        queue_.put(std::move(jobs));
    }

  private:
    std::string name_;
    std::unique_ptr<Reader> other_;
    WorkQueue queue_;  // last: its jobs use the other reader
};

class DelayingReader final : public Reader {
  public:
    DelayingReader(std::unique_ptr<Reader> inner, uint64_t seed, int64_t longest_us)
        : inner_(std::move(inner)), random_(seed), longest_us_(longest_us), thread_([this] { run(); }) {}
    ~DelayingReader() override {
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        changed_.notify_one();
        thread_.join();
    }
    std::string_view name() const override { return inner_->name(); }
    void attach(const ShardSet& shards) override { inner_->attach(shards); }
    void attach(std::span<std::byte> memory) override { inner_->attach(memory); }

    void start(std::vector<Read> reads) override {
        const auto now = Clock::now();
        {
            const std::lock_guard lock(mutex_);
            std::uniform_int_distribution<int64_t> delay(0, longest_us_);
            for (Read& read : reads)
                waiting_.push_back({.due = now + std::chrono::microseconds(delay(random_)), .read = std::move(read)});
            std::ranges::sort(waiting_, std::greater<>{}, &Late::due);
        }
        changed_.notify_one();
    }

  private:
    using Clock = std::chrono::steady_clock;
    struct Late {
        Clock::time_point due;
        Read read;
    };

    void run() {
        std::unique_lock lock(mutex_);
        for (;;) {
            if (waiting_.empty()) {
                if (stopping_) return;
                changed_.wait(lock);
            } else if (waiting_.back().due > Clock::now()) {
                const auto due = waiting_.back().due;
                changed_.wait_until(lock, due);
            } else {
                std::vector<Read> next;
                next.push_back(std::move(waiting_.back().read));
                waiting_.pop_back();
                lock.unlock();
                inner_->start(std::move(next));
                lock.lock();
            }
        }
    }

    std::unique_ptr<Reader> inner_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::mt19937_64 random_;
    int64_t longest_us_;
    std::vector<Late> waiting_;  // the next one last
    bool stopping_ = false;
    std::thread thread_;
};

// Memory that the system could give out, in bytes.
int64_t memory_available() {
    std::ifstream file("/proc/meminfo");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("MemAvailable:")) return std::strtoll(line.c_str() + 13, nullptr, 10) * 1024;
    }
    struct sysinfo info{};
    return sysinfo(&info) == 0 ? static_cast<int64_t>(info.freeram) * info.mem_unit : 0;
}

// Why there is no reading `sample` past the page cache; empty if there is.
std::string direct_problem(const ShardSource* sample) {
    if (sample == nullptr || sample->bytes < static_cast<int64_t>(kSample)) return {};
    try {
        const ReadFile file(sample->fd, Access::direct, sample->path);
        const std::unique_ptr<std::byte, decltype(&std::free)> buffer(
            static_cast<std::byte*>(std::aligned_alloc(kSample, kSample)), &std::free);
        if (buffer == nullptr) throw std::bad_alloc();
        if (pread(file.fd(), buffer.get(), kSample, 0) == static_cast<ssize_t>(kSample)) return {};
        return "the file system refuses to read past the page cache (O_DIRECT): " +
               std::generic_category().message(errno);
    } catch (const ReadError& error) {
        return "the file system has no O_DIRECT: " + std::generic_category().message(error.error_number);
    }
}

std::string io_uring_problem() {
    try {
        make_io_uring_reader(1);
        return {};
    } catch (const std::system_error& error) {
        return std::string("there is no io_uring here: ") + error.code().message();
    }
}

}  // namespace

size_t Read::bytes() const {
    size_t total = 0;
    for (const auto part : parts)
        total += part.size();
    return total;
}

std::unique_ptr<Reader> make_tiered_reader(int threads, std::unique_ptr<Reader> other) {
    return std::make_unique<TieredReader>(threads, std::move(other));
}

std::unique_ptr<Reader> make_delaying_reader(std::unique_ptr<Reader> inner, uint64_t seed, int64_t longest_us) {
    return std::make_unique<DelayingReader>(std::move(inner), seed, longest_us);
}

std::unique_ptr<Reader> ReaderChoice::make() const {
    const int copiers = std::min(kCopyThreads, std::max(1, static_cast<int>(std::thread::hardware_concurrency()) - 1));
    if (reader == "mmap") return make_mmap_reader(copiers);
    auto cold = reader == "io_uring" ? make_io_uring_reader(kRingDepth) : make_pread_reader(kReadThreads);
    return tiered ? make_tiered_reader(copiers, std::move(cold)) : std::move(cold);
}

ReaderChoice choose_reader(std::string_view wanted, const ShardSource* sample, int64_t store_bytes) {
    if (wanted == "mmap") return {.reader = "mmap", .access = Access::mapped, .tiered = false, .fallback = {}};
    if (wanted == "pread") return {.reader = "pread", .access = Access::buffered, .tiered = false, .fallback = {}};
    const bool automatic = wanted == "auto";
    if (!automatic && wanted != "io_uring") {
        throw SchemaError("there is no reader '" + std::string(wanted) + "'; choose auto, mmap, pread or io_uring");
    }
    ReaderChoice choice{.reader = "io_uring", .access = Access::direct, .tiered = automatic, .fallback = {}};
    if (std::string problem = io_uring_problem(); !problem.empty()) {
        choice.reader = "pread";
        choice.fallback = problem + "; reads go by pread in a pool of threads";
    }
    if (automatic && store_bytes <= memory_available() / 2) {
        choice.access = Access::buffered;
    } else if (std::string problem = direct_problem(sample); !problem.empty()) {
        choice.access = Access::buffered;
        choice.fallback += (choice.fallback.empty() ? "" : "; ") + problem + "; reads go through the page cache";
    }
    return choice;
}

Failure read_failure(const Shard& shard, int64_t offset, int error_number) {
    const MappedFile& file = shard.file();
    if (error_number != 0) return Failure::of(ReadError(file.path(), offset, error_number));
    return Failure::of(DamagedStoreError(file.path(), std::nullopt, std::nullopt,
                                         "the file ends at " + std::to_string(offset) + " bytes or before, expected " +
                                             std::to_string(file.bytes().size()) + " bytes"));
}

}  // namespace mome

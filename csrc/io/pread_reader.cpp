// Reads by positional system calls in a pool of threads.
#include <sys/uio.h>

#include <cerrno>
#include <utility>

#include "io/iovecs.h"
#include "io/reader.h"
#include "io/work_queue.h"

namespace mome {
namespace {

class PreadReader final : public Reader {
  public:
    explicit PreadReader(int threads) : queue_(threads) {}
    std::string_view name() const override { return "pread"; }
    bool help() override { return queue_.help(); }

    void start(std::vector<Read> reads) override {
        std::vector<WorkQueue::Job> jobs;
        jobs.reserve(reads.size());
        for (Read& read : reads)
            jobs.push_back([read = std::move(read)] { run(read); });
        queue_.put(std::move(jobs));
    }

  private:
    static void run(const Read& read) {
        ReadResult result{.failure = {}, .from_memory = read_cached(read)};
        Iovecs left(read.parts);
        while (!result.from_memory && !left.empty()) {
            const off_t at = read.offset + static_cast<off_t>(left.done());
            const ssize_t count = preadv(read.shard->descriptor().fd(), left.data(), left.count(), at);
            if (count < 0 && errno == EINTR) continue;
            if (count <= 0) {
                result.failure = read_failure(*read.shard, at, count < 0 ? errno : 0);
                break;
            }
            left.advance(static_cast<size_t>(count));
        }
        read.done(std::move(result));
    }

    WorkQueue queue_;
};

}  // namespace

bool read_cached(const Read& read) {
#ifdef RWF_NOWAIT
    Iovecs left(read.parts);
    while (!left.empty()) {
        const off_t at = read.offset + static_cast<off_t>(left.done());
        const int fd = read.shard->descriptor().buffered_fd();
        const ssize_t count = preadv2(fd, left.data(), left.count(), at, RWF_NOWAIT);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return false;
        left.advance(static_cast<size_t>(count));
    }
    return true;
#else
    static_cast<void>(read);
    return false;
#endif
}

std::unique_ptr<Reader> make_pread_reader(int threads) {
    return std::make_unique<PreadReader>(threads);
}

}  // namespace mome

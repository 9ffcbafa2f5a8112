// Reads by copying out of the mapping.
#include <cstring>
#include <utility>

#include "io/reader.h"
#include "io/work_queue.h"

namespace mome {
namespace {

class MmapReader final : public Reader {
  public:
    explicit MmapReader(int threads) : queue_(threads) {}
    std::string_view name() const override { return "mmap"; }
    bool help() override { return queue_.help(); }

    void start(std::vector<Read> reads) override {
        std::vector<WorkQueue::Job> jobs;
        jobs.reserve(reads.size());
        for (Read& read : reads) {
            const MappedFile& file = read.shard->file();
            const auto count = static_cast<int64_t>(read.bytes());
            const bool resident = file.resident(read.offset, count);
            if (!resident) file.advise(read.offset, count);  // all on their way before the first is waited for
            jobs.push_back([read = std::move(read), resident] { copy(read, resident); });
        }
        queue_.put(std::move(jobs));
    }

  private:
    static void copy(const Read& read, bool resident) {
        ReadResult result{.failure = {}, .from_memory = resident};
        try {
            const MappedFile& file = read.shard->file();
            file.load(read.offset, static_cast<int64_t>(read.bytes()));
            const std::byte* from = file.bytes().data() + read.offset;
            for (const std::span<std::byte> part : read.parts) {
                std::memcpy(part.data(), from, part.size());
                from += part.size();
            }
        } catch (...) {
            result.failure = Failure::current();
        }
        read.done(std::move(result));
    }

    WorkQueue queue_;
};

}  // namespace

std::unique_ptr<Reader> make_mmap_reader(int threads) {
    return std::make_unique<MmapReader>(threads);
}

}  // namespace mome

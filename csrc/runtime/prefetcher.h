// Brings records into slots: sort and merge by place on disk, read, check, copy to the device, report.
//
//   start -> [staging buffer] -> Reader -> check -> [CopyStream -> Event] -> done
//
// What fails on the way, the device included, becomes the outcome of the loads that it fails: every load ends.
//
// Where the host can write device memory, reads go straight into the slot and the parts in brackets fall away, unless
// staging is asked for.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "device/device.h"
#include "io/reader.h"
#include "io/shard_set.h"

namespace mome {

// One record on its way into a slot.
struct Load {
    int64_t expert;    // id
    int64_t position;  // in the shard set
    int32_t slot;
    std::byte* to;                                   // the slot's memory
    std::vector<std::shared_ptr<Event>> after = {};  // the slot may still be read until these are reached
};

// How it ended: the expert's rank, or what went wrong.
struct LoadOutcome {
    int64_t rank = 0;
    Failure failure;
    bool from_memory = false;
};

class Prefetcher {
  public:
    // Told once for each load, from any thread.
    using Done = std::function<void(const Load&, const LoadOutcome&)>;

    // `staging`: so many buffers between reader and device; 0: none, which takes a device whose memory the host writes.
    Prefetcher(Device& device, std::unique_ptr<Reader> reader, int64_t record_bytes, int64_t staging, Done done);
    ~Prefetcher();  // returns when every load is done
    Prefetcher(const Prefetcher&) = delete;
    Prefetcher& operator=(const Prefetcher&) = delete;

    // Starts loads without waiting.
    void start(const std::shared_ptr<const ShardSet>& shards, std::span<const Load> loads);

    // Does a piece of the work in the calling thread, if there is one to be had.
    bool help() { return reader_->help(); }

    Reader& reader() { return *reader_; }

  private:
    struct Job;
    struct Staged;
    struct Sent;

    void read(const std::shared_ptr<const ShardSet>& shards, std::span<const Load> loads,
              std::span<std::byte* const> buffers);
    void arrived(const Job& job, ReadResult result);
    void send(std::vector<Staged> records);
    void finish(std::vector<Staged>& records, const Failure& failure);
    void start_staged();
    void publish();
    void release(std::byte* buffer);

    int64_t record_bytes_;
    Done done_;

    std::unique_ptr<Allocation> staging_memory_;
    std::mutex mutex_;  // guards the four below
    std::condition_variable changed_;
    std::vector<std::byte*> free_buffers_;
    std::deque<std::pair<std::shared_ptr<const ShardSet>, Load>> waiting_;  // for a buffer
    std::deque<Sent> sent_;
    bool stopping_ = false;

    std::unique_ptr<CopyStream> stream_;
    std::mutex stream_mutex_;  // a copy and its event go in together
    std::unique_ptr<Reader> reader_;
    std::thread publisher_;
};

}  // namespace mome

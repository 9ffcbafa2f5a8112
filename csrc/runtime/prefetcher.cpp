// The pipeline from disk to slot.
#include "runtime/prefetcher.h"

#include <algorithm>
#include <utility>

namespace mome {
namespace {

// Neighbours on disk are read at once, up to so many bytes: beyond, a read is as fast per byte but others wait for it.
constexpr size_t kMergedBytes = 256 * 1024;

}  // namespace

// The loads of one read, and the buffers that it fills.
struct Prefetcher::Job {
    std::shared_ptr<const ShardSet> shards;
    std::vector<Load> loads;
    std::vector<std::byte*> buffers;
};

// A record that was read into a staging buffer and is in order.
struct Prefetcher::Staged {
    Load load;
    LoadOutcome outcome;
    std::byte* buffer;
};

// Records on their way to their slots, and when they are there.
struct Prefetcher::Sent {
    std::vector<Staged> records;
    std::shared_ptr<Event> there;
};

Prefetcher::Prefetcher(Device& device, std::unique_ptr<Reader> reader, int64_t record_bytes, int64_t staging, Done done)
    : record_bytes_(record_bytes), done_(std::move(done)), reader_(std::move(reader)) {
    if (staging == 0) return;
    const auto each = static_cast<size_t>(record_bytes);
    staging_memory_ = device.allocate_staging(static_cast<size_t>(staging) * each);
    for (size_t i = 0; i < static_cast<size_t>(staging); ++i)
        free_buffers_.push_back(staging_memory_->data() + i * each);
    stream_ = device.make_stream();
    publisher_ = std::thread([this] { publish(); });
}

Prefetcher::~Prefetcher() {
    if (staging_memory_) {
        std::unique_lock lock(mutex_);
        const auto buffers = staging_memory_->span().size() / static_cast<size_t>(record_bytes_);
        changed_.wait(lock, [&] { return waiting_.empty() && free_buffers_.size() == buffers; });
        stopping_ = true;
        lock.unlock();
        changed_.notify_all();
        publisher_.join();
    }
    reader_.reset();
}

void Prefetcher::start(const std::shared_ptr<const ShardSet>& shards, std::span<const Load> loads) {
    if (!staging_memory_) {
        std::vector<std::byte*> slots;
        for (const Load& load : loads) {
            slots.push_back(load.to);
            for (const auto& event : load.after)  // nothing runs later on a device whose memory the host writes
                event->wait();
        }
        read(shards, loads, slots);
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        for (const Load& load : loads)
            waiting_.emplace_back(shards, load);
    }
    start_staged();
}

// Begins as many of the waiting loads as there are buffers for.
void Prefetcher::start_staged() {
    std::vector<Load> loads;
    std::vector<std::byte*> buffers;
    std::shared_ptr<const ShardSet> shards;
    do {
        loads.clear();
        buffers.clear();
        {
            const std::lock_guard lock(mutex_);
            if (!waiting_.empty()) shards = waiting_.front().first;
            while (!waiting_.empty() && !free_buffers_.empty() && waiting_.front().first == shards) {
                loads.push_back(waiting_.front().second);
                waiting_.pop_front();
                buffers.push_back(free_buffers_.back());
                free_buffers_.pop_back();
            }
        }
        if (!loads.empty()) read(shards, loads, buffers);
    } while (!loads.empty());
}

void Prefetcher::read(const std::shared_ptr<const ShardSet>& shards, std::span<const Load> loads,
                      std::span<std::byte* const> buffers) {
    struct Placed {
        ShardSet::Location at;
        size_t index;
    };
    std::vector<Placed> order;
    order.reserve(loads.size());
    for (size_t i = 0; i < loads.size(); ++i)
        order.push_back({.at = shards->locate(loads[i].position), .index = i});
    std::ranges::sort(order, {},
                      [](const Placed& placed) { return std::pair(placed.at.shard->number(), placed.at.offset); });

    const size_t most = std::max<size_t>(1, kMergedBytes / static_cast<size_t>(record_bytes_));
    std::vector<Read> reads;
    for (size_t first = 0; first < order.size();) {
        const ShardSet::Location& start = order[first].at;
        auto job = std::make_shared<Job>();
        job->shards = shards;
        Read read{.shard = start.shard, .offset = start.offset, .parts = {}, .done = {}};
        size_t next = first;
        do {
            const size_t index = order[next].index;
            job->loads.push_back(loads[index]);
            job->buffers.push_back(buffers[index]);
            read.parts.emplace_back(buffers[index], static_cast<size_t>(record_bytes_));
            ++next;
        } while (next < order.size() && next - first < most && order[next].at.shard == start.shard &&
                 order[next].at.offset == start.offset + static_cast<int64_t>(next - first) * record_bytes_);
        read.done = [this, job = std::move(job)](ReadResult result) { arrived(*job, std::move(result)); };
        reads.push_back(std::move(read));
        first = next;
    }
    reader_->start(std::move(reads));
}

void Prefetcher::arrived(const Job& job, ReadResult result) {
    std::vector<Staged> good;
    for (size_t i = 0; i < job.loads.size(); ++i) {
        const Load& load = job.loads[i];
        LoadOutcome outcome{.rank = 0, .failure = result.failure, .from_memory = result.from_memory};
        if (!outcome.failure) {
            try {
                outcome.rank = job.shards->check(load.position, {job.buffers[i], static_cast<size_t>(record_bytes_)});
            } catch (...) {
                outcome.failure = Failure::current();
            }
        }
        if (!staging_memory_) {
            done_(load, outcome);
        } else if (outcome.failure) {
            done_(load, outcome);
            release(job.buffers[i]);
        } else {
            good.push_back({.load = load, .outcome = outcome, .buffer = job.buffers[i]});
        }
    }
    if (!good.empty()) send(std::move(good));
}

// Puts the copies of records that came together into the stream.
void Prefetcher::send(std::vector<Staged> records) {
    std::vector<Copy> copies;
    for (const Staged& record : records) {
        copies.push_back(
            {.to_device = record.load.to, .from_host = record.buffer, .bytes = static_cast<size_t>(record_bytes_)});
    }
    Failure failure;
    try {
        const std::lock_guard in_order(stream_mutex_);
        for (const Staged& record : records) {
            for (const auto& event : record.load.after)
                stream_->wait(event);
        }
        stream_->copy(copies);
        auto there = stream_->record();
        const std::lock_guard lock(mutex_);
        sent_.push_back({.records = std::move(records), .there = std::move(there)});
    } catch (...) {
        failure = Failure::current();
    }
    if (failure) {
        stream_->drain();  // copies may be under way, from these buffers and into these slots
        finish(records, failure);
    } else {
        changed_.notify_all();
    }
}

// Reports records in the order in which their copies were put into the stream.
void Prefetcher::publish() {
    for (;;) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stopping_ || !sent_.empty(); });
        if (sent_.empty()) return;
        Sent sent = std::move(sent_.front());
        sent_.pop_front();
        lock.unlock();
        Failure failure;
        try {
            sent.there->wait();
        } catch (...) {
            failure = Failure::current();
            stream_->drain();
        }
        finish(sent.records, failure);
    }
}

void Prefetcher::finish(std::vector<Staged>& records, const Failure& failure) {
    for (Staged& record : records) {
        if (failure) record.outcome.failure = failure;
        done_(record.load, record.outcome);
        release(record.buffer);
    }
}

void Prefetcher::release(std::byte* buffer) {
    {
        const std::lock_guard lock(mutex_);
        free_buffers_.push_back(buffer);
    }
    start_staged();
    changed_.notify_all();
}

}  // namespace mome

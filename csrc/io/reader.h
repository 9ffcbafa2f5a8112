// Readers fill buffers from ranges of shard files, beside the thread that asks.
//
//   mmap      copies out of the mapping
//   pread     positional reads by a pool of threads
//   io_uring  positional reads by one kernel queue and one thread
//   tiered    takes what lies in the page cache with a read that does not wait, and leaves the rest to one of the other
//             two; that is as fast as copying out of the mapping once its page tables are paid for, and can't fault
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/errors.h"
#include "io/shard_set.h"

namespace mome {

struct ReadResult {
    Failure failure;           // none: every byte is there
    bool from_memory = false;  // nothing had to come from the disk, as far as the reader can tell
};

// A range of a shard, read into several buffers one after the other.
struct Read {
    const Shard* shard;  // kept alive by whoever asks until `done` is called
    int64_t offset;
    std::vector<std::span<std::byte>> parts;
    std::function<void(ReadResult)> done;  // called once, from any thread; must not throw

    size_t bytes() const;
};

class Reader {
  public:
    // Returns when every read is done.
    virtual ~Reader() = default;

    virtual std::string_view name() const = 0;

    // Starts reads without waiting for them. `done` may be called before this returns.
    virtual void start(std::vector<Read> reads) = 0;

    // Runs one read that nobody has begun, if there is one and the caller can do it: a thread that would only wait
    // does better to help. False when there was none.
    virtual bool help() { return false; }

    // What reads will be about from now on: a reader that can prepare for it does.
    virtual void attach(const ShardSet&) {}

    // Memory that most reads will go to.
    virtual void attach(std::span<std::byte>) {}
};

std::unique_ptr<Reader> make_mmap_reader(int threads);
std::unique_ptr<Reader> make_pread_reader(int threads);
// `depth`: reads in flight at once. Throws std::system_error when the kernel has no io_uring for us.
std::unique_ptr<Reader> make_io_uring_reader(int depth);
std::unique_ptr<Reader> make_tiered_reader(int threads, std::unique_ptr<Reader> other);

// Makes the reads of `inner` come late and out of order, the seed decides how: for tests of what must not depend on
// timing. Delays are up to `longest_us` microseconds.
std::unique_ptr<Reader> make_delaying_reader(std::unique_ptr<Reader> inner, uint64_t seed, int64_t longest_us);

// Which reader serves a store, and why.
struct ReaderChoice {
    std::string reader;  // "mmap", "pread" or "io_uring"; with `tiered`, for what is not in the page cache
    Access access;
    bool tiered;
    std::string fallback;  // what could not be had and what is used instead; empty: nothing to complain of

    std::unique_ptr<Reader> make() const;
};

// `wanted`: "mmap", "pread", "io_uring" or "auto" (SchemaError otherwise). io_uring and O_DIRECT are tried out: the
// latter on `sample`, a shard of at least one record; null when the store is empty. "auto" takes from the page cache
// what is there; the rest goes past it when the store (`store_bytes`) is larger than half the memory that is free, and
// through it otherwise, so that it is there the next time.
ReaderChoice choose_reader(std::string_view wanted, const ShardSource* sample, int64_t store_bytes);

// Fills what it can of a read from the page cache, without waiting for the disk; true when that is all of it. On Linux
// (RWF_NOWAIT) only; elsewhere nothing is ever found.
bool read_cached(const Read& read);

// The failure of a read of `shard` with `error_number`, or that met the end of the file (0).
Failure read_failure(const Shard& shard, int64_t offset, int error_number);

}  // namespace mome

// The experts of one snapshot: every shard mapped, every live expert found by id, every record checked before its first
// use.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "format/record.h"
#include "format/shard_index.h"
#include "io/expert_run.h"
#include "io/mapped_file.h"
#include "io/read_file.h"

namespace mome {

// When the contents of a record are checked.
enum class Verify {
    record,  // trailer and checksum, once, before a record is first used
    open     // the trailer only (the files' sizes and indexes are checked when they are opened, in both modes)
};

// A shard as the catalogue knows it. `fd` is only read from while the set is made.
struct ShardSource {
    int64_t number;
    int fd;
    std::string path;
    int64_t bytes;
    uint32_t index_crc;
};

// One mapped shard and which of its records have been found good where they lie in the mapping.
class Shard {
  public:
    Shard(const ShardSource& source, int64_t rows_per_shard, const RecordFormat& format, Access access);

    int64_t number() const { return number_; }
    const MappedFile& file() const { return file_; }
    const ReadFile& descriptor() const { return descriptor_; }
    bool is(const ShardSource& source) const { return number_ == source.number && file_.is(source.fd); }
    bool holds(int64_t slot) const { return index_.offset(static_cast<size_t>(slot)) != ShardIndex::kMissing; }
    Bytes record(int64_t slot, const RecordFormat& format) const;
    int64_t offset(int64_t slot) const { return static_cast<int64_t>(index_.offset(static_cast<size_t>(slot))); }

    // The rank of the expert in `slot` once its record has been found good, 0 before. Written by whichever thread
    // checks the record; two that do so at once write the same value.
    std::atomic<uint32_t>& good_rank(int64_t slot) const { return good_rank_[static_cast<size_t>(slot)]; }

  private:
    int64_t number_;
    MappedFile file_;
    ReadFile descriptor_;
    ShardIndex index_;
    std::unique_ptr<std::atomic<uint32_t>[]> good_rank_;
};

// A record that has been checked; valid as long as its ShardSet.
struct ExpertRef {
    const std::byte* base;
    int64_t rank;
    bool checked_now;  // this call was the record's first use
};

class ShardSet {
  public:
    // `experts`: by id, ascending. Shards that `previous` already maps are taken over with what is known about their
    // records. Throws DamagedStoreError, ReadError or SchemaError.
    ShardSet(const RecordFormat& format, int64_t rows_per_shard, Verify verify, std::span<const ShardSource> shards,
             std::vector<ExpertRun> experts, const ShardSet* previous = nullptr, Access access = Access::mapped);

    // Positions of the ids in this set, for the calls below. Throws UnknownIdError that names every unknown one.
    std::vector<int64_t> find(std::span<const int64_t> ids) const;
    int64_t position_of(int64_t id) const { return experts_.position_of(id); }  // -1: unknown

    // The record at a position, checked as `Verify` says. Safe from any number of threads; no lock.
    ExpertRef expert(int64_t position) const;

    // Where the record at a position lies.
    struct Location {
        const Shard* shard;
        int64_t offset;  // in the file
        int64_t row;
    };
    Location locate(int64_t position) const;

    // The rank of the record at a position, whose bytes are in `record` now. Throws DamagedStoreError unless they are
    // the bytes that were committed, as far as `Verify` looks.
    int64_t check(int64_t position, Bytes record) const;

    // Starts reading records that have not been used yet into the page cache; returns how many.
    int64_t advise(std::span<const int64_t> positions) const;

    const RecordFormat& format() const { return format_; }
    Verify verify() const { return verify_; }
    Access access() const { return access_; }
    std::span<const std::shared_ptr<const Shard>> shard_list() const { return shards_; }
    int64_t group(int64_t position) const { return experts_.at(position).group; }
    int64_t experts() const { return experts_.count(); }
    int64_t shards() const { return static_cast<int64_t>(shards_.size()); }
    int64_t bytes_mapped() const;

  private:
    struct Place {
        const Shard* shard;
        int64_t slot;
    };
    std::shared_ptr<const Shard> shard(int64_t number) const;  // null: not in this snapshot
    Place place(int64_t row) const;

    RecordFormat format_;
    int64_t rows_per_shard_;
    Verify verify_;
    Access access_;
    std::vector<std::shared_ptr<const Shard>> shards_;  // by number
    ExpertRuns experts_;
};

}  // namespace mome

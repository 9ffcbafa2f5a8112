// A store as of one commit, opened by a C++ program alone. (A Python program has mome_store.store.Snapshot for this,
// and hands the same arrays to ShardSet.)
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "catalog/catalog.h"
#include "io/shard_set.h"

namespace mome {

// Experts that are applied together.
struct Group {
    int64_t id;
    Mode mode;
    Activation activation;
    std::vector<int64_t> expert_ids;  // ascending
};

// Holds every shard of experts of its commit open, so that files unlinked later stay readable. It holds no SQLite
// connection and no lock, and may be used by several threads. Shard sets made of it may outlive it.
class Snapshot {
  public:
    // Of the newest commit. Throws what `load_state` throws, and DamagedStoreError or ReadError for shards that are
    // missing or can't be opened.
    static Snapshot open(const std::filesystem::path& store);

    int64_t commit() const { return state_.commit; }
    int64_t key_dim() const { return state_.key_dim; }
    int64_t rows_per_shard() const { return state_.rows_per_shard; }
    const ExpertSchema& schema() const { return state_.schema; }
    int64_t experts() const;
    std::vector<int64_t> group_ids() const;  // ascending

    // Throws UnknownIdError.
    Group group(int64_t id) const;

    // The shards as choose_reader and ShardSet want them; `first_shard` is null when there is none. They are valid as
    // long as the snapshot.
    std::span<const ShardSource> shards() const { return shards_; }
    const ShardSource* first_shard() const { return shards_.empty() ? nullptr : shards_.data(); }
    int64_t bytes() const;  // of all of them

    // Maps the shards and checks their sizes and indexes. `previous`: a set of an older snapshot, whose mappings are
    // taken over where they are still valid. Throws DamagedStoreError or ReadError.
    std::shared_ptr<const ShardSet> open_shards(Access access = Access::mapped, Verify verify = Verify::record,
                                                const ShardSet* previous = nullptr) const;

  private:
    // A file, open; fd is -1 where there is none.
    class Descriptor {
      public:
        explicit Descriptor(const std::filesystem::path& path);
        ~Descriptor();
        Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
        Descriptor& operator=(Descriptor&&) = delete;
        int fd() const { return fd_; }

      private:
        int fd_;
    };

    explicit Snapshot(CatalogState state) : state_(std::move(state)) {}

    // Opens the shards of state_. Returns the path of one that is missing, or nothing: a writer that compacts may have
    // put its rows elsewhere in a later commit.
    std::string open_files(const std::filesystem::path& store);

    CatalogState state_;
    std::vector<ExpertRun> by_group_;  // state_.experts, group ids ascending
    std::vector<Descriptor> files_;
    std::vector<ShardSource> shards_;
};

}  // namespace mome

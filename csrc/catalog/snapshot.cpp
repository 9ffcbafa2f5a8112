// Opens the shards that the catalogue names, and finds the experts of groups.
#include "catalog/snapshot.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <optional>

#include "format/errors.h"
#include "format/shard_index.h"

namespace mome {
namespace {

// Appends first, first + 1, ...: `count` numbers.
void append_counted(std::vector<int64_t>& numbers, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        numbers.push_back(first + i);
}

}  // namespace

Snapshot::Descriptor::Descriptor(const std::filesystem::path& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0 && errno != ENOENT) throw ReadError(path.string(), 0, errno);
}

Snapshot::Descriptor::~Descriptor() {
    if (fd_ >= 0) close(fd_);
}

Snapshot Snapshot::open(const std::filesystem::path& store) {
    CatalogState state = load_state(store);
    for (;;) {
        const int64_t commit = state.commit;
        Snapshot snapshot(std::move(state));
        const std::string missing = snapshot.open_files(store);
        if (missing.empty()) return snapshot;
        state = load_state(store);
        if (state.commit == commit)
            throw DamagedStoreError(missing, std::nullopt, std::nullopt, "the shard is missing");
    }
}

std::string Snapshot::open_files(const std::filesystem::path& store) {
    for (const CatalogState::ShardRow& row : state_.shards) {
        const auto path = store / "experts" / "c" / std::to_string(row.number) / "0";
        const auto index_bytes = ShardIndex::bytes_for(static_cast<size_t>(state_.rows_per_shard));
        if (row.bytes != row.rows * state_.schema.layout.record_bytes + static_cast<int64_t>(index_bytes)) {
            throw DamagedStoreError(
                path.string(), std::nullopt, std::nullopt,
                std::to_string(row.bytes) + " bytes do not fit " + std::to_string(row.rows) + " records and an index");
        }
        files_.emplace_back(path);
        if (files_.back().fd() < 0) return path.string();
        shards_.push_back({.number = row.number,
                           .fd = files_.back().fd(),
                           .path = path.string(),
                           .bytes = row.bytes,
                           .index_crc = row.index_crc});
    }
    by_group_ = state_.experts;
    std::ranges::sort(by_group_, {}, &ExpertRun::group_id);
    return {};
}

int64_t Snapshot::experts() const {
    int64_t total = 0;
    for (const ExpertRun& run : state_.experts)
        total += run.experts();
    return total;
}

std::vector<int64_t> Snapshot::group_ids() const {
    std::vector<int64_t> ids;
    for (const GroupRun& run : state_.groups)
        append_counted(ids, run.id, run.groups);
    return ids;
}

Group Snapshot::group(int64_t id) const {
    const auto next = std::ranges::upper_bound(state_.groups, id, {}, &GroupRun::id);
    const GroupRun* run = next == state_.groups.begin() ? nullptr : &*std::prev(next);
    if (run == nullptr || id - run->id >= run->groups) throw UnknownIdError({id}, "group");
    Group group{.id = id, .mode = run->mode, .activation = run->activation, .expert_ids = {}};
    const ExpertRun& members = *std::prev(std::ranges::upper_bound(by_group_, id, {}, &ExpertRun::group_id));
    append_counted(group.expert_ids, members.id + (id - members.group_id) * members.per_group, members.per_group);
    return group;
}

int64_t Snapshot::bytes() const {
    int64_t total = 0;
    for (const ShardSource& shard : shards_)
        total += shard.bytes;
    return total;
}

std::shared_ptr<const ShardSet> Snapshot::open_shards(Access access, Verify verify, const ShardSet* previous) const {
    return std::make_shared<ShardSet>(state_.schema.record_format(), state_.rows_per_shard, verify, shards_,
                                      state_.experts, previous, access);
}

}  // namespace mome

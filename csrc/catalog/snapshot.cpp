// Opens the shards that the catalogue names, and finds the experts of groups.
#include "catalog/snapshot.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <optional>

#include "format/errors.h"
#include "format/shard_index.h"

namespace mome {

Snapshot::Descriptor::Descriptor(const std::filesystem::path& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ >= 0) return;
    if (errno != ENOENT) throw ReadError(path.string(), 0, errno);
    throw DamagedStoreError(path.string(), std::nullopt, std::nullopt, "the shard is missing");
}

Snapshot::Descriptor::~Descriptor() {
    if (fd_ >= 0) close(fd_);
}

Snapshot Snapshot::open(const std::filesystem::path& store) {
    Snapshot snapshot(load_state(store));
    const CatalogState& state = snapshot.state_;
    for (const CatalogState::ShardRow& row : state.shards) {
        const auto path = store / "experts" / "c" / std::to_string(row.number) / "0";
        const auto index_bytes = ShardIndex::bytes_for(static_cast<size_t>(state.rows_per_shard));
        if (row.bytes != row.rows * state.schema.layout.record_bytes + static_cast<int64_t>(index_bytes)) {
            throw DamagedStoreError(
                path.string(), std::nullopt, std::nullopt,
                std::to_string(row.bytes) + " bytes do not fit " + std::to_string(row.rows) + " records and an index");
        }
        snapshot.files_.emplace_back(path);
        snapshot.shards_.push_back({.number = row.number,
                                    .fd = snapshot.files_.back().fd(),
                                    .path = path.string(),
                                    .bytes = row.bytes,
                                    .index_crc = row.index_crc});
    }
    snapshot.by_group_.resize(state.experts.size());
    std::iota(snapshot.by_group_.begin(), snapshot.by_group_.end(), size_t{0});
    std::ranges::stable_sort(snapshot.by_group_, {}, [&](size_t at) { return state.experts[at].group; });
    return snapshot;
}

std::vector<int64_t> Snapshot::group_ids() const {
    std::vector<int64_t> ids;
    for (const CatalogState::GroupRow& group : state_.groups)
        ids.push_back(group.id);
    return ids;
}

Group Snapshot::group(int64_t id) const {
    const auto at = std::ranges::lower_bound(state_.groups, id, {}, &CatalogState::GroupRow::id);
    if (at == state_.groups.end() || at->id != id) throw UnknownIdError({id}, "group");
    Group group{.id = id, .mode = at->mode, .activation = at->activation, .expert_ids = {}};
    const auto members =
        std::ranges::equal_range(by_group_, id, {}, [&](size_t place) { return state_.experts[place].group; });
    for (const size_t place : members)
        group.expert_ids.push_back(state_.experts[place].id);
    return group;
}

int64_t Snapshot::bytes() const {
    int64_t total = 0;
    for (const ShardSource& shard : shards_)
        total += shard.bytes;
    return total;
}

std::shared_ptr<const ShardSet> Snapshot::open_shards(Access access, Verify verify, const ShardSet* previous) const {
    std::vector<int64_t> ids, rows, groups;
    for (const CatalogState::ExpertRow& expert : state_.experts) {
        ids.push_back(expert.id);
        rows.push_back(expert.row);
        groups.push_back(expert.group);
    }
    return std::make_shared<ShardSet>(state_.schema.record_format(), state_.rows_per_shard, verify, shards_,
                                      std::move(ids), std::move(rows), std::move(groups), previous, access);
}

}  // namespace mome

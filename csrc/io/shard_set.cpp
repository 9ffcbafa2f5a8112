// Opens shards, finds experts in them and checks records on first use.
#include "io/shard_set.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "format/errors.h"
#include "format/layout.h"

namespace mome {

Shard::Shard(const ShardSource& source, int64_t rows_per_shard, const RecordFormat& format, Access access)
    : number_(source.number),
      file_(source.fd, source.path, source.bytes),
      descriptor_(source.fd, access, source.path),
      index_(ShardIndex::parse(file_.bytes(), static_cast<size_t>(rows_per_shard),
                               static_cast<size_t>(format.record_bytes), source.index_crc, source.path,
                               source.number * rows_per_shard)),
      good_rank_(std::make_unique<std::atomic<uint32_t>[]>(static_cast<size_t>(rows_per_shard))) {
    file_.forget();  // the index has been parsed: a million experts' would stay mapped otherwise
}

Bytes Shard::record(int64_t slot, const RecordFormat& format) const {
    return file_.bytes().subspan(static_cast<size_t>(offset(slot)), static_cast<size_t>(format.record_bytes));
}

ShardSet::ShardSet(const RecordFormat& format, int64_t rows_per_shard, Verify verify,
                   std::span<const ShardSource> shards, std::vector<ExpertRun> experts, const ShardSet* previous,
                   Access access)
    : format_(format), rows_per_shard_(rows_per_shard), verify_(verify), access_(access) {
    if (rows_per_shard < 1) throw SchemaError("a shard needs at least one row");
    if (format.record_bytes < RecordLayout::kRecordAlignment ||
        format.record_bytes % RecordLayout::kRecordAlignment != 0) {
        throw SchemaError("record_bytes must be a multiple of 4096, not " + std::to_string(format.record_bytes));
    }
    const bool reuse = previous != nullptr && previous->rows_per_shard_ == rows_per_shard &&
                       previous->format_.schema_crc == format.schema_crc && previous->verify_ == verify &&
                       previous->access_ == access;
    for (const ShardSource& source : shards) {
        auto known = reuse ? previous->shard(source.number) : nullptr;
        if (known == nullptr || !known->is(source)) {
            known = std::make_shared<Shard>(source, rows_per_shard, format, access);
        }
        shards_.push_back(std::move(known));
    }
    std::ranges::sort(shards_, {}, [](const auto& shard) { return shard->number(); });
    int64_t rows = rows_per_shard;
    for (const auto& shard : shards_)
        rows = std::max(rows, (shard->number() + 1) * rows_per_shard);
    experts_ = ExpertRuns(std::move(experts), rows);
    for (const ExpertRun& run : experts_.runs()) {
        for (int64_t i = 0; i < run.experts(); ++i) {
            const int64_t row = run.row + i;
            const auto [shard, slot] = place(row);
            if (shard == nullptr) {
                throw DamagedStoreError("experts/c/" + std::to_string(row / rows_per_shard) + "/0", row, run.id + i,
                                        "the catalogue names no such shard");
            }
            if (!shard->holds(slot)) {
                throw DamagedStoreError(shard->file().path(), row, run.id + i, "the shard's index has no such record");
            }
        }
    }
}

std::shared_ptr<const Shard> ShardSet::shard(int64_t number) const {
    const auto at = std::ranges::lower_bound(shards_, number, {}, [](const auto& shard) { return shard->number(); });
    return at != shards_.end() && (*at)->number() == number ? *at : nullptr;
}

ShardSet::Place ShardSet::place(int64_t row) const {
    return {.shard = shard(row / rows_per_shard_).get(), .slot = row % rows_per_shard_};
}

std::vector<int64_t> ShardSet::find(std::span<const int64_t> ids) const {
    std::vector<int64_t> positions;
    positions.reserve(ids.size());
    std::vector<int64_t> unknown;
    for (const int64_t id : ids) {
        const int64_t position = position_of(id);
        if (position < 0) unknown.push_back(id);
        positions.push_back(position);
    }
    if (!unknown.empty()) {
        std::ranges::sort(unknown);
        unknown.erase(std::ranges::unique(unknown).begin(), unknown.end());
        throw UnknownIdError(std::move(unknown));
    }
    return positions;
}

ShardSet::Location ShardSet::locate(int64_t position) const {
    const int64_t row = experts_.at(position).row;
    const auto [shard, slot] = place(row);
    return {.shard = shard, .offset = shard->offset(slot), .row = row};
}

int64_t ShardSet::check(int64_t position, Bytes record) const {
    const auto [id, row, group] = experts_.at(position);
    auto [rank, problem] = check_record(record, format_, id, group, verify_ == Verify::record);
    if (!problem.empty()) {
        throw DamagedStoreError(locate(position).shard->file().path(), row, id, std::move(problem));
    }
    return rank;
}

ExpertRef ShardSet::expert(int64_t position) const {
    const auto [shard, slot] = place(experts_.at(position).row);
    const Bytes record = shard->record(slot, format_);
    std::atomic<uint32_t>& good_rank = shard->good_rank(slot);
    if (const uint32_t rank = good_rank.load(std::memory_order_acquire); rank != 0) {
        return {.base = record.data(), .rank = rank, .checked_now = false};
    }
    shard->file().load(shard->offset(slot), format_.record_bytes);
    const int64_t rank = check(position, record);
    good_rank.store(static_cast<uint32_t>(rank), std::memory_order_release);
    return {.base = record.data(), .rank = rank, .checked_now = true};
}

int64_t ShardSet::advise(std::span<const int64_t> positions) const {
    int64_t advised = 0;
    for (const int64_t position : positions) {
        const auto [shard, slot] = place(experts_.at(position).row);
        if (shard->good_rank(slot).load(std::memory_order_relaxed) != 0) continue;
        shard->file().advise(shard->offset(slot), format_.record_bytes);
        ++advised;
    }
    return advised;
}

int64_t ShardSet::bytes_mapped() const {
    int64_t total = 0;
    for (const auto& shard : shards_)
        total += static_cast<int64_t>(shard->file().bytes().size());
    return total;
}

}  // namespace mome

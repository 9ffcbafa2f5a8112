// Finds experts among runs.
#include "io/expert_run.h"

#include <algorithm>
#include <string>
#include <utility>

#include "format/errors.h"

namespace mome {

std::vector<ExpertRun> runs_of(std::span<const int64_t> ids, std::span<const int64_t> rows,
                               std::span<const int64_t> groups) {
    if (ids.size() != rows.size() || ids.size() != groups.size()) {
        throw SchemaError("there must be one row and one group for each expert id");
    }
    std::vector<ExpertRun> runs;
    for (size_t i = 0; i < ids.size(); ++i) {
        if (!runs.empty()) {
            ExpertRun& last = runs.back();
            const bool next = ids[i] == last.id + last.experts() && rows[i] == last.row + last.experts();
            if (next && last.per_group == 1 && groups[i] == last.group_id + last.groups) {
                ++last.groups;
                continue;
            }
            if (next && last.groups == 1 && groups[i] == last.group_id) {
                ++last.per_group;
                continue;
            }
        }
        runs.push_back({.row = rows[i], .id = ids[i], .group_id = groups[i], .groups = 1, .per_group = 1});
    }
    return runs;
}

ExpertRuns::ExpertRuns(std::vector<ExpertRun> runs, int64_t most) : runs_(std::move(runs)) {
    int64_t next_id = 0;
    for (const ExpertRun& run : runs_) {
        int64_t experts = 0;
        if (run.groups < 1 || run.per_group < 1 || __builtin_mul_overflow(run.groups, run.per_group, &experts) ||
            experts > most - count_) {
            throw SchemaError("a run of " + std::to_string(run.groups) + " groups of " + std::to_string(run.per_group) +
                              " experts: the shards have rows for " + std::to_string(most) + " in all");
        }
        if (run.id < next_id) throw SchemaError("expert ids must be strictly ascending");
        if (run.row < 0) throw SchemaError("expert rows must not be negative");
        int64_t ignored = 0;
        if (__builtin_add_overflow(run.id, experts, &next_id) || __builtin_add_overflow(run.row, experts, &ignored) ||
            __builtin_add_overflow(run.group_id, run.groups, &ignored)) {
            throw SchemaError("expert ids, rows and groups must fit 63 bits");
        }
        start_.push_back(count_);
        count_ += experts;
    }
}

ExpertRuns::Expert ExpertRuns::at(int64_t position) const {
    const auto index = static_cast<size_t>(std::ranges::upper_bound(start_, position) - start_.begin()) - 1;
    const ExpertRun& run = runs_[index];
    const int64_t offset = position - start_[index];
    return {.id = run.id + offset, .row = run.row + offset, .group = run.group_id + offset / run.per_group};
}

int64_t ExpertRuns::position_of(int64_t id) const {
    const auto after = std::ranges::upper_bound(runs_, id, {}, &ExpertRun::id);
    if (after == runs_.begin()) return -1;
    const auto index = static_cast<size_t>(after - runs_.begin()) - 1;
    const int64_t offset = id - runs_[index].id;
    return offset < runs_[index].experts() ? start_[index] + offset : -1;
}

}  // namespace mome

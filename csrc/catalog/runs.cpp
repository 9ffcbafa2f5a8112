// Checks runs. The numbers of one are ranges of ids and rows, and so are those of all.
#include "catalog/runs.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "format/errors.h"

namespace mome {
namespace {

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

// first, first + 1, ...: `count` numbers.
struct Range {
    int64_t first;
    int64_t count;
    bool operator==(const Range&) const = default;
};

class RunChecks {
  public:
    explicit RunChecks(const std::string& file) : file_(file) {}

    void require(bool holds, const std::string& problem) const {
        if (!holds) throw DamagedStoreError(file_, std::nullopt, std::nullopt, "the catalogue's runs: " + problem);
    }

    // The same numbers in as few ranges as can be, ascending. There must be some in each, `least` or more, and none
    // twice. `what` they are numbers of is named otherwise.
    std::vector<Range> united(const std::string& what, int64_t least, std::vector<Range> ranges) const {
        std::ranges::sort(ranges, {}, &Range::first);
        std::vector<Range> whole;
        for (const Range& range : ranges) {
            require(range.first >= least && range.count >= 1 && range.count <= kMost - range.first,
                    "there can't be " + std::to_string(range.count) + " " + what + " from " +
                        std::to_string(range.first) + " on");
            const int64_t free = whole.empty() ? least : whole.back().first + whole.back().count;
            require(range.first >= free, what + " from " + std::to_string(range.first) + " on are named twice");
            if (!whole.empty() && range.first == free) {
                whole.back().count += range.count;
            } else {
                whole.push_back(range);
            }
        }
        return whole;
    }

  private:
    const std::string& file_;
};

}  // namespace

void check_runs(std::span<const GroupRun> groups, std::span<const ExpertRun> experts, int64_t rows,
                const std::string& file) {
    const RunChecks checks(file);
    std::vector<Range> group_ids, groups_of_experts, expert_ids, expert_rows;
    for (const GroupRun& run : groups) {
        const bool mode = run.mode == Mode::owned || run.mode == Mode::pool;
        const bool activation = run.activation == Activation::answer || run.activation == Activation::all;
        checks.require(mode && activation, "group " + std::to_string(run.id) + " has an unknown mode or activation");
        group_ids.push_back({.first = run.id, .count = run.groups});
    }
    int64_t total = 0;
    for (const ExpertRun& run : experts) {
        const std::string named = std::to_string(run.groups) + " groups of " + std::to_string(run.per_group);
        checks.require(run.groups >= 1 && run.per_group >= 1 && run.groups <= (rows - total) / run.per_group,
                       named + " experts from expert " + std::to_string(run.id) + " on do not fit the shards' " +
                           std::to_string(rows) + " rows");
        total += run.experts();
        groups_of_experts.push_back({.first = run.group_id, .count = run.groups});
        expert_ids.push_back({.first = run.id, .count = run.experts()});
        expert_rows.push_back({.first = run.row, .count = run.experts()});
    }
    checks.united("experts", 1, std::move(expert_ids));
    checks.united("rows of experts", 0, std::move(expert_rows));
    checks.require(checks.united("groups", 1, std::move(group_ids)) ==
                       checks.united("groups of experts", 1, std::move(groups_of_experts)),
                   "the groups are not those that the experts belong to");
}

}  // namespace mome

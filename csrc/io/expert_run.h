// Where experts lie, told in runs: what was added together lies together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mome {

// The experts of `groups` groups, `per_group` each: rows from `row`, ids from `id`, groups from `group_id` on.
struct ExpertRun {
    int64_t row;
    int64_t id;
    int64_t group_id;
    int64_t groups;
    int64_t per_group;

    int64_t experts() const { return groups * per_group; }
};

// The runs of experts that are told of one by one: `rows[i]` and `groups[i]` are the row and the group of `ids[i]`.
// Throws SchemaError when there are not as many of each.
std::vector<ExpertRun> runs_of(std::span<const int64_t> ids, std::span<const int64_t> rows,
                               std::span<const int64_t> groups);

// Experts by position, which counts them in the order of their ids. Costs memory by the run, not by the expert.
class ExpertRuns {
  public:
    ExpertRuns() = default;

    // Throws SchemaError unless ids ascend from run to run, rows are not negative, every count is at least 1, and there
    // are at most `most` experts.
    ExpertRuns(std::vector<ExpertRun> runs, int64_t most);

    struct Expert {
        int64_t id;
        int64_t row;
        int64_t group;
    };
    Expert at(int64_t position) const;
    int64_t position_of(int64_t id) const;  // -1: no such expert
    int64_t count() const { return count_; }
    std::span<const ExpertRun> runs() const { return runs_; }

  private:
    std::vector<ExpertRun> runs_;
    std::vector<int64_t> start_;  // position of each run's first expert
    int64_t count_ = 0;
};

}  // namespace mome

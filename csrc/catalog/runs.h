// Runs: how the catalogue tells of many groups or experts that follow each other in one row (mome_store/store/runs.py
// has the whole of it). A run's numbers are those of the first group in it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "io/expert_run.h"

namespace mome {

// The values are the codes in the catalogue.
enum class Mode : int64_t { owned = 0, pool = 1 };
enum class Activation : int64_t { answer = 0, all = 1 };  // from the last prompt token on, or on all tokens

// `groups` groups with ids from `id` on. (Their memories are not read here.)
struct GroupRun {
    int64_t id;
    int64_t groups;
    Mode mode;
    Activation activation;
};

// Throws DamagedStoreError of `file` unless all numbers of the runs are such as a store can have: every group has its
// experts in one run, no id and no row is given twice, and there are no more experts than `rows`, the rows that there
// are. What is checked can be counted out, then, in memory that fits the store.
void check_runs(std::span<const GroupRun> groups, std::span<const ExpertRun> experts, int64_t rows,
                const std::string& file);

}  // namespace mome

// Which rows of a batch get which experts. Checked once, and then used by every adapted layer and every step: a call
// for one layer has little else to do than to read weights.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mome {

class RoutedRows {
  public:
    struct Tables {
        std::span<const int32_t> row_index;      // [m] rows of x and y; no row twice
        std::span<const int32_t> row_sequence;   // [m] the sequence of each
        std::span<const int32_t> expert_indptr;  // [sequences + 1]
        std::span<const int64_t> expert_base;    // [entries] addresses of records
        std::span<const int32_t> expert_rank;    // [entries]
        std::span<const float> expert_weight;    // [entries]
    };

    // Consecutive listed rows of one sequence, which has experts.
    struct Run {
        size_t first;  // in row_index
        int64_t rows;
        size_t entry;   // its first in expert_base
        int64_t ranks;  // of all its experts
    };

    // Throws SchemaError when the tables don't fit each other. They are read later too: they must outlive this object,
    // unchanged, and so must the records that they point at.
    explicit RoutedRows(const Tables& tables);

    const Tables& tables() const noexcept { return tables_; }
    std::span<const Run> runs() const noexcept { return runs_; }
    int32_t last_row() const noexcept { return last_row_; }          // the highest in row_index; -1 when there is none
    int32_t highest_rank() const noexcept { return highest_rank_; }  // of any entry; 0 when there is none

  private:
    Tables tables_;
    std::vector<Run> runs_;
    int32_t last_row_ = -1;
    int32_t highest_rank_ = 0;
};

}  // namespace mome

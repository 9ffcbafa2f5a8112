#include "kernels/routed_rows.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>

#include "format/errors.h"

namespace mome {
namespace {

void require(bool holds, const char* what) {
    if (!holds) throw SchemaError(what);
}

// A row that is listed twice would be read before its first update is written.
void require_distinct(std::span<const int32_t> rows, int32_t last) {
    if (std::ranges::is_sorted(rows, std::less_equal<>{})) return;
    std::vector<bool> seen(static_cast<size_t>(last) + 1);
    for (const int32_t row : rows) {
        if (seen[static_cast<size_t>(row)]) {
            throw SchemaError("row_index lists row " + std::to_string(row) + " twice");
        }
        seen[static_cast<size_t>(row)] = true;
    }
}

}  // namespace

RoutedRows::RoutedRows(const Tables& tables) : tables_(tables) {
    const Tables& t = tables_;
    require(t.row_index.size() == t.row_sequence.size(), "row_index and row_sequence must have the same length");
    require(t.expert_base.size() == t.expert_rank.size() && t.expert_base.size() == t.expert_weight.size(),
            "expert_base, expert_rank and expert_weight must have the same length");
    require(!t.expert_indptr.empty() && t.expert_indptr.front() == 0 &&
                t.expert_indptr.back() == static_cast<int64_t>(t.expert_base.size()) &&
                std::ranges::is_sorted(t.expert_indptr),
            "expert_indptr must ascend from 0 to the number of entries");
    for (const int32_t row : t.row_index) {
        if (row < 0) throw SchemaError("row_index " + std::to_string(row) + " is negative");
        last_row_ = std::max(last_row_, row);
    }
    require_distinct(t.row_index, last_row_);
    const auto sequences = static_cast<int64_t>(t.expert_indptr.size()) - 1;
    for (const int32_t sequence : t.row_sequence) {
        if (sequence < 0 || sequence >= sequences) {
            throw SchemaError("row_sequence " + std::to_string(sequence) + " is not in 0.." +
                              std::to_string(sequences - 1));
        }
    }
    for (size_t e = 0; e < t.expert_base.size(); ++e) {
        require(t.expert_base[e] != 0, "expert_base holds a null address");
        require(t.expert_rank[e] >= 1, "expert_rank must be at least 1");
        highest_rank_ = std::max(highest_rank_, t.expert_rank[e]);
    }

    const size_t m = t.row_index.size();
    for (size_t first = 0, end = 0; first < m; first = end) {
        for (end = first + 1; end < m && t.row_sequence[end] == t.row_sequence[first];)
            ++end;
        const auto sequence = static_cast<size_t>(t.row_sequence[first]);
        const auto entry = static_cast<size_t>(t.expert_indptr[sequence]);
        const auto ranks = t.expert_rank.subspan(entry, static_cast<size_t>(t.expert_indptr[sequence + 1]) - entry);
        const int64_t sum = std::accumulate(ranks.begin(), ranks.end(), int64_t{0});
        if (sum > 0) {
            runs_.push_back({.first = first, .rows = static_cast<int64_t>(end - first), .entry = entry, .ranks = sum});
        }
    }
}

}  // namespace mome

#include "python/routed_rows.h"

#include <utility>

#include "python/tensor.h"

namespace py = pybind11;

namespace mome::python {

RoutedRows::Tables tables_of(py::handle row_index, py::handle row_sequence, py::handle expert_indptr,
                             py::handle expert_base, py::handle expert_rank, py::handle expert_weight) {
    return {.row_index = vector<int32_t>(row_index, "row_index"),
            .row_sequence = vector<int32_t>(row_sequence, "row_sequence"),
            .expert_indptr = vector<int32_t>(expert_indptr, "expert_indptr"),
            .expert_base = vector<int64_t>(expert_base, "expert_base"),
            .expert_rank = vector<int32_t>(expert_rank, "expert_rank"),
            .expert_weight = vector<float>(expert_weight, "expert_weight")};
}

OwnedRows::OwnedRows(py::handle row_index, py::handle row_sequence, py::handle expert_indptr, py::object expert_base,
                     py::handle expert_rank, py::handle expert_weight)
    : OwnedRows(tables_of(row_index, row_sequence, expert_indptr, expert_base, expert_rank, expert_weight)) {
    owner_ = std::move(expert_base);
}

OwnedRows::OwnedRows(const RoutedRows::Tables& t)
    : row_index_(t.row_index.begin(), t.row_index.end()),
      row_sequence_(t.row_sequence.begin(), t.row_sequence.end()),
      indptr_(t.expert_indptr.begin(), t.expert_indptr.end()),
      base_(t.expert_base.begin(), t.expert_base.end()),
      rank_(t.expert_rank.begin(), t.expert_rank.end()),
      weight_(t.expert_weight.begin(), t.expert_weight.end()) {}

}  // namespace mome::python

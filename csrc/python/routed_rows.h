// Routed rows that Python holds, made from tensors.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "kernels/routed_rows.h"

namespace mome::python {

// Views of the tensors of `apply_experts`, which must outlive them. Throws SchemaError for other dtypes and shapes.
RoutedRows::Tables tables_of(pybind11::handle row_index, pybind11::handle row_sequence, pybind11::handle expert_indptr,
                             pybind11::handle expert_base, pybind11::handle expert_rank,
                             pybind11::handle expert_weight);

// Routed rows of its own: what Python does to the tensors that they were made from can't reach them. It holds on to
// the tensor of addresses, for that one may keep a lease.
class OwnedRows {
  public:
    OwnedRows(pybind11::handle row_index, pybind11::handle row_sequence, pybind11::handle expert_indptr,
              pybind11::object expert_base, pybind11::handle expert_rank, pybind11::handle expert_weight);
    OwnedRows(const OwnedRows&) = delete;
    OwnedRows& operator=(const OwnedRows&) = delete;

    const RoutedRows& rows() const { return rows_; }

  private:
    explicit OwnedRows(const RoutedRows::Tables& tables);

    std::vector<int32_t> row_index_, row_sequence_, indptr_;
    std::vector<int64_t> base_;
    std::vector<int32_t> rank_;
    std::vector<float> weight_;
    RoutedRows rows_{{row_index_, row_sequence_, indptr_, base_, rank_, weight_}};
    pybind11::object owner_;
};

}  // namespace mome::python

// Reads torch tensors through their Python attributes (data_ptr, shape, stride, dtype), so that one build of the
// extension serves every version of torch. A view holds no reference: the caller keeps the tensor alive.
#pragma once

#include <pybind11/pybind11.h>

#include <span>

#include "kernels/apply.h"

namespace mome::python {

// The tensor's rows, over all its leading dimensions; SchemaError unless it is a cpu tensor [..., d] of bf16, fp16 or
// fp32 with two dimensions or more, the last one contiguous, and one distance from row to row.
Matrix matrix(pybind11::handle tensor, const char* name);

// The tensor's elements; SchemaError unless it is a contiguous one-dimensional cpu tensor of T.
template <class T>
std::span<const T> vector(pybind11::handle tensor, const char* name);

}  // namespace mome::python

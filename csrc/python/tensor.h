// Reads torch tensors through their Python attributes (data_ptr, shape, stride, dtype), so that one build of the
// extension serves every version of torch. A view holds no reference: the caller keeps the tensor alive.
#pragma once

#include <pybind11/pybind11.h>

#include <span>

#include "kernels/matrix.h"

namespace mome::python {

constexpr int kCpu = -1;  // the place of a tensor; otherwise the number of a CUDA device

// The tensor's rows, over all its leading dimensions; SchemaError unless it is a tensor [..., d] of bf16, fp16 or fp32
// in that place with two dimensions or more, the last one contiguous, and one distance from row to row.
Matrix matrix(pybind11::handle tensor, const char* name, int place = kCpu);

// The tensor's elements; SchemaError unless it is a contiguous one-dimensional tensor of T in that place.
template <class T>
std::span<const T> vector(pybind11::handle tensor, const char* name, int place = kCpu);

// The same, of bytes (torch.uint8) that are to be written.
std::span<std::byte> bytes(pybind11::handle tensor, const char* name, int place = kCpu);

// The dtype of a schema by its code; SchemaError for a code that is none.
DType dtype_with_code(int code);

}  // namespace mome::python

// A tensor as the kernels take it, and what must hold of the tensors and offsets of a call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/layout.h"

namespace mome {

// Rows of vectors; a row is contiguous, the stride (in elements) is free.
struct Matrix {
    std::byte* data;
    DType dtype;
    int64_t rows;
    int64_t columns;
    int64_t stride;
};

// What a call says besides its data; `last_row` is the highest row that the route lists, `highest_rank` that of any
// expert.
struct ApplyShape {
    const Matrix& y;
    const Matrix& x;
    int32_t last_row;
    int32_t highest_rank;
    int64_t a_offset;
    int64_t b_offset;
    DType weight_dtype;
    bool accumulate;
};

// Throws SchemaError when a shape, index or offset does not fit.
void check_shape(const ApplyShape& shape);

}  // namespace mome

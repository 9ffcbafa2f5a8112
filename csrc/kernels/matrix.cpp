#include "kernels/matrix.h"

#include <cstdlib>
#include <string>

#include "format/errors.h"

namespace mome {
namespace {

void require(bool holds, const char* what) {
    if (!holds) throw SchemaError(what);
}

}  // namespace

void check_shape(const ApplyShape& shape) {
    const Matrix &x = shape.x, &y = shape.y;
    require(x.rows == y.rows, "x and y must have the same number of rows");
    require(x.columns > 0 && x.columns % 8 == 0, "d_in, the last dimension of x, must be a positive multiple of 8");
    require(y.columns > 0 && y.columns % 8 == 0, "d_out, the last dimension of y, must be a positive multiple of 8");
    require(y.rows <= 1 || std::abs(y.stride) >= y.columns, "the rows of y overlap");
    if (shape.last_row >= y.rows) {
        throw SchemaError("row_index " + std::to_string(shape.last_row) + " is not in 0.." +
                          std::to_string(y.rows - 1));
    }
    require(shape.a_offset >= 0 && shape.a_offset % RecordLayout::kSectionAlignment == 0 &&
                shape.b_offset % RecordLayout::kSectionAlignment == 0,
            "a_offset and b_offset must be multiples of 256");
    require(shape.highest_rank * x.columns * bytes_of(shape.weight_dtype) <= shape.b_offset - shape.a_offset,
            "A does not fit between a_offset and b_offset");
    require(!shape.accumulate || y.dtype == DType::float32, "y must be float32 to accumulate");
}

}  // namespace mome

#include "kernels/inner_products.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "format/errors.h"
#include "kernels/kernels.h"

namespace mome {

void inner_products(std::span<const float> rows, Strided vectors, int64_t d, std::span<float> products, Isa isa) {
    if (d < 1 || vectors.stride < 1) throw SchemaError("inner products need vectors of one value or more");
    const int64_t n = std::ssize(rows) / d, room = std::ssize(vectors.values);
    const int64_t m = room < d ? 0 : (room - d) / vectors.stride + 1;
    if (std::ssize(rows) != n * d || room != (m == 0 ? 0 : (m - 1) * vectors.stride + d) ||
        std::ssize(products) != n * m) {
        throw SchemaError("inner products of vectors whose sizes don't fit");
    }
    const auto vector_at = [&](int64_t q) { return vectors.values.subspan(static_cast<size_t>(q * vectors.stride)); };
    const Kernels kernels = kernels_of(isa);
    const int64_t whole = d / 8 * 8;  // as many values as the kernels take
    std::array<float, kBlockRanks> ones;
    ones.fill(1);
    std::array<const std::byte*, kBlockRanks + kAheadRanks> block{};
    for (int64_t row = 0; row < n; row += kBlockRanks) {
        const int64_t ranks = std::min(kBlockRanks, n - row);
        for (int64_t r = 0; r < ranks + kAheadRanks; ++r)
            block[static_cast<size_t>(r)] = std::as_bytes(rows.subspan(std::min(row + r, n - 1) * d)).data();
        for (int64_t vector = 0; vector < m; vector += kTileRows) {
            ShrinkBlock work{.rows = std::min(kTileRows, m - vector),
                             .x = {},
                             .x_dtype = DType::float32,
                             .weight_dtype = DType::float32,
                             .d_in = whole,
                             .ranks = ranks,
                             .a = block.data(),
                             .scale = ones.data(),
                             .t = products.data() + vector * n + row,
                             .t_stride = n};
            for (int64_t q = 0; q < work.rows; ++q)
                work.x[q] = std::as_bytes(vector_at(vector + q)).data();
            kernels.shrink(work);
        }
    }
    for (int64_t i = whole; i < d; ++i) {
        for (int64_t p = 0; p < n * m; ++p)
            products[p] += rows[p % n * d + i] * vector_at(p / n)[static_cast<size_t>(i)];
    }
}

}  // namespace mome

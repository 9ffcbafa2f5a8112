// A call of the kernels at random, and how far an answer is from the formula. Shared by the tests of every device.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "format/layout.h"
#include "kernels/routed_rows.h"

namespace mome::test {

// bf16 and fp16 as they are stored; to nearest, ties to even. Finite numbers only.
inline uint16_t bfloat16_bits(float number) {
    const uint32_t bits = std::bit_cast<uint32_t>(number);
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float number_of_bfloat16(uint16_t bits) {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
inline uint16_t float16_bits(float number) {
    const auto half = static_cast<_Float16>(number);
    return std::bit_cast<uint16_t>(half);
}
inline float number_of_float16(uint16_t bits) {
    return static_cast<float>(std::bit_cast<_Float16>(bits));
}

// Random values of a dtype: as they are stored, and as numbers.
struct Values {
    std::vector<std::byte> stored;
    std::vector<float> numbers;

    Values(size_t count, DType dtype, std::mt19937& random)
        : stored(count * static_cast<size_t>(bytes_of(dtype))), numbers(count) {
        std::normal_distribution<float> normal;
        for (size_t i = 0; i < count; ++i) {
            float value = normal(random);
            uint32_t bits = std::bit_cast<uint32_t>(value);
            if (dtype == DType::bfloat16) {
                bits &= 0xFFFF0000;
                const auto half = static_cast<uint16_t>(bits >> 16);
                std::memcpy(&stored[2 * i], &half, 2);
            } else if (dtype == DType::float16) {  // a normal number of ten bits after the first
                value = std::copysign(std::clamp(std::abs(value), 0x1p-8F, 8.0F), value);
                bits = std::bit_cast<uint32_t>(value) & 0xFFFFE000;
                const auto half =
                    static_cast<uint16_t>((bits >> 16 & 0x8000) | ((bits & 0x7FFFFFFF) - 0x38000000) >> 13);
                std::memcpy(&stored[2 * i], &half, 2);
            } else {
                std::memcpy(&stored[4 * i], &bits, 4);
            }
            numbers[i] = std::bit_cast<float>(bits);
        }
    }
};

struct Sizes {
    int64_t d_in = 24, d_out = 40;  // a whole vector and a half one on AVX-512
    int64_t rows = 7;
    std::vector<int32_t> indptr{0, 0, 1, 4};  // three sequences: no expert, one, three
    std::vector<int32_t> rank{5, 1, 4, 5};
    std::vector<int32_t> row_index{6, 0, 1, 2, 4, 3};  // not 5
    std::vector<int32_t> row_sequence{2, 1, 1, 2, 0, 2};
};

// Enough for threads to share: one row of ten sequences, and thirty rows of the last one.
inline Sizes large() {
    Sizes sizes{.d_in = 200, .d_out = 1112, .rows = 40, .indptr = {0}, .rank = {}, .row_index = {}, .row_sequence = {}};
    for (int32_t s = 0; s < 10; ++s) {
        sizes.indptr.push_back(4 * (s + 1));
        for (int32_t e = 0; e < 4; ++e)
            sizes.rank.push_back(1 + (5 * s + 3 * e) % 11);
    }
    for (int32_t row = 0; row < 40; ++row) {
        sizes.row_index.push_back(39 - row);
        sizes.row_sequence.push_back(std::min(row, 9));
    }
    return sizes;
}

struct Problem {
    Sizes sizes;
    DType x_dtype, weight_dtype;
    std::mt19937 random{3};
    Values x;
    std::vector<float> y;
    int64_t b_offset;
    std::vector<Values> records;
    std::vector<int64_t> base;
    std::vector<float> weight;
    float alpha = 3.0F;

    explicit Problem(Sizes sizes_ = {}, DType x_dtype_ = DType::float32, DType weight_dtype_ = DType::float32)
        : sizes(std::move(sizes_)),
          x_dtype(x_dtype_),
          weight_dtype(weight_dtype_),
          x(static_cast<size_t>(sizes.rows * sizes.d_in), x_dtype, random),
          y(Values(static_cast<size_t>(sizes.rows * sizes.d_out), DType::float32, random).numbers) {
        const int64_t most = *std::ranges::max_element(sizes.rank), bytes = bytes_of(weight_dtype);
        b_offset = (most * sizes.d_in * bytes + 255) / 256 * 256;
        for (size_t e = 0; e < sizes.rank.size(); ++e) {
            records.emplace_back(static_cast<size_t>(b_offset / bytes + most * sizes.d_out), weight_dtype, random);
            weight.push_back(0.5F - static_cast<float>(e % 5));
        }
        for (const Values& record : records)
            base.push_back(reinterpret_cast<int64_t>(record.stored.data()));
    }

    RoutedRows::Tables tables() const {
        return {.row_index = sizes.row_index,
                .row_sequence = sizes.row_sequence,
                .expert_indptr = sizes.indptr,
                .expert_base = base,
                .expert_rank = sizes.rank,
                .expert_weight = weight};
    }

    // The largest error of `found`, in parts of the magnitudes that went into the value.
    double error_of(const std::vector<float>& found) const {
        std::vector<double> exact(y.begin(), y.end()), size(y.size(), 1.0);
        const auto d_in = static_cast<size_t>(sizes.d_in), d_out = static_cast<size_t>(sizes.d_out);
        for (size_t i = 0; i < sizes.row_index.size(); ++i) {
            const auto row = static_cast<size_t>(sizes.row_index[i]), s = static_cast<size_t>(sizes.row_sequence[i]);
            for (auto e = static_cast<size_t>(sizes.indptr[s]); e < static_cast<size_t>(sizes.indptr[s + 1]); ++e) {
                const std::vector<float>& factors = records[e].numbers;
                const size_t b = static_cast<size_t>(b_offset / bytes_of(weight_dtype));
                for (size_t r = 0; r < static_cast<size_t>(sizes.rank[e]); ++r) {
                    double t = 0, t_size = 0;
                    for (size_t k = 0; k < d_in; ++k) {
                        const double product = double{factors[r * d_in + k]} * double{x.numbers[row * d_in + k]};
                        t += product;
                        t_size += std::abs(product);
                    }
                    const double scale = double{weight[e]} * double{alpha} / sizes.rank[e];
                    for (size_t j = 0; j < d_out; ++j) {
                        exact[row * d_out + j] += scale * t * double{factors[b + r * d_out + j]};
                        size[row * d_out + j] += std::abs(scale * t_size * double{factors[b + r * d_out + j]});
                    }
                }
            }
        }
        double worst = 0;
        for (size_t i = 0; i < exact.size(); ++i)
            worst = std::max(worst, std::abs(found[i] - exact[i]) / size[i]);
        return worst;
    }
};

constexpr DType kDTypes[] = {DType::bfloat16, DType::float16, DType::float32};

}  // namespace mome::test

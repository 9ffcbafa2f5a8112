// The kernels without Python: every instruction set against a reference in double, and the argument checks. (Sizes,
// dtypes and routes at random are in tests/kernels.)
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "format/errors.h"
#include "kernels/apply.h"

using namespace mome;
using namespace mome::test;

namespace {

constexpr int64_t kIn = 24, kOut = 40, kRank = 5;  // 24 and 40: a whole vector and a half one on AVX-512

// Three sequences over seven rows: no expert, one, three; ranks 5, 1, 4. fp32 throughout.
struct Problem {
    static constexpr int64_t kBOffset = 512;
    std::vector<float> x = std::vector<float>(7 * kIn), y = std::vector<float>(7 * kOut);
    std::vector<std::vector<float>> records;
    std::vector<int32_t> row_index{6, 0, 1, 2, 4, 3}, row_sequence{2, 1, 1, 2, 0, 2};
    std::vector<int32_t> indptr{0, 0, 1, 4}, rank{5, 1, 4, 5};
    std::vector<int64_t> base;
    std::vector<float> weight{1.0F, 0.5F, -2.0F, 0.25F};
    float alpha = 3.0F;

    Problem() {
        std::mt19937 random(3);
        std::normal_distribution<float> normal;
        for (float& value : x)
            value = normal(random);
        for (float& value : y)
            value = normal(random);
        for (size_t e = 0; e < rank.size(); ++e) {
            auto& record = records.emplace_back(static_cast<size_t>(kBOffset / 4 + kRank * kOut));
            for (float& value : record)
                value = normal(random);
            base.push_back(reinterpret_cast<int64_t>(record.data()));
        }
    }

    ApplyArguments arguments() {
        return {.y = {.data = reinterpret_cast<std::byte*>(y.data()),
                      .dtype = DType::float32,
                      .rows = 7,
                      .columns = kOut,
                      .stride = kOut},
                .x = {.data = reinterpret_cast<std::byte*>(x.data()),
                      .dtype = DType::float32,
                      .rows = 7,
                      .columns = kIn,
                      .stride = kIn},
                .row_index = row_index,
                .row_sequence = row_sequence,
                .expert_indptr = indptr,
                .expert_base = base,
                .expert_rank = rank,
                .expert_weight = weight,
                .a_offset = 0,
                .b_offset = kBOffset,
                .alpha = alpha,
                .weight_dtype = DType::float32};
    }

    std::vector<double> expected() const {
        std::vector<double> result(y.begin(), y.end());
        for (size_t i = 0; i < row_index.size(); ++i) {
            const auto row = static_cast<size_t>(row_index[i]), s = static_cast<size_t>(row_sequence[i]);
            for (auto e = static_cast<size_t>(indptr[s]); e < static_cast<size_t>(indptr[s + 1]); ++e) {
                for (size_t r = 0; r < static_cast<size_t>(rank[e]); ++r) {
                    double t = 0;
                    for (size_t k = 0; k < kIn; ++k)
                        t += double{records[e][r * kIn + k]} * double{x[row * kIn + k]};
                    t *= double{weight[e]} * double{alpha} / rank[e];
                    for (size_t j = 0; j < kOut; ++j) {
                        result[row * kOut + j] += t * double{records[e][kBOffset / 4 + r * kOut + j]};
                    }
                }
            }
        }
        return result;
    }
};

}  // namespace

TEST("every instruction set that runs here computes the formula") {
    for (const Isa isa : available_isas()) {
        Problem problem;
        const auto expected = problem.expected();
        apply_experts(problem.arguments(), isa);
        for (size_t i = 0; i < expected.size(); ++i)
            CHECK(std::abs(problem.y[i] - expected[i]) < 1e-4);
    }
}

TEST("rows that are not listed, and rows without experts, keep every bit") {
    for (const Isa isa : available_isas()) {
        Problem problem;
        const auto before = problem.y;
        apply_experts(problem.arguments(), isa);
        for (const size_t row : {4, 5}) {
            for (size_t j = row * kOut; j < (row + 1) * kOut; ++j) {
                CHECK(std::bit_cast<uint32_t>(problem.y[j]) == std::bit_cast<uint32_t>(before[j]));
            }
        }
    }
}

TEST("arguments that don't fit are refused before y is touched") {
    Problem problem;
    const auto before = problem.y;
    auto refused = [&](auto change) {
        ApplyArguments arguments = problem.arguments();
        change(arguments);
        CHECK_THROWS(SchemaError, apply_experts(arguments, Isa::scalar));
        CHECK(problem.y == before);
    };
    const std::vector<int32_t> outside{6, 0, 1, 2, 7, 3}, negative{6, 0, 1, 2, -1, 3}, twice{6, 0, 1, 2, 6, 3};
    const std::vector<int32_t> no_sequence{2, 1, 1, 3, 0, 2}, falling{0, 2, 1, 4}, late{1, 1, 2, 4}, wide{0, 0, 1, 5};
    const std::vector<int32_t> zero_rank{5, 0, 4, 5}, high_rank{5, 1, 6, 5};
    const std::vector<int64_t> null{0, 0, 0, 0};
    refused([&](auto& a) { a.row_index = outside; });
    refused([&](auto& a) { a.row_index = negative; });
    refused([&](auto& a) { a.row_index = twice; });
    refused([&](auto& a) { a.row_sequence = no_sequence; });
    refused([&](auto& a) { a.row_sequence = a.row_sequence.first(5); });
    refused([&](auto& a) { a.expert_indptr = falling; });
    refused([&](auto& a) { a.expert_indptr = late; });
    refused([&](auto& a) { a.expert_indptr = wide; });
    refused([&](auto& a) { a.expert_indptr = {}; });
    refused([&](auto& a) { a.expert_rank = zero_rank; });
    refused([&](auto& a) { a.expert_rank = high_rank; });
    refused([&](auto& a) { a.expert_weight = a.expert_weight.first(3); });
    refused([&](auto& a) { a.expert_base = null; });
    refused([&](auto& a) { a.x.columns = 20; });
    refused([&](auto& a) { a.y.columns = 0; });
    refused([&](auto& a) { a.y.stride = 0; });
    refused([&](auto& a) { a.x.rows = 8; });
    refused([&](auto& a) { a.a_offset = 8; });
    refused([&](auto& a) { a.b_offset = 500; });
}

int main() {
    return run();
}

// The kernels without Python: every instruction set against a reference in double, threads, waves, and the argument
// checks. (Sizes, dtypes and routes at random are in tests/kernels.)
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "format/errors.h"
#include "kernel_problem.h"
#include "kernels/apply.h"
#include "kernels/convolution.h"
#include "kernels/inner_products.h"
#include "kernels/read_bandwidth.h"

using namespace mome;
using namespace mome::test;

namespace {

// The same on the cpu.
struct CpuProblem : Problem {
    using Problem::Problem;

    ApplyArguments arguments(const RoutedRows& rows, std::vector<float>& out) {
        return {.y = {.data = reinterpret_cast<std::byte*>(out.data()),
                      .dtype = DType::float32,
                      .rows = sizes.rows,
                      .columns = sizes.d_out,
                      .stride = sizes.d_out},
                .x = {.data = x.stored.data(),
                      .dtype = x_dtype,
                      .rows = sizes.rows,
                      .columns = sizes.d_in,
                      .stride = sizes.d_in},
                .rows = rows,
                .a_offset = 0,
                .b_offset = b_offset,
                .alpha = alpha,
                .weight_dtype = weight_dtype};
    }

    std::vector<float> applied(Isa isa, int threads = 1) {
        std::vector<float> out = y;
        const RoutedRows routed(tables());
        ApplyArguments a = arguments(routed, out);
        a.threads = threads;
        apply_experts(a, isa);
        return out;
    }
};

bool same_bits(const std::vector<float>& one, const std::vector<float>& other) {
    return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

}  // namespace

TEST("every instruction set that runs here computes the formula, for every dtype and for sizes with tails") {
    for (const Isa isa : available_isas()) {
        for (const DType x : kDTypes) {
            for (const DType weights : kDTypes) {
                for (const int64_t d : {8, 16, 24, 56, 1000}) {
                    CpuProblem problem(Sizes{.d_in = d, .d_out = d + 16}, x, weights);
                    CHECK(problem.error_of(problem.applied(isa)) < 1e-6);
                }
                CpuProblem problem(large(), x, weights);
                CHECK(problem.error_of(problem.applied(isa)) < 1e-6);
            }
        }
    }
}

TEST("rows that are not listed, and rows without experts, keep every bit") {
    for (const Isa isa : available_isas()) {
        CpuProblem problem;
        const auto found = problem.applied(isa);
        const auto d = static_cast<size_t>(problem.sizes.d_out);
        for (const size_t row : {4, 5}) {
            for (size_t j = row * d; j < (row + 1) * d; ++j)
                CHECK(std::bit_cast<uint32_t>(found[j]) == std::bit_cast<uint32_t>(problem.y[j]));
        }
    }
}

TEST("the number of threads changes no bit, run after run") {
    for (const Isa isa : available_isas()) {
        CpuProblem problem(large(), DType::float32, DType::bfloat16);
        const auto alone = problem.applied(isa);
        for (int run = 0; run < 10; ++run) {
            for (const int threads : {2, 3, 7}) {
                problem.alpha = 7.0F;  // leaves other values in memory, for who reads there too early
                problem.applied(isa);
                problem.alpha = 3.0F;
                CHECK(same_bits(problem.applied(isa, threads), alone));
            }
        }
    }
}

TEST("callers at once each get their own answer") {
    std::vector<CpuProblem> problems;
    for (int i = 0; i < 4; ++i) {
        CpuProblem& problem = problems.emplace_back(large(), DType::float32, kDTypes[i % 3]);
        problem.alpha = static_cast<float>(i + 1);
    }
    std::vector<int> wrong(problems.size());
    std::vector<std::thread> callers;
    for (size_t i = 0; i < problems.size(); ++i) {
        callers.emplace_back([&, i] {
            const auto alone = problems[i].applied(best_isa());
            for (int run = 0; run < 20; ++run)
                wrong[i] += !same_bits(problems[i].applied(best_isa(), 3), alone);
        });
    }
    for (std::thread& caller : callers)
        caller.join();
    CHECK(std::ranges::count(wrong, 0) == static_cast<std::ptrdiff_t>(problems.size()));
}

TEST("waves of experts accumulate to the bits of one call") {
    for (const Isa isa : available_isas()) {
        CpuProblem problem(large(), DType::float32, DType::bfloat16);
        const auto expected = problem.applied(isa);
        std::vector<float> delta(problem.y.size());
        for (const int32_t wave : {0, 1, 2}) {  // experts 0; 1 and 2; 3 of each sequence
            const int32_t from = wave == 0 ? 0 : 2 * wave - 1, to = wave == 2 ? 4 : 2 * wave + 1;
            std::vector<int32_t> indptr{0}, rank;
            std::vector<int64_t> base;
            std::vector<float> weight;
            for (int32_t s = 0; s < 10; ++s) {
                for (auto e = static_cast<size_t>(4 * s + from); e < static_cast<size_t>(4 * s + to); ++e) {
                    rank.push_back(problem.sizes.rank[e]);
                    base.push_back(problem.base[e]);
                    weight.push_back(problem.weight[e]);
                }
                indptr.push_back(static_cast<int32_t>(rank.size()));
            }
            RoutedRows::Tables tables = problem.tables();
            tables.expert_indptr = indptr;
            tables.expert_rank = rank;
            tables.expert_base = base;
            tables.expert_weight = weight;
            const RoutedRows rows(tables);
            ApplyArguments arguments = problem.arguments(rows, delta);
            arguments.accumulate = true;
            arguments.threads = 1 + wave;
            apply_experts(arguments, isa);
        }
        for (size_t i = 0; i < delta.size(); ++i)
            delta[i] = problem.y[i] + delta[i];
        CHECK(same_bits(delta, expected));
    }
}

TEST("inner products: rows and vectors that fill no block, values that fill no vector") {
    std::mt19937 random(3);
    constexpr int64_t kRows = 37, kVectors = 13, kValues = 21;
    const Values rows(kRows * kValues, DType::float32, random), vectors(kVectors * kValues, DType::float32, random);
    std::vector<float> products(kRows * kVectors);
    for (const Isa isa : available_isas()) {
        inner_products(rows.numbers, {.values = vectors.numbers, .stride = kValues}, kValues, products, isa);
        for (int64_t p = 0; p < kRows * kVectors; ++p) {
            double expected = 0;
            for (int64_t i = 0; i < kValues; ++i) {
                expected += static_cast<double>(rows.numbers[static_cast<size_t>(p % kRows * kValues + i)]) *
                            static_cast<double>(vectors.numbers[static_cast<size_t>(p / kRows * kValues + i)]);
            }
            CHECK(std::abs(products[static_cast<size_t>(p)] - expected) < 1e-4);
        }
    }
    const auto refused = [&](int64_t values) {
        const Strided all{.values = vectors.numbers, .stride = values};
        CHECK_THROWS(SchemaError, inner_products(rows.numbers, all, values, products, best_isa()));
    };
    refused(kValues + 1);
    refused(0);
    products.pop_back();
    refused(kValues);
}

TEST("inner products of vectors that overlap are those of the vectors apart") {
    std::mt19937 random(4);
    constexpr int64_t kRows = 5, kVectors = 4, kValues = 21, kStride = 7;
    const Values rows(kRows * kValues, DType::float32, random);
    const Values line((kVectors - 1) * kStride + kValues, DType::float32, random);
    std::vector<float> apart, expected(kRows * kVectors), products(kRows * kVectors);
    for (int64_t q = 0; q < kVectors; ++q)
        apart.insert(apart.end(), line.numbers.begin() + q * kStride, line.numbers.begin() + q * kStride + kValues);
    for (const Isa isa : available_isas()) {
        inner_products(rows.numbers, {.values = apart, .stride = kValues}, kValues, expected, isa);
        inner_products(rows.numbers, {.values = line.numbers, .stride = kStride}, kValues, products, isa);
        CHECK(same_bits(products, expected));
    }
    const auto refused = [&](size_t values, int64_t stride) {
        const Strided vectors{.values = std::span(line.numbers).first(values), .stride = stride};
        CHECK_THROWS(SchemaError, inner_products(rows.numbers, vectors, kValues, products, best_isa()));
    };
    refused(line.numbers.size() - 1, kStride);
    refused(line.numbers.size(), 0);
}

TEST("a convolution reaches over the ends of a text, and has the GELU after it") {
    // Two tokens of one value, a filter of three: 1, 10 and 100 times the token before, itself and the one after.
    const std::vector<float> inputs{1, 2}, weights{1, 10, 100}, bias{-210};
    std::vector<float> outputs(2);
    convolve(inputs, 1, weights, bias, false, outputs, best_isa());
    CHECK(outputs[0] == 0 && outputs[1] == -189);
    convolve(inputs, 1, weights, std::vector<float>{-209}, true, outputs, best_isa());
    CHECK(std::abs(outputs[0] - 0.841345F) < 1e-6F && outputs[1] == 0);
    CHECK_THROWS(SchemaError, convolve(inputs, 1, std::span(weights).first(2), bias, false, outputs, best_isa()));
    CHECK_THROWS(SchemaError, convolve(inputs, 0, weights, bias, false, outputs, best_isa()));
    CHECK_THROWS(SchemaError, convolve(inputs, 1, weights, bias, false, std::span(outputs).first(1), best_isa()));
}

TEST("read bandwidth is that of all of the memory") {
    const std::vector<float> memory(1 << 20);
    CHECK(read_bandwidth(memory, 1) > 0);
    CHECK(read_bandwidth(memory, 3) > 0);
    CHECK_THROWS(SchemaError, read_bandwidth(std::span(memory).first(100), 1));
    CHECK_THROWS(SchemaError, read_bandwidth(memory, 0));
}

TEST("tables that don't fit each other are refused") {
    const CpuProblem problem;
    auto refused = [&](auto change) {
        RoutedRows::Tables tables = problem.tables();
        change(tables);
        CHECK_THROWS(SchemaError, RoutedRows(tables));
    };
    const std::vector<int32_t> negative{6, 0, 1, 2, -1, 3}, twice{6, 0, 1, 2, 6, 3};
    const std::vector<int32_t> no_sequence{2, 1, 1, 3, 0, 2}, falling{0, 2, 1, 4}, late{1, 1, 2, 4}, wide{0, 0, 1, 5};
    const std::vector<int32_t> zero_rank{5, 0, 4, 5};
    const std::vector<int64_t> null{0, 0, 0, 0};
    refused([&](auto& t) { t.row_index = negative; });
    refused([&](auto& t) { t.row_index = twice; });
    refused([&](auto& t) { t.row_sequence = no_sequence; });
    refused([&](auto& t) { t.row_sequence = t.row_sequence.first(5); });
    refused([&](auto& t) { t.expert_indptr = falling; });
    refused([&](auto& t) { t.expert_indptr = late; });
    refused([&](auto& t) { t.expert_indptr = wide; });
    refused([&](auto& t) { t.expert_indptr = {}; });
    refused([&](auto& t) { t.expert_rank = zero_rank; });
    refused([&](auto& t) { t.expert_weight = t.expert_weight.first(3); });
    refused([&](auto& t) { t.expert_base = null; });
}

TEST("arguments that don't fit are refused before y is touched") {
    CpuProblem problem;
    const auto before = problem.y;
    auto refused = [&](const RoutedRows::Tables& tables, auto change) {
        const RoutedRows rows(tables);
        ApplyArguments arguments = problem.arguments(rows, problem.y);
        change(arguments);
        CHECK_THROWS(SchemaError, apply_experts(arguments, Isa::scalar));
        CHECK(problem.y == before);
    };
    const std::vector<int32_t> outside{6, 0, 1, 2, 7, 3}, high_rank{5, 1, 6, 5};
    RoutedRows::Tables tables = problem.tables();
    tables.row_index = outside;
    refused(tables, [](auto&) {});
    tables = problem.tables();
    tables.expert_rank = high_rank;
    refused(tables, [](auto&) {});
    tables = problem.tables();
    refused(tables, [](auto& a) { a.x.columns = 20; });
    refused(tables, [](auto& a) { a.y.columns = 0; });
    refused(tables, [](auto& a) { a.y.stride = 0; });
    refused(tables, [](auto& a) { a.x.rows = 8; });
    refused(tables, [](auto& a) { a.a_offset = 8; });
    refused(tables, [](auto& a) { a.b_offset = 500; });
    refused(tables, [](auto& a) { a.threads = 0; });
    refused(tables, [](auto& a) {
        a.y.dtype = DType::bfloat16;
        a.accumulate = true;
    });
}

int main() {
    return run();
}

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
#include "kernels/apply.h"
#include "kernels/inner_products.h"
#include "kernels/read_bandwidth.h"

using namespace mome;
using namespace mome::test;

namespace {

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
Sizes large() {
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

bool same_bits(const std::vector<float>& one, const std::vector<float>& other) {
    return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

}  // namespace

TEST("every instruction set that runs here computes the formula, for every dtype and for sizes with tails") {
    for (const Isa isa : available_isas()) {
        for (const DType x : kDTypes) {
            for (const DType weights : kDTypes) {
                for (const int64_t d : {8, 16, 24, 56, 1000}) {
                    Problem problem(Sizes{.d_in = d, .d_out = d + 16}, x, weights);
                    CHECK(problem.error_of(problem.applied(isa)) < 1e-6);
                }
                Problem problem(large(), x, weights);
                CHECK(problem.error_of(problem.applied(isa)) < 1e-6);
            }
        }
    }
}

TEST("rows that are not listed, and rows without experts, keep every bit") {
    for (const Isa isa : available_isas()) {
        Problem problem;
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
        Problem problem(large(), DType::float32, DType::bfloat16);
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
    std::vector<Problem> problems;
    for (int i = 0; i < 4; ++i) {
        Problem& problem = problems.emplace_back(large(), DType::float32, kDTypes[i % 3]);
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
        Problem problem(large(), DType::float32, DType::bfloat16);
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
        inner_products(rows.numbers, vectors.numbers, kValues, products, isa);
        for (int64_t p = 0; p < kRows * kVectors; ++p) {
            double expected = 0;
            for (int64_t i = 0; i < kValues; ++i) {
                expected += static_cast<double>(rows.numbers[static_cast<size_t>(p % kRows * kValues + i)]) *
                            static_cast<double>(vectors.numbers[static_cast<size_t>(p / kRows * kValues + i)]);
            }
            CHECK(std::abs(products[static_cast<size_t>(p)] - expected) < 1e-4);
        }
    }
    CHECK_THROWS(SchemaError, inner_products(rows.numbers, vectors.numbers, kValues + 1, products, best_isa()));
    CHECK_THROWS(SchemaError, inner_products(rows.numbers, vectors.numbers, 0, products, best_isa()));
    products.pop_back();
    CHECK_THROWS(SchemaError, inner_products(rows.numbers, vectors.numbers, kValues, products, best_isa()));
}

TEST("read bandwidth is that of all of the memory") {
    const std::vector<float> memory(1 << 20);
    CHECK(read_bandwidth(memory, 1) > 0);
    CHECK(read_bandwidth(memory, 3) > 0);
    CHECK_THROWS(SchemaError, read_bandwidth(std::span(memory).first(100), 1));
    CHECK_THROWS(SchemaError, read_bandwidth(memory, 0));
}

TEST("tables that don't fit each other are refused") {
    const Problem problem;
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
    Problem problem;
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

// The CUDA kernels against the formula in double: dtypes, sizes, routes, waves, graphs, and the argument checks. Runs
// on the stand-in, and on a GPU where nvcc compiles it.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "check.h"
#include "cuda_problem.h"
#include "format/errors.h"

using namespace mome;
using namespace mome::test;

namespace {

// The bound for sums in fp32; tensor cores may drop bits when they add.
constexpr double kDecodeError = 1e-6, kPrefillError = 3e-6;

double bound(const CudaProblem& problem) {
    return problem.prefill_rows == kAlwaysDecode ? kDecodeError : kPrefillError;
}

bool same_bits(std::span<const float> one, std::span<const float> other) {
    return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size_bytes()) == 0;
}

std::span<const float> row_of(const std::vector<float>& values, size_t row, int64_t columns) {
    return std::span(values).subspan(row * static_cast<size_t>(columns), static_cast<size_t>(columns));
}

// `rows` of one sequence with the given experts.
Sizes one_sequence(int32_t rows, std::vector<int32_t> ranks, int64_t d_in, int64_t d_out) {
    Sizes sizes{.d_in = d_in,
                .d_out = d_out,
                .rows = rows,
                .indptr = {0, static_cast<int32_t>(ranks.size())},
                .rank = std::move(ranks),
                .row_index = {},
                .row_sequence = {}};
    for (int32_t row = 0; row < rows; ++row) {
        sizes.row_index.push_back(row);
        sizes.row_sequence.push_back(0);
    }
    return sizes;
}

// A few sequences of one row each, and one with many, their order shuffled where the tables allow it.
Sizes mixed() {
    Sizes sizes{.d_in = 296, .d_out = 152, .rows = 120, .indptr = {0}, .rank = {}, .row_index = {}, .row_sequence = {}};
    for (const int32_t experts : {3, 0, 1, 5}) {
        for (int32_t e = 0; e < experts; ++e)
            sizes.rank.push_back(1 + (7 * e + experts) % 13);
        sizes.indptr.push_back(static_cast<int32_t>(sizes.rank.size()));
    }
    for (int32_t row = 0; row < 100; ++row) {  // sequence 3 is prefilled: a whole tile, and a part of one
        sizes.row_index.push_back(119 - row);
        sizes.row_sequence.push_back(row < 97 ? 3 : row - 97);
    }
    return sizes;
}

enum class Popularity { distinct, uniform, zipf, identical };

// Which of the experts each of `sequences` gets: k of them, each expert's record once in memory.
Sizes popular(Popularity kind, int32_t sequences, int32_t k, uint32_t seed) {
    Sizes sizes{
        .d_in = 72, .d_out = 88, .rows = sequences, .indptr = {0}, .rank = {}, .row_index = {}, .row_sequence = {}};
    std::mt19937 random(seed);
    for (int32_t s = 0; s < sequences; ++s) {
        for (int32_t e = 0; e < k; ++e) {
            const int32_t pool = sequences * k;
            int32_t expert = s * k + e;
            if (kind == Popularity::uniform) expert = static_cast<int32_t>(random() % static_cast<uint32_t>(pool));
            if (kind == Popularity::zipf) {
                const double u = std::generate_canonical<double, 53>(random);
                expert = static_cast<int32_t>(std::pow(static_cast<double>(pool), u)) - 1;
            }
            if (kind == Popularity::identical) expert = e;
            sizes.rank.push_back(1 + expert * 5 % 17);
        }
        sizes.indptr.push_back(static_cast<int32_t>(sizes.rank.size()));
        sizes.row_index.push_back(sequences - 1 - s);
        sizes.row_sequence.push_back(s);
    }
    return sizes;
}

}  // namespace

TEST("every kernel computes the formula, for every dtype and for sizes with tails") {
    for (const int32_t prefill_rows : {kAlwaysDecode, kAlwaysPrefill}) {
        for (const DType x : kDTypes) {
            for (const DType weights : kDTypes) {
                for (const auto& [d_in, d_out] : {std::pair{8, 24}, {24, 8}, {264, 72}, {1032, 200}}) {
                    CudaProblem problem(Sizes{.d_in = d_in, .d_out = d_out}, x, weights);
                    problem.prefill_rows = prefill_rows;
                    CHECK(problem.error_of(problem.applied()) < bound(problem));
                }
            }
        }
    }
}

TEST("many ranks, one launch after the other: what fused can't hold") {
    for (const DType weights : kDTypes) {
        for (const int32_t ranks : {31, 32, 33, 64, 65, 130}) {
            CudaProblem problem(one_sequence(2, {ranks, 3}, 40, 136), DType::bfloat16, weights);
            CHECK(problem.error_of(problem.applied()) < kDecodeError);
        }
    }
}

TEST("tiles of rows and of ranks with tails, and sums over d_in in parts") {
    for (const int32_t rows : {16, 63, 64, 65, 130}) {
        for (const int32_t ranks : {1, 31, 33, 70}) {
            CudaProblem problem(one_sequence(rows, {ranks, 2}, 72, 136), DType::bfloat16, DType::bfloat16);
            CHECK(problem.error_of(problem.applied()) < kPrefillError);
        }
    }
    for (const int64_t d_in : {248, 256, 264, 1024, 1536}) {
        CudaProblem problem(one_sequence(17, {4}, d_in, 72), DType::float32, DType::float32);
        CHECK(problem.error_of(problem.applied()) < kPrefillError);
    }
}

TEST("partial sums that a launch of their own adds up: the bits that they have without") {
    CudaProblem problem(one_sequence(70, {40}, 520, 72), DType::bfloat16, DType::bfloat16);
    const auto before = stored_as(DType::float32, problem.y);
    const auto without = problem.applied_to(before, false);
    CHECK(problem.error_of(numbers_of(DType::float32, without)) < kPrefillError);
    const cuda::TableCapacity large{.rows = 0, .ranks = 40, .sequence_ranks = 520, .tiles = 2};
    CHECK(problem.applied_to(before, false, &large) == without);
}

TEST("sequences that are decoded and prefilled in one call") {
    for (const DType x : kDTypes) {
        CudaProblem problem(mixed(), x, DType::bfloat16);
        CHECK(problem.error_of(problem.applied()) < kPrefillError);
    }
}

TEST("experts that are distinct, uniform, after Zipf, or the same for all") {
    for (const Popularity kind : {Popularity::distinct, Popularity::uniform, Popularity::zipf, Popularity::identical}) {
        for (const int32_t k : {1, 4, 8}) {
            CudaProblem problem(popular(kind, 5, k, 11), DType::bfloat16, DType::bfloat16);
            if (kind == Popularity::identical) {  // the very same records
                for (size_t e = 0; e < problem.records.size(); ++e)
                    problem.records[e] = problem.records[e % static_cast<size_t>(k)];
            }
            CHECK(problem.error_of(problem.applied()) < kDecodeError);
        }
    }
}

TEST("32 experts of rank 16 for each row") {
    CudaProblem problem(popular(Popularity::distinct, 2, 32, 3), DType::float16, DType::bfloat16);
    CHECK(problem.error_of(problem.applied()) < kDecodeError);
}

TEST("y of 16 bits is rounded once") {
    for (const DType dtype : {DType::bfloat16, DType::float16}) {
        for (const int32_t prefill_rows : {kAlwaysDecode, kAlwaysPrefill}) {
            CudaProblem problem(Sizes{}, DType::float32, DType::bfloat16);
            problem.prefill_rows = prefill_rows;
            problem.y = numbers_of(dtype, stored_as(dtype, problem.y));
            const auto exact = problem.applied();
            problem.y_dtype = dtype;
            CHECK(same_bits(problem.applied(), numbers_of(dtype, stored_as(dtype, exact))));
        }
    }
}

TEST("rows that are not listed, and rows without experts, keep every bit") {
    for (const int32_t prefill_rows : {kAlwaysDecode, kAlwaysPrefill}) {
        CudaProblem problem;
        problem.prefill_rows = prefill_rows;
        const auto found = problem.applied();
        for (const size_t row : {4U, 5U})
            CHECK(same_bits(row_of(found, row, problem.sizes.d_out), row_of(problem.y, row, problem.sizes.d_out)));
    }
}

TEST("no run differs from another in a bit") {
    for (const Sizes& sizes : {mixed(), one_sequence(3, {70}, 264, 200)}) {
        CudaProblem problem(sizes, DType::float32, DType::bfloat16);
        const auto first = problem.applied();
        for (int run = 0; run < 3; ++run)
            CHECK(same_bits(problem.applied(), first));
    }
}

TEST("a row's bits do not depend on the other sequences") {
    CudaProblem all(mixed(), DType::bfloat16, DType::bfloat16);
    const auto together = all.applied();
    for (const int32_t sequence : {0, 2, 3}) {
        CudaProblem alone(all);
        std::erase_if(alone.sizes.row_index,
                      [&, i = size_t{0}](int32_t) mutable { return all.sizes.row_sequence[i++] != sequence; });
        std::erase_if(alone.sizes.row_sequence, [&](int32_t s) { return s != sequence; });
        const auto found = alone.applied();
        for (const int32_t row : alone.sizes.row_index) {
            const auto at = static_cast<size_t>(row);
            CHECK(same_bits(row_of(found, at, all.sizes.d_out), row_of(together, at, all.sizes.d_out)));
        }
    }
}

TEST("one launch or two, tables just right or too large: the same bits") {
    CudaProblem problem(Sizes{.d_in = 136, .d_out = 200}, DType::bfloat16, DType::float16);
    const auto before = stored_as(DType::float32, problem.y);
    const auto fused = problem.applied_to(before, false);
    const cuda::TableCapacity large{.rows = 9, .ranks = 200, .sequence_ranks = cuda::kPrefillRows * 10, .tiles = 2};
    CHECK(problem.applied_to(before, false, &large) == fused);
}

TEST("waves of experts accumulate: the bits of one call where rows are decoded, nearly so where they are prefilled") {
    for (const int32_t prefill_rows : {kAlwaysDecode, kAlwaysPrefill}) {
        CudaProblem problem(one_sequence(5, {3, 40, 1, 9}, 264, 72), DType::float32, DType::bfloat16);
        problem.prefill_rows = prefill_rows;
        const auto expected = problem.applied();
        std::vector<std::byte> sum = stored_as(DType::float32, std::vector<float>(problem.y.size()));
        for (const auto& [from, to] : {std::pair{0U, 1U}, {1U, 3U}, {3U, 4U}}) {
            CudaProblem wave(problem);
            const auto part = [from = from, to = to](auto& values) {
                values.erase(values.begin() + to, values.end());
                values.erase(values.begin(), values.begin() + from);
            };
            part(wave.sizes.rank);
            part(wave.records);
            part(wave.base);
            part(wave.weight);
            wave.sizes.indptr = {0, static_cast<int32_t>(to - from)};
            sum = wave.applied_to(sum, true);
        }
        std::vector<float> found = numbers_of(DType::float32, sum);
        for (size_t i = 0; i < found.size(); ++i)
            found[i] = problem.y[i] + found[i];
        if (prefill_rows == kAlwaysDecode) CHECK(same_bits(found, expected));
        CHECK(problem.error_of(found) < bound(problem));
    }
}

TEST("a captured graph applies whatever route the tables hold when it runs") {
    CudaProblem first(Sizes{.d_in = 136, .d_out = 72}, DType::bfloat16, DType::bfloat16);
    CudaProblem second(first);
    second.sizes.row_index = {2, 5};
    second.sizes.row_sequence = {1, 2};
    const cuda::TableCapacity capacity{.rows = 8, .ranks = 40, .sequence_ranks = 100, .tiles = 1};
    std::vector<DeviceBytes> records;
    std::vector<int64_t> addresses;
    for (const Values& record : first.records) {
        records.emplace_back(record.stored);
        addresses.push_back(reinterpret_cast<int64_t>(records.back().data()));
    }
    const auto rows_of = [&](const CudaProblem& problem) {
        RoutedRows::Tables tables = problem.tables();
        tables.expert_base = addresses;
        return RoutedRows(tables);
    };
    const RoutedRows rows = rows_of(first);
    DeviceBytes tables(first.written(rows, capacity)), y(4 * first.y.size());
    const DeviceBytes x(first.x.stored), workspace(cuda::workspace_bytes(capacity, first.sizes.d_in));
    const Stream stream;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    succeed(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal));
    cuda::apply_experts(first.arguments(rows, capacity, tables, x, y, workspace, false), 0, stream.get());
    succeed(cudaStreamEndCapture(stream.get(), &graph));
    succeed(cudaGraphInstantiate(&executable, graph, 0));
    for (CudaProblem* problem : {&first, &second, &first}) {
        tables.write(problem->written(rows_of(*problem), capacity));
        y.write(stored_as(DType::float32, problem->y));
        succeed(cudaGraphLaunch(executable, stream.get()));
        stream.finish();
        CHECK(same_bits(numbers_of(DType::float32, y.read()), problem->applied()));
    }
    succeed(cudaGraphExecDestroy(executable));
    succeed(cudaGraphDestroy(graph));
}

TEST("tables that are too small are refused") {
    const CudaProblem problem;
    const RoutedRows rows(problem.tables());
    const cuda::TableCapacity exact = cuda::capacity_of(rows);
    std::vector<std::byte> bytes(cuda::table_bytes(exact));
    cuda::write_tables(rows, exact, bytes);
    const auto refused = [&](auto change) {
        cuda::TableCapacity capacity = exact;
        change(capacity);
        CHECK_THROWS(SchemaError, cuda::write_tables(rows, capacity, bytes));
    };
    refused([](auto& c) { --c.rows; });
    refused([](auto& c) { --c.ranks; });
    refused([](auto& c) { --c.sequence_ranks; });
    CHECK_THROWS(SchemaError, cuda::write_tables(rows, exact, bytes, kAlwaysPrefill));
    CHECK_THROWS(SchemaError, cuda::write_tables(rows, exact, std::span(bytes).first(bytes.size() - 1)));
}

TEST("arguments that don't fit are refused before anything is enqueued") {
    CudaProblem problem;
    const RoutedRows rows(problem.tables());
    const cuda::TableCapacity capacity = cuda::capacity_of(rows);
    const DeviceBytes tables(problem.written(rows, capacity)), x(problem.x.stored);
    const DeviceBytes y(stored_as(DType::float32, problem.y));
    const DeviceBytes workspace(cuda::workspace_bytes(capacity, problem.sizes.d_in));
    const Stream stream;
    const auto refused = [&](auto change) {
        cuda::ApplyArguments arguments = problem.arguments(rows, capacity, tables, x, y, workspace, false);
        change(arguments);
        CHECK_THROWS(SchemaError, cuda::apply_experts(arguments, 0, stream.get()));
    };
    refused([](auto& a) { a.x.rows = 6; });
    refused([](auto& a) { a.x.columns = 20; });
    refused([](auto& a) { a.y.columns = 36; });
    refused([](auto& a) { a.y.stride = 8; });
    refused([](auto& a) { a.last_row = 7; });
    refused([](auto& a) { a.b_offset += 2; });
    refused([](auto& a) { a.highest_rank = 100; });
    refused([](auto& a) { a.x.data += 8; });
    refused([](auto& a) { a.y.data += 4; });
    refused([](auto& a) { a.x.stride = 26; });
    refused([](auto& a) { a.tables += 16; });
    refused([](auto& a) { a.workspace = a.workspace.first(a.workspace.size() - 4); });
    refused([](auto& a) {
        a.y.dtype = DType::bfloat16;
        a.accumulate = true;
    });
    stream.finish();
    CHECK(same_bits(numbers_of(DType::float32, y.read()), problem.y));
}

int main() {
    return run();
}

// From shards to answers, with the shapes that the real model has: records are fetched into slots of a CUDA device, the
// kernels apply them to prompts and to the tokens after them, and slots are filled again while kernels are still to
// run. The cpu's cache and kernels say what must come out.
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "cuda_problem.h"
#include "device/cuda/cuda_device.h"
#include "io/reader.h"
#include "kernels/apply.h"
#include "runtime/expert_cache.h"
#include "shard_file.h"
#include "standin.h"
#include "streams_for_tests.h"

using namespace mome;
using namespace mome::test;

namespace {

// SmolLM2-135M, down_proj of three layers, rank 4: the default of `mome memorize`.
constexpr int64_t kIn = 1536, kOut = 576, kRank = 4, kLayers = 3, kExperts = 10;

struct Store {
    RecordLayout layout = RecordLayout::make(std::vector<ModuleShape>(kLayers, {kIn, kOut}), kRank, DType::bfloat16);
    RecordFormat format{
        .record_bytes = layout.record_bytes, .payload_bytes = layout.payload_bytes, .rank = kRank, .schema_crc = 77};
    TemporaryFolder folder;
    std::unique_ptr<ShardFile> file;
    std::shared_ptr<ShardSet> shards;

    Store() {
        std::map<size_t, Buffer> records;
        std::mt19937 random(5);
        std::normal_distribution<float> normal(0, 0.05F);
        for (size_t expert = 0; expert < kExperts; ++expert) {
            Buffer record = make_record(format, expert, 1, static_cast<uint32_t>(1 + expert % kRank));
            std::vector<float> values(static_cast<size_t>(format.payload_bytes) / 2);
            for (float& value : values)
                value = normal(random);
            const auto stored = stored_as(DType::bfloat16, values);
            std::memcpy(record.data(), stored.data(), stored.size());
            seal_record(record);
            records[expert] = std::move(record);
        }
        file = std::make_unique<ShardFile>(folder, 0, make_shard(records, kExperts));
        const std::vector<ShardSource> sources{file->source()};
        shards = std::make_shared<ShardSet>(
            format, kExperts, Verify::record, sources,
            std::vector<ExpertRun>{{.row = 0, .id = 0, .group_id = 1, .groups = 1, .per_group = kExperts}}, nullptr,
            Access::buffered);
    }
};

// One forward pass of two sequences for one adapted layer.
struct Pass {
    std::vector<int32_t> row_index, row_sequence;
    int64_t rows;
    size_t layer;
    Values x;
    std::vector<float> y;

    Pass(int32_t first_rows, int32_t second_rows, size_t layer_, std::mt19937& random)
        : rows(first_rows + second_rows),
          layer(layer_),
          x(static_cast<size_t>(rows * kIn), DType::bfloat16, random),
          y(Values(static_cast<size_t>(rows * kOut), DType::float32, random).numbers) {
        for (int32_t row = 0; row < rows; ++row) {
            row_index.push_back(row);
            row_sequence.push_back(row < first_rows ? 0 : 1);
        }
    }

    RoutedRows::Tables tables(const Lease& lease) const {
        return {.row_index = row_index,
                .row_sequence = row_sequence,
                .expert_indptr = lease.indptr,
                .expert_base = lease.base,
                .expert_rank = lease.rank,
                .expert_weight = lease.weight};
    }
    Matrix matrix_x(std::byte* at) const {
        return {.data = at, .dtype = DType::bfloat16, .rows = rows, .columns = kIn, .stride = kIn};
    }
    Matrix matrix_y(std::byte* at) const {
        return {.data = at, .dtype = DType::float32, .rows = rows, .columns = kOut, .stride = kOut};
    }
};

// What a pass leaves on the device until its kernels are done.
struct OnDevice {
    DeviceBytes x, y, tables, workspace;
};

OnDevice enqueue(const Store& store, const Pass& pass, const Lease& lease, cudaStream_t stream) {
    const RoutedRows rows(pass.tables(lease));
    const cuda::TableCapacity capacity = cuda::capacity_of(rows);
    std::vector<std::byte> tables(cuda::table_bytes(capacity));
    cuda::write_tables(rows, capacity, tables);
    OnDevice data{.x = DeviceBytes(pass.x.stored),
                  .y = DeviceBytes(stored_as(DType::float32, pass.y)),
                  .tables = DeviceBytes(tables),
                  .workspace = DeviceBytes(cuda::workspace_bytes(capacity, kIn))};
    const Section& section = store.layout.sections[pass.layer];
    cuda::apply_experts({.y = pass.matrix_y(data.y.data()),
                         .x = pass.matrix_x(data.x.data()),
                         .tables = data.tables.data(),
                         .capacity = capacity,
                         .last_row = rows.last_row(),
                         .highest_rank = rows.highest_rank(),
                         .workspace = {data.workspace.data(), data.workspace.size()},
                         .a_offset = section.a_offset,
                         .b_offset = section.b_offset,
                         .alpha = 4.0F,
                         .weight_dtype = DType::bfloat16},
                        0, stream);
    return data;
}

std::vector<float> on_cpu(const Store& store, const Pass& pass, const Lease& lease) {
    const RoutedRows rows(pass.tables(lease));
    std::vector<float> y = pass.y;
    std::vector<std::byte> x = pass.x.stored;
    const Section& section = store.layout.sections[pass.layer];
    apply_experts({.y = pass.matrix_y(reinterpret_cast<std::byte*>(y.data())),
                   .x = pass.matrix_x(x.data()),
                   .rows = rows,
                   .a_offset = section.a_offset,
                   .b_offset = section.b_offset,
                   .alpha = 4.0F,
                   .weight_dtype = DType::bfloat16},
                  best_isa());
    return y;
}

double largest_difference(const std::vector<float>& one, const std::vector<float>& other) {
    double most = 0;
    for (size_t i = 0; i < one.size(); ++i)
        most = std::max(most, std::abs(double{one[i]} - double{other[i]}));
    return most;
}

}  // namespace

TEST("questions are answered as on the cpu, while slots are filled for the next one") {
    standin::reset(4);
    {
        const Store store;
        const auto reference = make_mapped_cache(store.shards);
        const auto cache = make_slot_cache(store.shards, make_cuda_device(0), make_pread_reader(2),
                                           {.slots = 4, .policy = "s3fifo", .timeout = std::chrono::seconds(60)});
        // Of two sequences: their experts. Four slots serve one question at a time, and none of the next one's.
        const std::vector<std::vector<int64_t>> questions{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 0, 5}};
        const std::vector<int64_t> counts{1, 3};
        const std::vector<float> weights{1.0F, 0.5F, 0.25F, 0.25F};
        std::mt19937 random(9);
        const Stream stream;
        std::vector<OnDevice> under_way;
        std::vector<std::vector<float>> expected;
        for (const std::vector<int64_t>& question : questions) {
            const RouteView route{.counts = counts, .ids = question, .weights = weights};
            cache->prefetch(question);
            const auto lease = cache->acquire(route), mapped = reference->acquire(route);
            for (const auto& [first, second] : {std::pair{18, 5}, {1, 1}}) {  // the prompts; a token after them
                for (size_t layer = 0; layer < kLayers; ++layer) {
                    const Pass pass(first, second, layer, random);
                    under_way.push_back(enqueue(store, pass, *lease, stream.get()));
                    expected.push_back(on_cpu(store, pass, *mapped));
                }
            }
            lease->release(reinterpret_cast<uintptr_t>(stream.get()));  // before its kernels have run
        }
        stream.finish();
        for (size_t i = 0; i < expected.size(); ++i)
            CHECK(largest_difference(numbers_of(DType::float32, under_way[i].y.read()), expected[i]) < 2e-5);
        CHECK(cache->statistics().evictions >= 4);
    }
    CHECK(standin::violations().empty());
    CHECK(standin::live() == standin::Live{});
}

int main() {
    return run();
}

// A program that has mome_store in it, without Python: opens a store, leases the experts of two sequences and applies
// them to the input of one module.
//
//   embed STORE BYTES MODULE GROUP[,GROUP...] GROUP[,GROUP...]
//
// BYTES is the cache's budget. Prints what it did and the first values of each row; errors go to stderr,
// with exit status 1.
#include <charconv>
#include <cstdio>
#include <exception>
#include <numeric>
#include <random>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "catalog/snapshot.h"
#include "kernels/apply.h"
#include "runtime/expert_cache.h"

namespace {

constexpr int64_t kSequences = 2;
constexpr int64_t kRowsPerSequence = 2;  // tokens
constexpr int64_t kRows = kSequences * kRowsPerSequence;

int64_t number(const std::string& text) {
    int64_t value = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem != std::errc() || end != text.data() + text.size() || value < 0) {
        throw std::invalid_argument("'" + text + "' is no number");
    }
    return value;
}

// The experts of groups given as "1,5,7", one group after the other.
std::vector<int64_t> experts_of(const mome::Snapshot& snapshot, const std::string& groups) {
    std::vector<int64_t> experts;
    std::istringstream list(groups);
    for (std::string id; std::getline(list, id, ',');) {
        const mome::Group group = snapshot.group(number(id));
        experts.insert(experts.end(), group.expert_ids.begin(), group.expert_ids.end());
    }
    return experts;
}

mome::Matrix matrix(std::vector<float>& values, int64_t columns) {
    return {.data = reinterpret_cast<std::byte*>(values.data()),
            .dtype = mome::DType::float32,
            .rows = kRows,
            .columns = columns,
            .stride = columns};
}

void embed(const std::string& store, int64_t budget, const std::string& module, std::span<char*> groups) {
    // 1. The newest commit: what is live and where. It keeps the shards' files open.
    const auto snapshot = mome::Snapshot::open(store);
    const mome::ExpertSchema& schema = snapshot.schema();
    const mome::Section& section = schema.section(module);
    std::printf("commit %ld: %ld experts, %s %ld -> %ld, rank %ld\n", snapshot.commit(), snapshot.experts(),
                module.c_str(), section.shape.d_in, section.shape.d_out, schema.rank);

    // 2. A cache of as many records as the budget allows. The shards are opened for the kind of reads that was chosen.
    const auto choice = mome::choose_reader("auto", snapshot.first_shard(), snapshot.bytes());
    if (!choice.fallback.empty()) std::fprintf(stderr, "note: %s\n", choice.fallback.c_str());
    const int64_t slots = budget / schema.layout.record_bytes;
    const auto cache = mome::make_slot_cache(snapshot.open_shards(choice.access), mome::make_device("cpu"),
                                             choice.make(), {.slots = slots});

    // 3. The route of a batch: for each sequence its experts and their weights. A router would tell; here it is given.
    std::vector<int64_t> ids, counts;
    for (const char* list : groups) {
        const auto experts = experts_of(snapshot, list);
        ids.insert(ids.end(), experts.begin(), experts.end());
        counts.push_back(static_cast<int64_t>(experts.size()));
    }
    const std::vector<float> weights(ids.size(), 1.0F);

    // 4. Fetching may begin early, while the layers before this one are computed. The lease then waits for the rest.
    cache->prefetch(ids);
    const auto lease = cache->acquire({.counts = counts, .ids = ids, .weights = weights});

    // 5. y += the experts' share of x, in place. As long as the lease lives, its records stay where they are.
    std::mt19937 random(1);
    std::vector<float> x(static_cast<size_t>(kRows * section.shape.d_in));
    for (float& value : x)
        value = static_cast<float>(random() >> 8) * 0x1p-23F - 1;  // uniform in [-1, 1), the same everywhere
    std::vector<float> y(static_cast<size_t>(kRows * section.shape.d_out), 0.0F);
    const std::vector<int32_t> row_index{0, 1, 2, 3}, row_sequence{0, 0, 1, 1};
    const mome::RoutedRows rows({.row_index = row_index,
                                 .row_sequence = row_sequence,
                                 .expert_indptr = lease->indptr,
                                 .expert_base = lease->base,
                                 .expert_rank = lease->rank,
                                 .expert_weight = lease->weight});
    mome::apply_experts({.y = matrix(y, section.shape.d_out),
                         .x = matrix(x, section.shape.d_in),
                         .rows = rows,
                         .a_offset = section.a_offset,
                         .b_offset = section.b_offset,
                         .alpha = static_cast<float>(schema.alpha),
                         .weight_dtype = schema.dtype},
                        mome::best_isa());

    for (size_t row = 0; row < kRows; ++row) {
        const float* first = y.data() + row * static_cast<size_t>(section.shape.d_out);
        std::printf("row %zu of sequence %d: %.9g %.9g %.9g %.9g ...\n", row, row_sequence[row], first[0], first[1],
                    first[2], first[3]);
    }
    std::printf("sum of all values: %.9g\n", std::accumulate(y.begin(), y.end(), 0.0));
    const mome::CacheStatistics counted = cache->statistics();
    std::printf("cache: %ld of %ld slots held, %ld leased, %ld prefetched, %ld evictions\n", counted.slots_held, slots,
                counted.experts_leased, counted.records_prefetched, counted.evictions);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4 + kSequences) {
        std::fprintf(stderr, "usage: embed STORE BYTES MODULE GROUP[,GROUP...] GROUP[,GROUP...]\n");
        return 1;
    }
    try {
        embed(arguments[1], number(arguments[2]), arguments[3], {arguments + 4, kSequences});
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
    return 0;
}

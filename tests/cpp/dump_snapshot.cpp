// dump_snapshot STORE: prints what a snapshot holds, and how many records had to be fetched to lease all of its
// experts; then the same of the newest commit with the same cache, for each line of input. tests/embedding reads it.
#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "catalog/snapshot.h"
#include "runtime/expert_cache.h"

namespace {

void dump(const mome::Snapshot& snapshot, mome::ExpertCache& cache) {
    const mome::ExpertSchema& schema = snapshot.schema();
    std::printf("commit %ld, key_dim %ld, rows_per_shard %ld\n", snapshot.commit(), snapshot.key_dim(),
                snapshot.rows_per_shard());
    std::printf("rank %ld, dtype %d, alpha %g, crc %u\n", schema.rank, static_cast<int>(schema.dtype), schema.alpha,
                schema.crc);
    for (const auto& [name, shape] : schema.modules) {
        const mome::Section& section = schema.section(name);
        std::printf("module %s %ld %ld %ld %ld\n", name.c_str(), shape.d_in, shape.d_out, section.a_offset,
                    section.b_offset);
    }
    std::vector<int64_t> ids;
    for (const int64_t id : snapshot.group_ids()) {
        const mome::Group group = snapshot.group(id);
        std::printf("group %ld %s %s", id, group.mode == mome::Mode::owned ? "owned" : "pool",
                    group.activation == mome::Activation::answer ? "answer" : "all");
        for (const int64_t expert : group.expert_ids)
            std::printf(" %ld", expert);
        std::printf("\n");
        ids.insert(ids.end(), group.expert_ids.begin(), group.expert_ids.end());
    }
    const std::vector<int64_t> counts{static_cast<int64_t>(ids.size())};
    const std::vector<float> weights(ids.size(), 1.0F);
    cache.acquire({.counts = counts, .ids = ids, .weights = weights});
    std::printf("fetched %ld\n\n", cache.statistics().misses);
    std::fflush(stdout);
}

void follow(const std::string& store) {
    auto snapshot = std::make_unique<mome::Snapshot>(mome::Snapshot::open(store));
    const auto choice = mome::choose_reader("auto", snapshot->first_shard(), snapshot->bytes());
    const auto cache = mome::make_slot_cache(snapshot->open_shards(choice.access), mome::make_device("cpu"),
                                             choice.make(), {.slots = 256});
    dump(*snapshot, *cache);
    for (std::string line; std::getline(std::cin, line);) {
        snapshot = std::make_unique<mome::Snapshot>(mome::Snapshot::open(store));
        cache->refresh(snapshot->open_shards(choice.access, mome::Verify::record, cache->shards().get()));
        dump(*snapshot, *cache);
    }
}

}  // namespace

int main(int, char** arguments) {
    try {
        follow(arguments[1]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
    return 0;
}

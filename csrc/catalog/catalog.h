// What the catalogue of a store says is live as of its newest commit, as plain values. All SQL of the C++ side is here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "catalog/runs.h"
#include "format/layout.h"
#include "format/record.h"

namespace mome {

// The version of the store's format that this code reads (zarr_metadata.py).
constexpr int64_t kFormatVersion = 1;

// What every expert of a store looks like.
struct ExpertSchema {
    struct Module {
        std::string name;
        ModuleShape shape;
    };
    std::vector<Module> modules;  // in execution order
    int64_t rank;                 // the most that an expert may have
    DType dtype;                  // of the stored weights
    double alpha;                 // an expert of rank r acts as alpha/r * B(A x)
    uint32_t crc;                 // of its canonical JSON; every record carries it
    RecordLayout layout;          // layout.sections[i] is where modules[i] lies in a record

    // Throws SchemaError when there is no such module.
    const Section& section(const std::string& module) const;
    RecordFormat record_format() const;
};

struct CatalogState {
    // A shard file of experts.
    struct ShardRow {
        int64_t number;
        int64_t rows;  // present
        int64_t bytes;
        uint32_t index_crc;
    };

    int64_t commit;
    ExpertSchema schema;
    int64_t key_dim;
    int64_t rows_per_shard;
    std::vector<ShardRow> shards;    // numbers ascending
    std::vector<GroupRun> groups;    // ids ascending; these runs and the next are checked (check_runs)
    std::vector<ExpertRun> experts;  // ids ascending
};

// Reads the store at a folder. Checks the format's version, that the catalogue's rows add up to the digest of its
// commit (the keys' rows included, which are not returned), that the runs fit each other and the shards, and that the
// root's zarr.json agrees with the catalogue. Throws StoreNotFoundError, FormatVersionError, DamagedStoreError or
// ReadError.
CatalogState load_state(const std::filesystem::path& store);

}  // namespace mome

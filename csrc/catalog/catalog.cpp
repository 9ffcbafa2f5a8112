// Loads the newest commit from catalog.sqlite and checks it. JSON is left to SQLite, which knows it.
#include "catalog/catalog.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include "catalog/sqlite_access.h"
#include "format/crc32c.h"
#include "format/errors.h"

namespace mome {
namespace {

constexpr const char* kCatalogName = "catalog.sqlite";
constexpr const char* kZarrName = "zarr.json";
constexpr const char* kLive = " WHERE created <= ?1 AND (retired IS NULL OR retired > ?1) ";
constexpr int64_t kExpertsArray = 0;
constexpr int64_t kMaxRowsPerShard = 1 << 20;  // expert_store.py

uint32_t crc_of(std::string_view text) {
    return crc32c(std::as_bytes(std::span(text)));
}

// The sum modulo 2^64 of the hashes of a table's rows (checksum.py, rows_digest): a row that was changed, lost or
// brought back shows in it.
class RowsDigest {
  public:
    explicit RowsDigest(std::string_view table) : start_(crc_of(table)) {}

    void add(std::span<const int64_t> row) {
        uint64_t hash = start_;
        for (const int64_t value : row)
            hash = mix(hash * 0x9E3779B97F4A7C15U + static_cast<uint64_t>(value));
        sum_ += hash;
    }
    uint64_t sum() const { return sum_; }

  private:
    // The finaliser of splitmix64 (Steele, Lea and Flood 2014).
    static uint64_t mix(uint64_t hash) {
        hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9U;
        hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EBU;
        return hash ^ (hash >> 31);
    }

    uint64_t start_;
    uint64_t sum_ = 0;
};

struct Newest {
    int64_t commit;
    uint64_t digest;      // of all rows that are live as of it
    uint64_t own_digest;  // of its own row
};

// Parts of a JSON document, which SQLite takes apart.
class Json {
  public:
    // `file` is named when the document is not what it should be.
    Json(const Connection& connection, std::string_view document, std::string file)
        : connection_(&connection), document_(document), file_(std::move(file)) {
        if (select("SELECT json_valid(?1)").integer(0) != 1) throw damaged("not JSON");
    }

    // A row of a query whose parameter 1 is the document; it has one.
    Statement select(const char* sql) const {
        Statement statement(*connection_, sql);
        statement.bind(1, document_);
        if (!statement.step()) throw damaged("a value is missing");
        return statement;
    }

    DamagedStoreError damaged(const std::string& problem) const { return {file_, std::nullopt, std::nullopt, problem}; }

    const Connection& connection() const { return *connection_; }
    std::string_view document() const { return document_; }

  private:
    const Connection* connection_;
    std::string_view document_;
    std::string file_;
};

// `format`: the value of that name as JSON, in one row and column; NULL when there is none.
void check_format(const std::filesystem::path& file, const Statement& format) {
    const std::string found = format.null(0) ? "(none)" : format.text(0);
    if (found != std::to_string(kFormatVersion)) throw FormatVersionError(file.string(), found, kFormatVersion);
}

// nullopt: there is no such file.
std::optional<std::string> content_of(const std::filesystem::path& path) {
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    if (!file && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
    if (!file) throw ReadError(path.string(), 0, errno);
    std::string content;
    std::array<char, 4096> part;
    while (file) {
        file.read(part.data(), part.size());
        content.append(part.data(), static_cast<size_t>(file.gcount()));
    }
    if (file.bad()) throw ReadError(path.string(), static_cast<int64_t>(content.size()), errno);
    return content;
}

// `attributes.mome` of the root's zarr.json, with `attributes.mome_id` as `id` where there is one: JSON without blanks.
std::string read_attributes(const std::filesystem::path& store) {
    const auto document = content_of(store / kZarrName);
    if (!document) {
        std::error_code ignored;  // what can't be looked at is not there
        if (std::filesystem::exists(store / kCatalogName, ignored)) {
            throw DamagedStoreError((store / kZarrName).string(), std::nullopt, std::nullopt,
                                    "is missing, yet there is a catalogue");
        }
        const bool folder = std::filesystem::is_directory(store, ignored);
        throw StoreNotFoundError(store.string() + ": no expert store is there (" +
                                 (folder ? "the directory has no zarr.json" : "there is no such directory") + ")");
    }
    const Connection connection = Connection::in_memory();
    const Json json(connection, *document, (store / kZarrName).string());
    const Statement attributes = json.select(
        "SELECT CASE WHEN json_type(?1, '$.attributes.mome_id') IS NULL THEN ?1 -> '$.attributes.mome' "
        "ELSE json_set(?1 -> '$.attributes.mome', '$.id', ?1 ->> '$.attributes.mome_id') END");
    const Statement type = json.select("SELECT json_type(?1, '$.attributes.mome')");
    if (type.null(0) || type.text(0) != "object") {
        throw StoreNotFoundError(store.string() +
                                 ": holds Zarr data, but no expert store (zarr.json has no attributes.mome)");
    }
    check_format(store / kZarrName, json.select("SELECT ?1 -> '$.attributes.mome.format'"));
    return attributes.text(0);
}

// The newest commit. Its number stands a second time in the file's header, lest the loss of the last row go unseen.
Newest newest_commit(const Connection& connection, const std::string& file) {
    Statement header(connection, "PRAGMA user_version");
    Statement last(connection,
                   "SELECT id, time_us, next_group, next_expert, next_memory, next_experts_shard, next_keys_shard, "
                   "digest FROM commits ORDER BY id DESC LIMIT 1");
    const bool found = header.step() && last.step();
    if (!found || (last.integer(0) & 0x7FFFFFFF) != header.integer(0)) {
        throw DamagedStoreError(file, std::nullopt, std::nullopt,
                                "the newest commit is not the one that the file's header names");
    }
    RowsDigest own("commits");
    own.add(std::vector{last.integer(0), last.integer(1), last.integer(2), last.integer(3), last.integer(4),
                        last.integer(5), last.integer(6)});
    return {.commit = last.integer(0), .digest = static_cast<uint64_t>(last.integer(7)), .own_digest = own.sum()};
}

// Calls `each` with the digested columns of every row of `table` that is live as of `commit`; returns their digest.
template <size_t kColumns, class Each>
uint64_t for_live(const Connection& connection, const char* table, const char* columns, int64_t commit, Each&& each) {
    const std::string sql = std::string("SELECT ") + columns + " FROM " + table + kLive;
    Statement rows(connection, sql.c_str());
    rows.bind(1, commit);
    RowsDigest digest(table);
    std::array<int64_t, kColumns> row;
    while (rows.step()) {
        for (size_t i = 0; i < kColumns; ++i)
            row[i] = rows.integer(static_cast<int>(i));
        digest.add(row);
        each(row);
    }
    return digest.sum();
}

// The layout, which is the meta value `store`; adds the digest of all meta values to `digest`.
std::string read_meta(const Connection& connection, int64_t commit, uint64_t& digest) {
    Statement rows(connection, (std::string("SELECT name, value FROM meta") + kLive).c_str());
    rows.bind(1, commit);
    RowsDigest sum("meta");
    std::string layout;
    while (rows.step()) {
        std::string value = rows.text(1);
        sum.add(std::vector<int64_t>{crc_of(rows.text(0)), crc_of(value)});
        if (rows.text(0) == "store") layout = std::move(value);
    }
    digest += sum.sum();
    return layout;
}

DType dtype_named(const std::string& name, const Json& json) {
    if (name == "bfloat16") return DType::bfloat16;
    if (name == "float16") return DType::float16;
    if (name == "float32") return DType::float32;
    throw json.damaged("there is no dtype " + name);
}

ExpertSchema schema_of(const Json& layout) {
    const Statement values = layout.select(
        "SELECT ?1 ->> '$.schema.rank', ?1 ->> '$.schema.dtype', "
        "?1 ->> '$.schema.alpha', ?1 -> '$.schema'");
    std::vector<ExpertSchema::Module> modules;
    std::vector<ModuleShape> shapes;
    Statement rows(layout.connection(),
                   "SELECT value ->> 0, value ->> 1, value ->> 2 "
                   "FROM json_each(?1, '$.schema.modules') ORDER BY key");
    rows.bind(1, layout.document());
    while (rows.step()) {
        shapes.push_back({.d_in = rows.integer(1), .d_out = rows.integer(2)});
        modules.push_back({.name = rows.text(0), .shape = shapes.back()});
    }
    const int64_t rank = values.integer(0);
    const DType dtype = dtype_named(values.text(1), layout);
    return {.modules = std::move(modules),
            .rank = rank,
            .dtype = dtype,
            .alpha = values.real(2),
            .crc = crc_of(values.text(3)),  // the layout is canonical JSON, and so is a part of it
            .layout = RecordLayout::make(shapes, rank, dtype)};
}

// Whether the attributes of zarr.json say what the layout says: every value in one is in the other.
bool agree(const Json& layout, std::string_view attributes) {
    Statement differences(layout.connection(), R"(
        WITH a AS (SELECT fullkey, type, atom FROM json_tree(json_remove(?1, '$.rows_per_shard'))),
             b AS (SELECT fullkey, type, atom FROM json_tree(?2))
        SELECT (SELECT count(*) FROM (SELECT * FROM a EXCEPT SELECT * FROM b))
             + (SELECT count(*) FROM (SELECT * FROM b EXCEPT SELECT * FROM a)))");
    differences.bind(1, layout.document());
    differences.bind(2, attributes);
    return differences.step() && differences.integer(0) == 0;
}

// How many rows the shards have.
int64_t rows_of(std::span<const CatalogState::ShardRow> shards, int64_t rows_per_shard, const Json& layout) {
    if (rows_per_shard < 1 || rows_per_shard > kMaxRowsPerShard)
        throw layout.damaged("a shard can't have " + std::to_string(rows_per_shard) + " rows");
    int64_t total = 0;
    for (const CatalogState::ShardRow& shard : shards) {
        if (shard.rows < 0 || shard.rows > rows_per_shard)
            throw layout.damaged("shard " + std::to_string(shard.number) + " of " + std::to_string(rows_per_shard) +
                                 " rows can't have " + std::to_string(shard.rows));
        total += shard.rows;
    }
    return total;
}

CatalogState load(const std::filesystem::path& store, std::string_view attributes, const Connection& connection) {
    const std::string file = (store / kCatalogName).string();
    const Newest newest = newest_commit(connection, file);
    const int64_t at = newest.commit;
    uint64_t digest = newest.own_digest;
    const std::string document = read_meta(connection, at, digest);
    std::vector<CatalogState::ShardRow> shards;
    std::vector<GroupRun> groups;
    std::vector<ExpertRun> experts;
    digest += for_live<6>(
        connection, "shards", "array, number, rows, bytes, index_crc, content_crc", at, [&](const auto& row) {
            if (row[0] != kExpertsArray) return;
            shards.push_back(
                {.number = row[1], .rows = row[2], .bytes = row[3], .index_crc = static_cast<uint32_t>(row[4])});
        });
    digest += for_live<5>(connection, "groups", "id, groups, mode, activation, memory", at, [&](const auto& row) {
        groups.push_back({.id = row[0],
                          .groups = row[1],
                          .mode = static_cast<Mode>(row[2]),
                          .activation = static_cast<Activation>(row[3])});
    });
    digest += for_live<5>(connection, "experts", "row, id, group_id, groups, per_group", at, [&](const auto& row) {
        experts.push_back({.row = row[0], .id = row[1], .group_id = row[2], .groups = row[3], .per_group = row[4]});
    });
    digest += for_live<4>(connection, "keys", "row, group_id, groups, per_group", at, [](const auto&) {});
    if (digest != newest.digest) {
        throw DamagedStoreError(file, std::nullopt, std::nullopt,
                                "the rows of commit " + std::to_string(at) + " do not match its checksum");
    }
    std::ranges::sort(shards, {}, &CatalogState::ShardRow::number);
    std::ranges::sort(groups, {}, &GroupRun::id);
    std::ranges::sort(experts, {}, &ExpertRun::id);

    const Json layout(connection, document, file);
    check_format(file, layout.select("SELECT ?1 -> '$.format'"));
    if (!agree(layout, attributes)) {
        throw DamagedStoreError((store / kZarrName).string(), std::nullopt, std::nullopt,
                                "attributes.mome differs from what the catalogue says");
    }
    const Statement sizes = layout.select("SELECT ?1 ->> '$.key_dim', ?1 ->> '$.rows_per_shard'");
    check_runs(groups, experts, rows_of(shards, sizes.integer(1), layout), file);
    return {.commit = at,
            .schema = schema_of(layout),
            .key_dim = sizes.integer(0),
            .rows_per_shard = sizes.integer(1),
            .shards = std::move(shards),
            .groups = std::move(groups),
            .experts = std::move(experts)};
}

}  // namespace

const Section& ExpertSchema::section(const std::string& module) const {
    const auto at = std::ranges::find(modules, module, &Module::name);
    if (at == modules.end()) throw SchemaError("the store's experts have no module " + module);
    return layout.sections[static_cast<size_t>(at - modules.begin())];
}

RecordFormat ExpertSchema::record_format() const {
    return {.record_bytes = layout.record_bytes,
            .payload_bytes = layout.payload_bytes,
            .rank = layout.rank,
            .schema_crc = crc};
}

CatalogState load_state(const std::filesystem::path& store) {
    const std::string attributes = read_attributes(store);
    std::optional<CatalogState> state;
    read_catalog(store / kCatalogName,
                 [&](const Connection& connection) { state = load(store, attributes, connection); });
    return std::move(*state);
}

}  // namespace mome

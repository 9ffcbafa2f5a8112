#include "kernels/cuda/tables.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>

#include "format/errors.h"

namespace mome::cuda {
namespace {

constexpr size_t kAlignment = 256;

size_t aligned(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

struct Offsets {
    size_t rows, ranks, tiles, row_numbers, end;
};

Offsets offsets_of(const TableCapacity& capacity) {
    const auto bytes = [](int32_t count, size_t each) { return aligned(static_cast<size_t>(count) * each); };
    Offsets at{};
    at.ranks = at.rows + bytes(capacity.rows, sizeof(RowEntry));
    at.tiles = at.ranks + bytes(capacity.ranks, sizeof(RankEntry));
    at.row_numbers = at.tiles + bytes(capacity.tiles, sizeof(TileEntry));
    at.end = at.row_numbers + bytes(capacity.tiles, kTileRows * sizeof(int32_t));
    return at;
}

int32_t narrow(int64_t count, const char* what) {
    if (count > std::numeric_limits<int32_t>::max()) throw SchemaError(std::string("the batch has too many ") + what);
    return static_cast<int32_t>(count);
}

int64_t tiles_of(const RoutedRows::Run& run) {
    return (run.rows + kTileRows - 1) / kTileRows;
}

void require_room(int64_t needed, int64_t room, const char* what) {
    if (needed > room) {
        throw SchemaError("the tables have room for " + std::to_string(room) + ' ' + what + ", the batch has " +
                          std::to_string(needed));
    }
}

}  // namespace

TableCapacity capacity_of(const RoutedRows& rows, int32_t prefill_rows) {
    int64_t decoded = 0, ranks = 0, most = 0, tiles = 0;
    std::unordered_map<size_t, int64_t> by_entry;  // ranks of each sequence, which may have several runs
    for (const RoutedRows::Run& run : rows.runs()) {
        (run.rows < prefill_rows ? decoded : tiles) += run.rows < prefill_rows ? run.rows : tiles_of(run);
        if (by_entry.emplace(run.entry, run.ranks).second) ranks += run.ranks;
        most = std::max(most, run.ranks);
    }
    return {.rows = narrow(decoded, "rows"),
            .ranks = narrow(ranks, "ranks"),
            .sequence_ranks = narrow(most, "ranks"),
            .tiles = narrow(tiles * kTileRows, "rows") / kTileRows};
}

size_t table_bytes(const TableCapacity& capacity) {
    return offsets_of(capacity).end;
}

Tables tables_at(const std::byte* memory, const TableCapacity& capacity) {
    const Offsets at = offsets_of(capacity);
    return {.rows = reinterpret_cast<const RowEntry*>(memory + at.rows),
            .ranks = reinterpret_cast<const RankEntry*>(memory + at.ranks),
            .tiles = reinterpret_cast<const TileEntry*>(memory + at.tiles),
            .row_numbers = reinterpret_cast<const int32_t*>(memory + at.row_numbers)};
}

void write_tables(const RoutedRows& rows, const TableCapacity& capacity, std::span<std::byte> into,
                  int32_t prefill_rows) {
    const TableCapacity needed = capacity_of(rows, prefill_rows);
    require_room(needed.rows, capacity.rows, "decoded rows");
    require_room(needed.ranks, capacity.ranks, "ranks");
    require_room(needed.sequence_ranks, capacity.sequence_ranks, "ranks of a sequence");
    require_room(needed.tiles, capacity.tiles, "tiles of prefilled rows");
    const Offsets at = offsets_of(capacity);
    require_room(static_cast<int64_t>(at.end), static_cast<int64_t>(into.size()), "bytes");
    std::ranges::fill(into.first(at.end), std::byte{0});

    const RoutedRows::Tables& t = rows.tables();
    std::byte* const memory = into.data();
    const auto put = [memory](size_t offset, auto index, const auto& value) {
        std::memcpy(memory + offset + static_cast<size_t>(index) * sizeof(value), &value, sizeof(value));
    };
    int32_t decoded = 0, tile = 0, ranks = 0;
    std::unordered_map<size_t, int32_t> first_ranks;
    for (const RoutedRows::Run& run : rows.runs()) {
        const auto [sequence, is_new] = first_ranks.emplace(run.entry, ranks);
        const auto count = static_cast<int32_t>(run.ranks);
        for (size_t entry = run.entry; is_new && ranks < sequence->second + count; ++entry) {
            for (int32_t index = 0; index < t.expert_rank[entry]; ++index) {
                put(at.ranks, ranks++,
                    RankEntry{.record = reinterpret_cast<const std::byte*>(t.expert_base[entry]),
                              .index = index,
                              .expert_ranks = t.expert_rank[entry],
                              .weight = t.expert_weight[entry],
                              .unused = 0});
            }
        }
        const auto row_numbers = t.row_index.subspan(run.first, static_cast<size_t>(run.rows));
        if (run.rows < prefill_rows) {
            for (const int32_t row : row_numbers) {
                put(at.rows, decoded++,
                    RowEntry{.row = row, .first_rank = sequence->second, .ranks = count, .unused = 0});
            }
            continue;
        }
        for (size_t first = 0; first < row_numbers.size(); first += kTileRows, ++tile) {
            const auto of_tile = row_numbers.subspan(first, std::min<size_t>(kTileRows, row_numbers.size() - first));
            put(at.tiles, tile,
                TileEntry{.first_row = tile * kTileRows,
                          .rows = static_cast<int32_t>(of_tile.size()),
                          .first_rank = sequence->second,
                          .ranks = count});
            for (size_t i = 0; i < of_tile.size(); ++i)
                put(at.row_numbers, static_cast<size_t>(tile) * kTileRows + i, of_tile[i]);
        }
    }
}

}  // namespace mome::cuda

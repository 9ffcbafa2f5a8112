// What the kernels read of a route: tables in device memory, at addresses that stay, in places that are counted by
// capacity. A captured graph holds addresses and grids alone, so filling the tables anew gives it another route.
//
// A sequence whose consecutive listed rows are few is decoded, row by row; one with many is prefilled, in tiles of rows
// on the matrix cores. Which of both depends on the rows of that sequence alone, and so does what a row gets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/routed_rows.h"

namespace mome::cuda {

constexpr int32_t kTileRows = 64;
constexpr int32_t kPrefillRows = 16;  // so many consecutive rows of a sequence are prefilled

// A listed row that is decoded. Its sequence's ranks are those of all its experts in order, one list.
struct alignas(16) RowEntry {
    int32_t row;         // of x and y
    int32_t first_rank;  // in the table of ranks
    int32_t ranks;       // 0: this place of the table is not used
    int32_t unused;
};

// A row of A and of B transposed.
struct alignas(8) RankEntry {
    const std::byte* record;
    int32_t index;         // of the row in its expert
    int32_t expert_ranks;  // of that expert: alpha is divided by it
    float weight;
    int32_t unused;
};

// Up to kTileRows rows of a sequence that is prefilled.
struct alignas(16) TileEntry {
    int32_t first_row;  // in the table of row numbers
    int32_t rows;       // 0: this place of the table is not used
    int32_t first_rank;
    int32_t ranks;
};

struct TableCapacity {
    int32_t rows = 0;            // decoded
    int32_t ranks = 0;           // of all sequences
    int32_t sequence_ranks = 0;  // of one sequence
    int32_t tiles = 0;
};

// What the kernels take. The row numbers of tile i begin at i * kTileRows.
struct Tables {
    const RowEntry* rows;
    const RankEntry* ranks;
    const TileEntry* tiles;
    const int32_t* row_numbers;
};

// The smallest capacity for these rows. Throws SchemaError when 32 bits can't count them.
TableCapacity capacity_of(const RoutedRows& rows, int32_t prefill_rows = kPrefillRows);

// Bytes of the tables, and where they lie in memory that is 256-byte-aligned.
size_t table_bytes(const TableCapacity& capacity);
Tables tables_at(const std::byte* memory, const TableCapacity& capacity);

// Writes the tables, [table_bytes(capacity)], to be copied to the device. Throws SchemaError when they don't fit the
// capacity or `into`.
void write_tables(const RoutedRows& rows, const TableCapacity& capacity, std::span<std::byte> into,
                  int32_t prefill_rows = kPrefillRows);

}  // namespace mome::cuda

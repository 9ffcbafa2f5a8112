// What one instruction set does: a few rows of one sequence times the experts of that sequence. The driver (apply.cpp)
// validates and cuts the work into such tiles.
#pragma once

#include <cstdint>

#include "format/layout.h"

namespace mome {

constexpr int64_t kTileRows = 8;

struct Tile {
    int64_t rows;                   // 1 .. kTileRows
    const std::byte* x[kTileRows];  // rows of d_in values
    std::byte* y[kTileRows];        // rows of d_out values
    DType x_dtype;
    DType y_dtype;
    DType weight_dtype;
    int64_t d_in;
    int64_t d_out;
    int64_t experts;
    const int64_t* base;  // [experts]
    const int32_t* rank;  // [experts]
    const float* weight;  // [experts]
    int64_t a_offset;
    int64_t b_offset;
    float alpha;
    float* inputs;  // scratch [kTileRows, d_in]
    float* deltas;  // scratch [kTileRows, d_out]
};

void apply_tile_scalar(const Tile& tile);
void apply_tile_avx2(const Tile& tile);
void apply_tile_avx512(const Tile& tile);

}  // namespace mome

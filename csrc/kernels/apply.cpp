// Validates the arguments once, then cuts the rows into tiles of one sequence each.
#include "kernels/apply.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "format/errors.h"
#include "kernels/tile.h"

namespace mome {
namespace {

void require(bool holds, const char* what) {
    if (!holds) throw SchemaError(what);
}

void require_in_range(std::span<const int32_t> values, int64_t limit, const char* name) {
    for (const int32_t value : values) {
        if (value < 0 || value >= limit) {
            throw SchemaError(std::string(name) + " " + std::to_string(value) + " is not in 0.." +
                              std::to_string(limit - 1));
        }
    }
}

// A row that is listed twice would be read before its first update is written.
void require_distinct(std::span<const int32_t> rows, int64_t limit) {
    if (std::ranges::is_sorted(rows, std::less_equal<>{})) return;
    std::vector<bool> seen(static_cast<size_t>(limit));
    for (const int32_t row : rows) {
        if (seen[static_cast<size_t>(row)]) {
            throw SchemaError("row_index lists row " + std::to_string(row) + " twice");
        }
        seen[static_cast<size_t>(row)] = true;
    }
}

void validate(const ApplyArguments& a) {
    require(a.x.rows == a.y.rows, "x and y must have the same number of rows");
    require(a.x.columns > 0 && a.x.columns % 8 == 0, "d_in, the last dimension of x, must be a positive multiple of 8");
    require(a.y.columns > 0 && a.y.columns % 8 == 0,
            "d_out, the last dimension of y, must be a positive multiple of 8");
    require(a.y.rows <= 1 || std::abs(a.y.stride) >= a.y.columns, "the rows of y overlap");
    require(a.row_index.size() == a.row_sequence.size(), "row_index and row_sequence must have the same length");
    require(a.expert_base.size() == a.expert_rank.size() && a.expert_base.size() == a.expert_weight.size(),
            "expert_base, expert_rank and expert_weight must have the same length");
    require(!a.expert_indptr.empty() && a.expert_indptr.front() == 0 &&
                a.expert_indptr.back() == static_cast<int64_t>(a.expert_base.size()) &&
                std::ranges::is_sorted(a.expert_indptr),
            "expert_indptr must ascend from 0 to the number of entries");
    require_in_range(a.row_index, a.y.rows, "row_index");
    require_in_range(a.row_sequence, static_cast<int64_t>(a.expert_indptr.size()) - 1, "row_sequence");
    require_distinct(a.row_index, a.y.rows);
    require(a.a_offset >= 0 && a.a_offset % RecordLayout::kSectionAlignment == 0 &&
                a.b_offset % RecordLayout::kSectionAlignment == 0,
            "a_offset and b_offset must be multiples of 256");
    const int64_t row_bytes = a.x.columns * bytes_of(a.weight_dtype);
    for (size_t e = 0; e < a.expert_base.size(); ++e) {
        require(a.expert_base[e] != 0, "expert_base holds a null address");
        require(a.expert_rank[e] >= 1, "expert_rank must be at least 1");
        require(a.expert_rank[e] * row_bytes <= a.b_offset - a.a_offset,
                "A does not fit between a_offset and b_offset");
    }
}

auto tile_function(Isa isa) {
    require(std::ranges::find(available_isas(), isa) != available_isas().end(),
            "this machine does not run the instruction set that was asked for");
#ifdef MOME_X86
    if (isa == Isa::avx512) return apply_tile_avx512;
    if (isa == Isa::avx2) return apply_tile_avx2;
#endif
    return apply_tile_scalar;
}

}  // namespace

void apply_experts(const ApplyArguments& a, Isa isa) {
    validate(a);
    const auto apply_tile = tile_function(isa);
    const int64_t m = static_cast<int64_t>(a.row_index.size());
    const int64_t tile_rows = std::min(m, kTileRows);
    const auto scratch =
        std::make_unique_for_overwrite<float[]>(static_cast<size_t>(tile_rows * (a.x.columns + a.y.columns)));
    Tile tile{};
    tile.x_dtype = a.x.dtype;
    tile.y_dtype = a.y.dtype;
    tile.weight_dtype = a.weight_dtype;
    tile.d_in = a.x.columns;
    tile.d_out = a.y.columns;
    tile.a_offset = a.a_offset;
    tile.b_offset = a.b_offset;
    tile.alpha = a.alpha;
    tile.inputs = scratch.get();
    tile.deltas = scratch.get() + tile_rows * a.x.columns;
    for (int64_t i = 0; i < m; i += tile.rows) {
        const int32_t sequence = a.row_sequence[static_cast<size_t>(i)];
        for (tile.rows = 0; tile.rows < tile_rows && i + tile.rows < m; ++tile.rows) {
            const auto at = static_cast<size_t>(i + tile.rows);
            if (a.row_sequence[at] != sequence) break;
            const int64_t row = a.row_index[at];
            tile.x[tile.rows] = a.x.data + row * a.x.stride * bytes_of(a.x.dtype);
            tile.y[tile.rows] = a.y.data + row * a.y.stride * bytes_of(a.y.dtype);
        }
        const int32_t first = a.expert_indptr[static_cast<size_t>(sequence)];
        tile.experts = a.expert_indptr[static_cast<size_t>(sequence) + 1] - first;
        if (tile.experts == 0) continue;
        tile.base = a.expert_base.data() + first;
        tile.rank = a.expert_rank.data() + first;
        tile.weight = a.expert_weight.data() + first;
        apply_tile(tile);
    }
}

}  // namespace mome

// Computes the record layout from the modules, the rank and the dtype.
#include "format/layout.h"

#include "format/bytes.h"
#include "format/errors.h"

namespace mome {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 48;  // of a record: far more than anybody has, and sums of it stay exact

}  // namespace

RecordLayout RecordLayout::make(std::span<const ModuleShape> modules, int64_t rank, DType dtype) {
    if (modules.empty()) throw SchemaError("a record needs at least one module");
    if (rank < 1) throw SchemaError("rank must be at least 1, not " + std::to_string(rank));
    RecordLayout layout{.sections = {}, .payload_bytes = 0, .record_bytes = 0, .rank = rank, .dtype = dtype};
    int64_t end = 0;
    auto place = [&](int64_t d) {
        if (d < 8 || d % 8 != 0) {
            throw SchemaError("d_in and d_out must be positive multiples of 8, not " + std::to_string(d));
        }
        if (d > kMostBytes / bytes_of(dtype)) throw SchemaError("a module is too wide: " + std::to_string(d));
        const int64_t offset = static_cast<int64_t>(round_up(static_cast<size_t>(end), kSectionAlignment));
        int64_t bytes = 0;
        if (__builtin_mul_overflow(rank, d * bytes_of(dtype), &bytes) || bytes > kMostBytes - offset) {
            throw SchemaError("a record of rank " + std::to_string(rank) + " is too large");
        }
        end = offset + bytes;
        return offset;
    };
    for (const ModuleShape& shape : modules) {
        const int64_t a_offset = place(shape.d_in);
        const int64_t b_offset = place(shape.d_out);
        layout.sections.push_back({.shape = shape, .a_offset = a_offset, .b_offset = b_offset});
    }
    layout.payload_bytes = end;
    layout.record_bytes = static_cast<int64_t>(
        round_up(round_up(static_cast<size_t>(end), kTrailerBytes) + kTrailerBytes, kRecordAlignment));
    return layout;
}

}  // namespace mome

// Where the factors of an expert lie inside its record (docs/format.md, "Record").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mome {

// The codes are part of the interface to Python.
enum class DType : int { bfloat16 = 0, float16 = 1, float32 = 2 };

constexpr int64_t bytes_of(DType dtype) {
    return dtype == DType::float32 ? 4 : 2;
}

// One adapted linear layer: y[d_out] = W x[d_in].
struct ModuleShape {
    int64_t d_in;
    int64_t d_out;
};

// Byte offsets of A [rank, d_in] and of B transposed [rank, d_out], both r-major.
struct Section {
    ModuleShape shape;
    int64_t a_offset;
    int64_t b_offset;
};

struct RecordLayout {
    static constexpr int64_t kSectionAlignment = 256;
    static constexpr int64_t kRecordAlignment = 4096;  // direct I/O and GPUDirect
    static constexpr int64_t kTrailerBytes = 64;

    // Throws SchemaError when a dimension is no positive multiple of 8 or the rank is below 1.
    static RecordLayout make(std::span<const ModuleShape> modules, int64_t rank, DType dtype);

    std::vector<Section> sections;
    int64_t payload_bytes;  // the end of the last section
    int64_t record_bytes;   // payload, padding, trailer
    int64_t rank;           // the most rows that an expert may have
    DType dtype;
};

}  // namespace mome

// Inner products of a few vectors with many: what the gate of a router compares a query with.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/isa.h"

namespace mome {

// Vectors of which each begins `stride` values after the one before: as many as there is room for.
struct Strided {
    std::span<const float> values;
    int64_t stride;
};

// products[q * n + i] = dot(rows[i], vectors[q]), with rows [n, d] one after the other, and m vectors of d values.
//
// On the calling thread alone: the product of a query is done sooner than other threads wake up, and takes a time slice
// longer where they have to wait for a core. Each product is one chain of multiply-adds, the same in any company.
// SchemaError where the sizes don't fit.
void inner_products(std::span<const float> rows, Strided vectors, int64_t d, std::span<float> products, Isa isa);

}  // namespace mome

// Inner products of a few vectors with many: what the gate of a router compares a query with.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/isa.h"

namespace mome {

// products[q * n + i] = dot(rows[i], vectors[q]), with rows [n, d] and vectors [m, d], both one after the other.
//
// On the calling thread alone: the product of a query is done sooner than other threads wake up, and takes a time slice
// longer where they have to wait for a core. Each product is one chain of multiply-adds, the same in any company.
// SchemaError where the sizes don't fit.
void inner_products(std::span<const float> rows, std::span<const float> vectors, int64_t d, std::span<float> products,
                    Isa isa);

}  // namespace mome

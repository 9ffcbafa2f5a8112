// Which instruction sets the kernels are written for, and which of them this machine runs.
#pragma once

#include <span>

namespace mome {

enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, avx512bf16 = 3 };

const char* name_of(Isa isa);

// The sets that this machine runs, slowest first; never empty.
std::span<const Isa> available_isas();

// The fastest of them.
Isa best_isa();

}  // namespace mome

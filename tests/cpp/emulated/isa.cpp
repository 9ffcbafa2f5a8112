// In place of csrc/kernels/isa.cpp: the instruction sets whose intrinsics immintrin.h here stands in for run anywhere.
#include "kernels/isa.h"

#include <array>

namespace mome {

const char* name_of(Isa isa) {
    return isa == Isa::avx512 ? "avx512" : isa == Isa::avx512bf16 ? "avx512bf16" : "scalar";
}

std::span<const Isa> available_isas() {
    static constexpr std::array kAvailable{Isa::scalar, Isa::avx512, Isa::avx512bf16};
    return kAvailable;
}

Isa best_isa() {
    return Isa::avx512bf16;
}

}  // namespace mome

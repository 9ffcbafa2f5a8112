// Asks the processor (and, through it, the operating system) which vector registers are usable.
#include "kernels/isa.h"

#include <vector>

namespace mome {

const char* name_of(Isa isa) {
    switch (isa) {
        case Isa::scalar:
            return "scalar";
        case Isa::avx2:
            return "avx2";
        case Isa::avx512:
            return "avx512";
        case Isa::avx512bf16:
            return "avx512bf16";
    }
    return "unknown";
}

std::span<const Isa> available_isas() {
    static const std::vector<Isa> available = [] {
        std::vector<Isa> found{Isa::scalar};
#ifdef MOME_X86
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
            found.push_back(Isa::avx2);
            if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
                found.push_back(Isa::avx512);
                if (__builtin_cpu_supports("avx512bf16")) found.push_back(Isa::avx512bf16);
            }
        }
#endif
        return found;
    }();
    return available;
}

Isa best_isa() {
    return available_isas().back();
}

}  // namespace mome

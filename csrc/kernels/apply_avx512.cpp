// The kernels for AVX-512 without its bf16 instructions.
#include "kernels/avx512.h"

namespace mome {

Kernels avx512_kernels() {
    return {shrink<Avx512>, expand<Avx512>, add_to_output<Avx512>, sum<Avx512>};
}

}  // namespace mome

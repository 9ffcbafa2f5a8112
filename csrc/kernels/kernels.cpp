// Picks the kernels of an instruction set.
#include "kernels/kernels.h"

#include <algorithm>
#include <string>

#include "format/errors.h"

namespace mome {

Kernels kernels_of(Isa isa) {
    if (std::ranges::find(available_isas(), isa) == available_isas().end()) {
        throw SchemaError(std::string("this machine does not run the instruction set ") + name_of(isa));
    }
    switch (isa) {
#ifdef MOME_X86
        case Isa::avx512bf16:
            return avx512bf16_kernels();
        case Isa::avx512:
            return avx512_kernels();
        case Isa::avx2:
            return avx2_kernels();
#endif
        default:
            return scalar_kernels();
    }
}

}  // namespace mome

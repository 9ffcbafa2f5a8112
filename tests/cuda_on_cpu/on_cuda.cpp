// The tests of the runtime are about a CUDA device, over the stand-in for its runtime.
#include "check.h"
#include "device/cuda/cuda_device.h"
#include "standin.h"
#include "tested_device.h"

namespace mome::test {

std::shared_ptr<Device> open_device() {
    return make_cuda_device(0);
}

void read_device(std::span<std::byte> to, const std::byte* from) {
    open_device()->read(to, from);
}

void check_device() {
    for (const std::string& violation : standin::violations())
        report("violation", 0, violation);
    CHECK(standin::live() == standin::Live{});
    CHECK(cudaPeekAtLastError() == cudaSuccess);
    static uint64_t seed = 1;
    standin::reset(++seed);
}

}  // namespace mome::test

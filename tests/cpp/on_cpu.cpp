// The tests of the runtime are about the cpu.
#include <cstring>

#include "tested_device.h"

namespace mome::test {

std::shared_ptr<Device> open_device() {
    return make_device("cpu");
}

void read_device(std::span<std::byte> to, const std::byte* from) {
    std::memcpy(to.data(), from, to.size());
}

void check_device() {}

}  // namespace mome::test

// The device that the tests of the runtime are about. The same tests run on several: a program has the one whose source
// it links, on_cpu.cpp here or on_cuda.cpp in tests/cuda_on_cpu.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "device/device.h"

namespace mome::test {

std::shared_ptr<Device> open_device();

// Out of memory of that device.
void read_device(std::span<std::byte> to, const std::byte* from);

// After each test: that it gave everything back.
void check_device();

}  // namespace mome::test

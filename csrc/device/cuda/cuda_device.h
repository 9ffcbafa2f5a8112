// A CUDA device, over the runtime API alone: no kernels, so that any C++ compiler builds it. And what there is to know
// of the devices and the driver of this machine.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"

namespace mome {

struct CudaDeviceInfo {
    int ordinal;
    std::string name;
    std::string pci_bus;  // "0000:17:00.0"
    int compute_major;
    int compute_minor;
    int64_t memory_bytes;
    int64_t memory_free_bytes;  // now
    int64_t l2_bytes;
    int multiprocessors;
    int memory_clock_khz;  // 0: not told
    int memory_bus_bits;
    int copy_engines;
};

// The device "cuda:<ordinal>". It may be used from any thread; each call leaves the thread's current device, its mode
// of stream capture and its last error as they were. Throws DeviceError, which says what to do, when there is no driver
// or too old a one, or no such device.
//
// After a fork the child must not use it: calls there throw DeviceError without touching CUDA, destructors do nothing.
std::unique_ptr<Device> make_cuda_device(int ordinal);

// Throws DeviceError as above, with "cuda" as the device.
std::vector<CudaDeviceInfo> cuda_devices();

// As CUDA counts: 13000 is 13.0. The driver's is the newest that it supports, 0 when there is none.
int cuda_driver_version();
int cuda_runtime_version();

}  // namespace mome

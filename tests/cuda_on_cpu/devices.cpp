// Devices, versions, and the names of errors.
#include <cstdio>
#include <cstring>

#include "state.h"

using namespace standin;

namespace {

bool known(const State& s, int device) {
    return device >= 0 && device < s.devices;
}

size_t used(const State& s, int device) {
    size_t bytes = 0;
    for (const auto& [at, allocation] : s.allocations)
        bytes += allocation->device == device ? allocation->bytes : 0;
    return bytes;
}

struct NamedError {
    cudaError_t error;
    const char* name;
    const char* text;
};

constexpr NamedError kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "the driver is older than the runtime"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no device is there"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "a kernel failed"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "an uncorrectable memory error"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered", "already registered"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered", "not registered"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported", "not permitted in a capture"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated", "the capture was invalidated"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched", "the stream did not begin the capture"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "a stream was not joined"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit", "depends on the legacy stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent", "the event was last recorded in a capture"},
};

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
    for (const NamedError& named : kErrors) {
        if (named.error == error) return named.name;
    }
    return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
    for (const NamedError& named : kErrors) {
        if (named.error == error) return named.text;
    }
    return "unrecognized error code";
}

cudaError_t cudaDriverGetVersion(int* version) {
    return call("cudaDriverGetVersion", kNoDevice, [&](State& s, Lock&) {
        *version = s.driver_version;
        return cudaSuccess;
    });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    return call("cudaRuntimeGetVersion", kNoDevice, [&](State&, Lock&) {
        *version = CUDART_VERSION;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDeviceCount(int* count) {
    return call("cudaGetDeviceCount", kPlain, [&](State& s, Lock&) {
        *count = s.devices;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDevice(int* device) {
    return call("cudaGetDevice", kPlain, [&](State&, Lock&) {
        *device = current_device();
        return cudaSuccess;
    });
}

cudaError_t cudaSetDevice(int device) {
    return call("cudaSetDevice", kPlain, [&](State& s, Lock&) {
        if (!known(s, device)) return cudaErrorInvalidDevice;
        current_device() = device;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    return call("cudaGetDeviceProperties", kPlain, [&](State& s, Lock&) {
        if (!known(s, device)) return cudaErrorInvalidDevice;
        *properties = {};
        std::snprintf(properties->name, sizeof properties->name, "Stand-in %d", device);
        properties->totalGlobalMem = s.device_bytes;
        properties->sharedMemPerBlock = 48 << 10;
        properties->sharedMemPerBlockOptin = 227 << 10;
        properties->sharedMemPerMultiprocessor = 228 << 10;
        properties->reservedSharedMemPerBlock = 1 << 10;
        properties->warpSize = 32;
        properties->maxThreadsPerBlock = 1024;
        properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
        properties->maxThreadsDim[2] = 64;
        properties->maxGridSize[0] = 0x7FFFFFFF;
        properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
        properties->major = s.major;
        properties->minor = s.minor;
        properties->multiProcessorCount = 4;
        properties->pciBusID = 0x10 + device;
        properties->asyncEngineCount = 3;
        properties->unifiedAddressing = 1;
        properties->memoryBusWidth = 5120;
        properties->l2CacheSize = 50 << 20;
        properties->maxThreadsPerMultiProcessor = 2048;
        properties->streamPrioritiesSupported = 1;
        properties->regsPerMultiprocessor = 65536;
        properties->maxBlocksPerMultiProcessor = 32;
        properties->hostRegisterSupported = 1;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    return call("cudaDeviceGetAttribute", kPlain, [&](State& s, Lock&) {
        if (!known(s, device)) return cudaErrorInvalidDevice;
        switch (attribute) {
            case cudaDevAttrMaxThreadsPerBlock:
                *value = 1024;
                break;
            case cudaDevAttrMaxSharedMemoryPerBlock:
                *value = 48 << 10;
                break;
            case cudaDevAttrWarpSize:
                *value = 32;
                break;
            case cudaDevAttrClockRate:
                *value = 1980000;
                break;
            case cudaDevAttrMultiProcessorCount:
                *value = 4;
                break;
            case cudaDevAttrMemoryClockRate:
                *value = 2619000;
                break;
            case cudaDevAttrGlobalMemoryBusWidth:
                *value = 5120;
                break;
            case cudaDevAttrL2CacheSize:
                *value = 50 << 20;
                break;
            case cudaDevAttrMaxThreadsPerMultiProcessor:
                *value = 2048;
                break;
            case cudaDevAttrAsyncEngineCount:
                *value = 3;
                break;
            case cudaDevAttrComputeCapabilityMajor:
                *value = s.major;
                break;
            case cudaDevAttrComputeCapabilityMinor:
                *value = s.minor;
                break;
            case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
                *value = 228 << 10;
                break;
            case cudaDevAttrMaxSharedMemoryPerBlockOptin:
                *value = 227 << 10;
                break;
            default:
                return cudaErrorInvalidValue;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
    return call("cudaDeviceGetPCIBusId", kPlain, [&](State& s, Lock&) {
        if (!known(s, device)) return cudaErrorInvalidDevice;
        if (length < 13) return cudaErrorInvalidValue;
        std::snprintf(id, static_cast<size_t>(length), "0000:%02X:00.0", static_cast<unsigned>(0x10 + device));
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return call("cudaDeviceGetStreamPriorityRange", kPlain, [&](State&, Lock&) {
        *least = 0;
        *greatest = -5;
        return cudaSuccess;
    });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    return call("cudaMemGetInfo", kPlain, [&](State& s, Lock&) {
        if (const cudaError_t error = lost(s, current_device()); error != cudaSuccess) return error;
        *total = s.device_bytes;
        *free = s.device_bytes - used(s, current_device());
        return cudaSuccess;
    });
}

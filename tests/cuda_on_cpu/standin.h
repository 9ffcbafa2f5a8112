// What tests ask of the stand-in for the CUDA runtime, and the rules that it enforces.
//
// Streams are threads with queues, so that what was put into one happens later, after random delays that a seed
// decides. Device memory is inaccessible to the host; only operations that run in a stream reach it, a copy the
// allocation that it is about and a kernel all of its device's. Every allocation lies between pages that nobody may
// touch, ends where the second begins, and is never mapped again once freed.
//
// Beside the errors that CUDA documents, calls that CUDA lets pass although they are wrong, or slow, are violations:
//   - an asynchronous copy from or to host memory that is not pinned as a whole
//   - freeing or unpinning memory while an operation in a stream uses it (CUDA's cudaFree waits; ours must not need it)
//   - freeing what is not, or no longer, allocated; unpinning what is not pinned
//   - a copy whose direction is not that of its pointers, or that leaves its allocation
//   - a stream, event or graph that was destroyed, or of another device
//   - bytes written beside an allocation (seen when it is freed, and by `violations`)
// A violation is counted and described; in strict mode, which is the default, the call fails, too.
//
// An access fault in a running operation loses the device: from then on every call on it returns
// cudaErrorIllegalAddress, what is queued is dropped, and nothing waits for ever. An operation that throws loses it
// with cudaErrorLaunchFailure. What frees or destroys does so all the same, and returns the error.
//
// The legacy default stream (0) waits for the blocking streams of its device and they for it, as in CUDA. The
// per-thread default stream is not there. In a forked child every call returns cudaErrorInitializationError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda_runtime.h"

namespace standin {

// Waits for all streams, forgets everything that is alive, and restores the settings: two devices of 256 MiB, strict,
// delays up to 200 us.
void reset(uint64_t seed = 1);

// Delays of streams that are made from now on.
void set_seed(uint64_t seed);
void set_longest_delay(int64_t microseconds);
void set_strict(bool strict);
void set_devices(int count);           // 0: cudaErrorNoDevice
void set_driver_version(int version);  // 0: no driver; below the runtime's major version: too old
void set_device_memory(size_t bytes);  // of each device
void set_compute_capability(int major, int minor);

// The n-th call from now on, counted from 1, fails with `error`; 0: none does. A call that frees, destroys or waits
// does its work all the same. An error that loses a device loses the one that is current.
void fail_call(int64_t n, cudaError_t error);
// The next call of that name fails so; it loses no device.
void fail_next(const std::string& name, cudaError_t error);
int64_t calls();            // since the last fail_call or reset; not counted: the functions under "Errors"
std::string failed_call();  // the name of the call that fail_call made fail; empty: it did not come to that

void lose_device(int device, cudaError_t error = cudaErrorIllegalAddress);

// What is alive.
struct Live {
    size_t allocations = 0;
    size_t registrations = 0;  // cudaHostRegister
    size_t host_allocations = 0;
    size_t streams = 0;
    size_t events = 0;
    size_t graphs = 0;
    bool operator==(const Live&) const = default;
};
Live live();

// What was wrong since the last reset or call.
std::vector<std::string> violations();

// Whether `access` faults: for tests of what the host must not touch.
bool faults(const std::function<void()>& access);

// The number of calls of a function, by its name, since the last fail_call or reset.
int64_t calls_of(const std::string& name);

}  // namespace standin

// The stand-in for the CUDA runtime: that copies happen later and in order, and that each rule is enforced.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "check.h"
#include "cuda_runtime.h"
#include "standin.h"

using namespace mome::test;

namespace {

// Runs the test on a fresh stand-in, and wants it left with nothing alive and nothing wrong but what the test took
// away.
struct Fresh {
    explicit Fresh(uint64_t seed = 1) { standin::reset(seed); }
    ~Fresh() {
        for (const std::string& violation : standin::violations())
            report("violation", 0, violation);
        CHECK(standin::live() == standin::Live{});
        standin::reset();
    }
};

bool violated(const std::string& part) {
    const auto all = standin::violations();
    return all.size() == 1 && all[0].find(part) != std::string::npos;
}

struct Pinned {
    explicit Pinned(size_t bytes) {
        void* at = nullptr;
        CHECK(cudaHostAlloc(&at, bytes, cudaHostAllocDefault) == cudaSuccess);
        data = static_cast<std::byte*>(at);
    }
    ~Pinned() { cudaFreeHost(data); }
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;
    std::byte* data;
};

struct OnDevice {
    explicit OnDevice(size_t bytes) { CHECK(cudaMalloc(&data, bytes) == cudaSuccess); }
    ~OnDevice() { cudaFree(data); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    std::byte* data = nullptr;
};

struct Stream {
    explicit Stream(unsigned flags = cudaStreamNonBlocking) { cudaStreamCreateWithFlags(&handle, flags); }
    ~Stream() {
        cudaStreamSynchronize(handle);
        cudaStreamDestroy(handle);
    }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    cudaStream_t handle = nullptr;
};

// A gate that a stream stands at until it is opened.
struct Gate {
    std::atomic<bool> open{false};
    void close_in(cudaStream_t stream) {
        cudaLaunchHostFunc(
            stream,
            [](void* at) {
                while (!static_cast<Gate*>(at)->open)
                    std::this_thread::yield();
            },
            this);
    }
};

cudaLaunchConfig_t one_thread(cudaStream_t stream, dim3 grid = 1, dim3 block = 1) {
    return {
        .gridDim = grid, .blockDim = block, .dynamicSmemBytes = 0, .stream = stream, .attrs = nullptr, .numAttrs = 0};
}

void fill(std::byte* memory, size_t bytes, int seed) {
    for (size_t i = 0; i < bytes; ++i)
        memory[i] = static_cast<std::byte>(seed + static_cast<int>(i));
}

void write_byte(std::byte* at, int value) {
    *at = static_cast<std::byte>(value);
}
void count_up(std::atomic<int>* counter) {
    ++*counter;
}
void add_one(int* value) {
    *value += 1;
}
void fail_always() {
    throw std::runtime_error("an assertion in a kernel");
}

}  // namespace

TEST("a copy happens later, in the order of its stream, and its source is read then") {
    const Fresh fresh;
    const OnDevice device(1000);
    const Pinned host(1000), back(1000);
    const Stream stream;
    Gate gate;
    gate.close_in(stream.handle);
    fill(host.data, 1000, 1);
    CHECK(cudaMemcpyAsync(device.data, host.data, 1000, cudaMemcpyHostToDevice, stream.handle) == cudaSuccess);
    CHECK(cudaMemcpyAsync(back.data, device.data, 1000, cudaMemcpyDeviceToHost, stream.handle) == cudaSuccess);
    CHECK(cudaStreamQuery(stream.handle) == cudaErrorNotReady);
    fill(host.data, 1000, 7);  // before the gate opens: this is what arrives
    gate.open = true;
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    CHECK(std::memcmp(back.data, host.data, 1000) == 0);
    CHECK(cudaStreamQuery(stream.handle) == cudaSuccess);
}

TEST("device memory holds garbage at first, is set and copied, and the host can't touch it") {
    const Fresh fresh;
    const OnDevice device(64), other(64);
    std::byte host[64] = {};
    CHECK(reinterpret_cast<uintptr_t>(device.data) % 256 == 0);
    CHECK(cudaMemcpy(host, device.data, 64, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(host[0] == std::byte{0xA5} && host[1] == std::byte{0xFF});
    CHECK(cudaMemset(device.data, 9, 64) == cudaSuccess);
    CHECK(cudaMemcpy(other.data, device.data, 64, cudaMemcpyDeviceToDevice) == cudaSuccess);
    CHECK(cudaMemcpy(host, other.data, 64, cudaMemcpyDefault) == cudaSuccess);
    CHECK(host[63] == std::byte{9});
    CHECK(standin::faults([&] { host[0] = *static_cast<volatile std::byte*>(device.data); }));
    CHECK(standin::faults([&] { *static_cast<volatile std::byte*>(device.data) = std::byte{1}; }));
    CHECK(!standin::faults([&] { host[0] = std::byte{1}; }));
}

TEST("a copy between the device and memory that is not all pinned is refused") {
    const Fresh fresh;
    const OnDevice device(8192);
    const Stream stream;
    std::vector<std::byte> host(3 * 4096);
    const auto copy = [&](size_t bytes) {
        return cudaMemcpyAsync(device.data, host.data(), bytes, cudaMemcpyHostToDevice, stream.handle);
    };
    CHECK(copy(100) == cudaErrorInvalidValue && violated("not pinned"));
    CHECK(cudaMemcpyAsync(host.data(), device.data, 9, cudaMemcpyDeviceToHost, stream.handle) != cudaSuccess);
    CHECK(violated("not pinned"));
    CHECK(cudaHostRegister(host.data(), 4096, cudaHostRegisterDefault) == cudaSuccess);
    CHECK(copy(4096) == cudaSuccess);
    CHECK(copy(4097) == cudaErrorInvalidValue && violated("not pinned"));
    CHECK(cudaHostRegister(host.data() + 100, 10, cudaHostRegisterDefault) == cudaErrorHostMemoryAlreadyRegistered);
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    CHECK(cudaHostUnregister(host.data()) == cudaSuccess);
    CHECK(cudaHostUnregister(host.data()) == cudaErrorHostMemoryNotRegistered && violated("not registered"));
    standin::set_strict(false);  // then as CUDA: the bytes are taken at once
    fill(host.data(), 100, 3);
    CHECK(copy(100) == cudaSuccess && violated("not pinned"));
    fill(host.data(), 100, 4);
    std::byte back[100];
    CHECK(cudaMemcpyAsync(back, device.data, 100, cudaMemcpyDeviceToHost, stream.handle) == cudaSuccess);
    CHECK(back[0] == std::byte{3} && violated("not pinned"));
}

TEST("memory is not freed and not unpinned while a copy uses it") {
    const Fresh fresh;
    const Stream stream;
    std::byte* device = nullptr;
    CHECK(cudaMalloc(&device, 100) == cudaSuccess);
    std::vector<std::byte> host(100);
    CHECK(cudaHostRegister(host.data(), 100, 0) == cudaSuccess);
    Gate gate;
    gate.close_in(stream.handle);
    CHECK(cudaMemcpyAsync(device, host.data(), 100, cudaMemcpyHostToDevice, stream.handle) == cudaSuccess);
    CHECK(cudaFree(device) == cudaErrorInvalidValue && violated("freed while"));
    CHECK(cudaHostUnregister(host.data()) == cudaErrorInvalidValue && violated("given up while"));
    gate.open = true;
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    CHECK(cudaHostUnregister(host.data()) == cudaSuccess && cudaFree(device) == cudaSuccess);
}

TEST("freeing twice, or what is not allocated, is refused") {
    const Fresh fresh;
    std::byte* device = nullptr;
    CHECK(cudaMalloc(&device, 100) == cudaSuccess);
    CHECK(cudaFree(device + 1) == cudaErrorInvalidValue && violated("did not give"));
    CHECK(cudaFree(device) == cudaSuccess && cudaFree(nullptr) == cudaSuccess);
    CHECK(cudaFree(device) == cudaErrorInvalidValue && violated("is freed"));
    int here = 0;
    CHECK(cudaFree(&here) == cudaErrorInvalidValue && violated("did not give"));
    CHECK(cudaFreeHost(&here) == cudaErrorInvalidValue && violated("did not give"));
    std::byte* other = nullptr;
    CHECK(cudaMalloc(&other, 100) == cudaSuccess && other != device);  // an address never comes back
    CHECK(cudaMemcpy(device, other, 10, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue && violated("was freed"));
    CHECK(cudaFree(other) == cudaSuccess);
}

TEST("a copy in the wrong direction, or beyond its allocation, is refused") {
    const Fresh fresh;
    const OnDevice device(100);
    const Pinned host(1000);
    CHECK(cudaMemcpy(host.data, device.data, 10, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(violated("direction"));
    CHECK(cudaMemcpy(device.data, host.data, 10, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(violated("direction"));
    CHECK(cudaMemcpy(device.data + 50, host.data, 51, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(violated("leaves its allocation"));
    CHECK(cudaMemset(device.data, 0, 101) == cudaErrorInvalidValue && violated("leaves its allocation"));
}

TEST("a destroyed stream or event, and one of another device, are refused") {
    const Fresh fresh;
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    CHECK(cudaStreamCreate(&stream) == cudaSuccess && cudaEventCreate(&event) == cudaSuccess);
    CHECK(cudaSetDevice(1) == cudaSuccess);
    const Stream elsewhere;
    CHECK(cudaEventRecord(event, elsewhere.handle) == cudaErrorInvalidResourceHandle && violated("another device"));
    const cudaLaunchConfig_t config = one_thread(stream);
    std::atomic<int> counter{0};
    CHECK(cudaLaunchKernelEx(&config, count_up, &counter) == cudaErrorInvalidResourceHandle);
    CHECK(violated("another device"));
    CHECK(cudaEventRecord(event, stream) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(elsewhere.handle, event) == cudaSuccess);  // which CUDA allows
    CHECK(cudaSetDevice(0) == cudaSuccess);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess && cudaEventDestroy(event) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle && violated("stream that was destroyed"));
    CHECK(cudaStreamDestroy(stream) == cudaErrorInvalidResourceHandle && violated("stream that was destroyed"));
    CHECK(cudaEventQuery(event) == cudaErrorInvalidResourceHandle && violated("event that was destroyed"));
    CHECK(cudaEventDestroy(event) == cudaErrorInvalidResourceHandle && violated("event that was destroyed"));
}

TEST("what is put into a stream is done even when the stream is destroyed at once") {
    const Fresh fresh;
    std::atomic<int> counter{0};
    cudaStream_t stream = nullptr;
    CHECK(cudaStreamCreate(&stream) == cudaSuccess);
    for (int i = 0; i < 20; ++i) {
        const cudaLaunchConfig_t config = one_thread(stream);
        CHECK(cudaLaunchKernelEx(&config, count_up, &counter) == cudaSuccess);
    }
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
    while (counter < 20)
        std::this_thread::yield();
}

TEST("a stream waits for an event of another, an unrecorded event is reached, and a wait is for the record before it") {
    const Fresh fresh;
    const OnDevice device(1);
    const Stream first, second;
    cudaEvent_t event = nullptr;
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
    CHECK(cudaEventQuery(event) == cudaSuccess && cudaEventSynchronize(event) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(second.handle, event) == cudaSuccess);
    CHECK(cudaStreamSynchronize(second.handle) == cudaSuccess);
    Gate gate, later;
    gate.close_in(first.handle);
    CHECK(cudaMemsetAsync(device.data, 1, 1, first.handle) == cudaSuccess);
    CHECK(cudaEventRecord(event, first.handle) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(second.handle, event) == cudaSuccess);
    CHECK(cudaMemsetAsync(device.data, 2, 1, second.handle) == cudaSuccess);
    later.close_in(first.handle);
    CHECK(cudaEventRecord(event, first.handle) == cudaSuccess);  // not what `second` waits for
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    CHECK(cudaStreamQuery(second.handle) == cudaErrorNotReady && cudaEventQuery(event) == cudaErrorNotReady);
    gate.open = true;
    CHECK(cudaStreamSynchronize(second.handle) == cudaSuccess);
    CHECK(cudaEventQuery(event) == cudaErrorNotReady);
    later.open = true;
    CHECK(cudaEventSynchronize(event) == cudaSuccess);
    std::byte value{};
    CHECK(cudaMemcpy(&value, device.data, 1, cudaMemcpyDeviceToHost) == cudaSuccess && value == std::byte{2});
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, event, event) == cudaErrorInvalidResourceHandle);  // it has no times
    CHECK(cudaEventDestroy(event) == cudaSuccess);
}

TEST("events that keep times tell how long it took") {
    const Fresh fresh;
    const Stream stream;
    cudaEvent_t start = nullptr, end = nullptr;
    CHECK(cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess);
    CHECK(cudaEventRecord(start, stream.handle) == cudaSuccess);
    CHECK(cudaLaunchHostFunc(
              stream.handle, [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(3)); }, nullptr) ==
          cudaSuccess);
    CHECK(cudaEventRecord(end, stream.handle) == cudaSuccess && cudaEventSynchronize(end) == cudaSuccess);
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess && milliseconds >= 3);
    CHECK(cudaEventDestroy(start) == cudaSuccess && cudaEventDestroy(end) == cudaSuccess);
}

TEST("without an event two streams run in no order: some seed shows it") {
    std::set<int> seen;
    for (uint64_t seed = 1; seed <= 40 && seen.size() < 2; ++seed) {
        const Fresh fresh(seed);
        standin::set_longest_delay(10'000);  // so much that who is scheduled when does not decide it
        std::atomic<int> last{0};
        {
            const Stream first, second;
            const auto say_one = [](void* to) { static_cast<std::atomic<int>*>(to)->store(1); };
            const auto say_two = [](void* to) { static_cast<std::atomic<int>*>(to)->store(2); };
            CHECK(cudaLaunchHostFunc(first.handle, say_one, &last) == cudaSuccess);
            CHECK(cudaLaunchHostFunc(second.handle, say_two, &last) == cudaSuccess);
        }
        seen.insert(last);
    }
    CHECK(seen == std::set<int>({1, 2}));
}

TEST("the legacy stream and blocking streams wait for each other; non-blocking ones do not") {
    const Fresh fresh;
    const OnDevice device(1);
    const Stream blocking(cudaStreamDefault), free;
    Gate gate;
    gate.close_in(blocking.handle);
    CHECK(cudaMemsetAsync(device.data, 1, 1, nullptr) == cudaSuccess);
    CHECK(cudaMemsetAsync(device.data, 2, 1, blocking.handle) == cudaSuccess);
    std::atomic<int> counter{0};
    const cudaLaunchConfig_t config = one_thread(free.handle);
    CHECK(cudaLaunchKernelEx(&config, count_up, &counter) == cudaSuccess);
    CHECK(cudaStreamSynchronize(free.handle) == cudaSuccess && counter == 1);
    CHECK(cudaStreamQuery(nullptr) == cudaErrorNotReady && cudaStreamQuery(blocking.handle) == cudaErrorNotReady);
    gate.open = true;
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    std::byte value{};
    CHECK(cudaMemcpy(&value, device.data, 1, cudaMemcpyDeviceToHost) == cudaSuccess && value == std::byte{2});
}

TEST("a batch of copies is done as one piece of its stream, and its arguments are checked") {
    const Fresh fresh;
    constexpr size_t kEach = 100, kCount = 10;
    const OnDevice device(kEach * kCount);
    const Pinned host(kEach * kCount), back(kEach * kCount);
    const Stream stream;
    fill(host.data, kEach * kCount, 5);
    std::vector<void*> to;
    std::vector<const void*> from;
    const std::vector<size_t> bytes(kCount, kEach);
    for (size_t i = 0; i < kCount; ++i) {
        to.push_back(device.data + i * kEach);
        from.push_back(host.data + i * kEach);
    }
    cudaMemcpyAttributes attributes{};
    size_t start = 0;
    const auto batch = [&](cudaStream_t where) {
        return cudaMemcpyBatchAsync(to.data(), from.data(), bytes.data(), kCount, &attributes, &start, 1, where);
    };
    CHECK(batch(stream.handle) == cudaErrorInvalidValue);  // no order is said
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    CHECK(batch(nullptr) == cudaErrorInvalidValue);  // not in the legacy stream
    CHECK(batch(stream.handle) == cudaSuccess);
    CHECK(cudaMemcpyAsync(back.data, device.data, kEach * kCount, cudaMemcpyDefault, stream.handle) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    CHECK(std::memcmp(back.data, host.data, kEach * kCount) == 0);
    std::vector<std::byte> pageable(kEach);
    from[3] = pageable.data();
    CHECK(batch(stream.handle) == cudaErrorInvalidValue && violated("not pinned"));
}

TEST("a kernel's arguments are copied at the launch, and every thread runs") {
    const Fresh fresh;
    const OnDevice device(1);
    const Stream stream;
    Gate gate;
    gate.close_in(stream.handle);
    int value = 4;
    const cudaLaunchConfig_t config = one_thread(stream.handle);
    CHECK(cudaLaunchKernelEx(&config, write_byte, device.data, value) == cudaSuccess);
    value = 5;
    std::atomic<int> counter{0};
    const cudaLaunchConfig_t many = one_thread(stream.handle, {2, 3}, {4, 1, 2});
    CHECK(cudaLaunchKernelEx(&many, count_up, &counter) == cudaSuccess);
    gate.open = true;
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess && counter == 48);
    std::byte seen{};
    CHECK(cudaMemcpy(&seen, device.data, 1, cudaMemcpyDeviceToHost) == cudaSuccess && seen == std::byte{4});
}

TEST("a launch beyond the limits is refused") {
    const Fresh fresh;
    const Stream stream;
    std::atomic<int> counter{0};
    const auto launch = [&](dim3 grid, dim3 block, size_t shared) {
        cudaLaunchConfig_t config = one_thread(stream.handle, grid, block);
        config.dynamicSmemBytes = shared;
        return cudaLaunchKernelEx(&config, count_up, &counter);
    };
    CHECK(launch(1, 1024, 0) == cudaSuccess);
    CHECK(launch(1, 1025, 0) == cudaErrorInvalidConfiguration);
    CHECK(launch(1, {32, 33}, 0) == cudaErrorInvalidConfiguration);
    CHECK(launch(1, {1, 1, 65}, 0) == cudaErrorInvalidConfiguration);
    CHECK(launch(0, 1, 0) == cudaErrorInvalidConfiguration);
    CHECK(launch({1, 65536}, 1, 0) == cudaErrorInvalidConfiguration);
    CHECK(launch(1, 1, 48 << 10) == cudaSuccess);
    CHECK(launch(1, 1, (48 << 10) + 1) == cudaErrorInvalidValue);
    CHECK(cudaFuncSetAttribute(count_up, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10) == cudaSuccess);
    CHECK(launch(1, 1, 227 << 10) == cudaSuccess);
    CHECK(launch(1, 1, (227 << 10) + 1) == cudaErrorInvalidValue);
    CHECK(cudaFuncSetAttribute(count_up, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10) != cudaSuccess);
    int blocks = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, count_up, 256, 0) == cudaSuccess && blocks == 8);
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, count_up, 32, 100 << 10) == cudaSuccess &&
          blocks == 2);
}

TEST("a kernel that touches what is freed, or what lies behind an allocation, loses its device and no other") {
    for (const bool behind : {false, true}) {
        const Fresh fresh;
        std::byte* device = nullptr;
        CHECK(cudaMalloc(&device, 4096) == cudaSuccess);
        std::byte* kept = nullptr;
        CHECK(cudaMalloc(&kept, 4096) == cudaSuccess);
        if (!behind) CHECK(cudaFree(device) == cudaSuccess);
        const Stream stream;
        const cudaLaunchConfig_t config = one_thread(stream.handle);
        CHECK(cudaLaunchKernelEx(&config, write_byte, behind ? device + 4096 : device, 1) == cudaSuccess);
        CHECK(cudaStreamSynchronize(stream.handle) == cudaErrorIllegalAddress);
        CHECK(cudaMemset(kept, 0, 1) == cudaErrorIllegalAddress);
        void* more = nullptr;
        CHECK(cudaMalloc(&more, 1) == cudaErrorIllegalAddress);
        CHECK(cudaLaunchKernelEx(&config, write_byte, kept, 1) == cudaErrorIllegalAddress);
        CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
        CHECK(cudaFree(kept) == cudaErrorIllegalAddress);  // and is gone
        if (behind) CHECK(cudaFree(device) == cudaErrorIllegalAddress);
        CHECK(cudaSetDevice(1) == cudaSuccess);
        const OnDevice fine(10);
        CHECK(cudaMemset(fine.data, 0, 10) == cudaSuccess);
    }
}

TEST("a kernel that throws loses the device; nothing that waits hangs") {
    const Fresh fresh;
    const Stream stream, other;
    cudaEvent_t event = nullptr;
    CHECK(cudaEventCreate(&event) == cudaSuccess);
    Gate gate;
    gate.close_in(stream.handle);
    const cudaLaunchConfig_t config = one_thread(stream.handle);
    CHECK(cudaLaunchKernelEx(&config, fail_always) == cudaSuccess);
    std::atomic<int> counter{0};
    CHECK(cudaLaunchKernelEx(&config, count_up, &counter) == cudaSuccess);
    CHECK(cudaEventRecord(event, stream.handle) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(other.handle, event) == cudaSuccess);
    gate.open = true;
    CHECK(cudaEventSynchronize(event) == cudaErrorLaunchFailure);
    CHECK(cudaStreamSynchronize(other.handle) == cudaErrorLaunchFailure);
    CHECK(counter == 0);
    CHECK(cudaEventDestroy(event) == cudaErrorLaunchFailure);
}

TEST("bytes written beside an allocation are seen, before it is freed and when it is") {
    const Fresh fresh;
    const Stream stream;
    std::byte* device = nullptr;
    CHECK(cudaMalloc(&device, 100) == cudaSuccess);
    const cudaLaunchConfig_t config = one_thread(stream.handle);
    CHECK(cudaLaunchKernelEx(&config, write_byte, device + 100, 1) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    CHECK(violated("100 bytes from the beginning of an allocation of 100"));
    CHECK(cudaFree(device) == cudaSuccess && violated("100 bytes from the beginning"));
    CHECK(cudaMalloc(&device, 100) == cudaSuccess);
    CHECK(cudaLaunchKernelEx(&config, write_byte, device - 1, 1) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    CHECK(cudaFree(device) == cudaSuccess && violated("-1 bytes from"));
}

TEST("a device has so much memory and no more, and which device has what is told") {
    const Fresh fresh;
    standin::set_device_memory(10'000);
    const OnDevice first(6'000);
    void* more = nullptr;
    CHECK(cudaMalloc(&more, 4'001) == cudaErrorMemoryAllocation);
    CHECK(cudaPeekAtLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaSuccess);
    size_t free = 0, total = 0;
    CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess && free == 4'000 && total == 10'000);
    CHECK(cudaSetDevice(1) == cudaSuccess);
    const OnDevice second(10'000);
    cudaPointerAttributes about{};
    CHECK(cudaPointerGetAttributes(&about, second.data + 5) == cudaSuccess);
    CHECK(about.type == cudaMemoryTypeDevice && about.device == 1);
    CHECK(cudaPointerGetAttributes(&about, &free) == cudaSuccess && about.type == cudaMemoryTypeUnregistered);
    const Pinned host(10);
    CHECK(cudaPointerGetAttributes(&about, host.data) == cudaSuccess && about.type == cudaMemoryTypeHost);
}

TEST("no driver, an old driver and no device are told apart, and a device that is not there is refused") {
    const Fresh fresh;
    int count = -1, device = -1;
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 2);
    CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice && cudaGetDevice(&device) == cudaSuccess && device == 0);
    standin::set_devices(0);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
    standin::set_driver_version(12040);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
    standin::set_driver_version(0);
    int version = -1;
    CHECK(cudaDriverGetVersion(&version) == cudaSuccess && version == 0);
    CHECK(cudaRuntimeGetVersion(&version) == cudaSuccess && version == CUDART_VERSION);
}

TEST("the n-th call fails as told; what frees and waits does so all the same") {
    const Fresh fresh;
    void* memory = nullptr;
    standin::fail_call(2, cudaErrorMemoryAllocation);
    CHECK(cudaMalloc(&memory, 1) == cudaSuccess);
    void* other = nullptr;
    CHECK(cudaMalloc(&other, 1) == cudaErrorMemoryAllocation && standin::live().allocations == 1);
    CHECK(standin::failed_call() == "cudaMalloc" && standin::calls_of("cudaMalloc") == 2);
    standin::fail_call(1, cudaErrorUnknown);
    CHECK(cudaFree(memory) == cudaErrorUnknown && standin::live().allocations == 0);
    CHECK(cudaMalloc(&other, 1) == cudaErrorUnknown);  // which loses the device
    CHECK(cudaSetDevice(1) == cudaSuccess);
    standin::fail_next("cudaMalloc", cudaErrorMemoryAllocation);
    CHECK(cudaSetDevice(1) == cudaSuccess && cudaMalloc(&other, 1) == cudaErrorMemoryAllocation);
    CHECK(cudaMalloc(&other, 1) == cudaSuccess && cudaFree(other) == cudaSuccess);
}

TEST("what is alive is counted by kind") {
    const Fresh fresh;
    {
        const OnDevice device(1);
        const Pinned pinned(1);
        const Stream stream;
        cudaEvent_t event = nullptr;
        CHECK(cudaEventCreate(&event) == cudaSuccess);
        std::vector<std::byte> memory(10);
        CHECK(cudaHostRegister(memory.data(), 10, 0) == cudaSuccess);
        CHECK(standin::live() ==
              (standin::Live{.allocations = 1, .registrations = 1, .host_allocations = 1, .streams = 1, .events = 1}));
        CHECK(cudaHostUnregister(memory.data()) == cudaSuccess && cudaEventDestroy(event) == cudaSuccess);
    }
    CHECK(standin::live() == standin::Live{});
}

TEST("a captured stream does nothing until its graph is launched, as often as that is") {
    const Fresh fresh;
    int* value = nullptr;
    CHECK(cudaMalloc(&value, sizeof *value) == cudaSuccess);
    const Pinned host(sizeof(int));
    const Stream stream, fork;
    cudaEvent_t event = nullptr;
    CHECK(cudaEventCreate(&event) == cudaSuccess);
    CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeGlobal) == cudaSuccess);
    cudaStreamCaptureStatus status{};
    CHECK(cudaStreamIsCapturing(stream.handle, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive);
    cudaLaunchConfig_t config = one_thread(stream.handle);
    CHECK(cudaLaunchKernelEx(&config, add_one, value) == cudaSuccess);
    CHECK(cudaEventRecord(event, stream.handle) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(fork.handle, event) == cudaSuccess);
    config.stream = fork.handle;
    CHECK(cudaLaunchKernelEx(&config, add_one, value) == cudaSuccess);
    CHECK(cudaEventRecord(event, fork.handle) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(stream.handle, event) == cudaSuccess);
    CHECK(cudaMemcpyAsync(host.data, value, sizeof *value, cudaMemcpyDeviceToHost, stream.handle) == cudaSuccess);
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaSuccess);
    CHECK(cudaStreamIsCapturing(fork.handle, &status) == cudaSuccess && status == cudaStreamCaptureStatusNone);
    cudaGraphExec_t exec = nullptr;
    CHECK(cudaGraphInstantiate(&exec, graph) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
    CHECK(cudaMemset(value, 0, sizeof *value) == cudaSuccess);
    for (int i = 0; i < 3; ++i)
        CHECK(cudaGraphLaunch(exec, stream.handle) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    int seen = 0;
    std::memcpy(&seen, host.data, sizeof seen);
    CHECK(seen == 6);
    CHECK(cudaGraphExecDestroy(exec) == cudaSuccess && cudaEventDestroy(event) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, stream.handle) != cudaSuccess && violated("graph that was destroyed"));
    CHECK(cudaFree(value) == cudaSuccess);
}

TEST("allocating, waiting and the legacy stream are refused in a capture, and end it") {
    const Fresh fresh;
    const Stream stream(cudaStreamDefault);
    const OnDevice device(10);
    cudaEvent_t event = nullptr;
    CHECK(cudaEventCreate(&event) == cudaSuccess);
    void* memory = nullptr;
    const std::vector<std::pair<std::function<cudaError_t()>, cudaError_t>> refused{
        {[&] { return cudaMalloc(&memory, 1); }, cudaErrorStreamCaptureUnsupported},
        {[&] { return cudaFree(device.data); }, cudaErrorStreamCaptureUnsupported},
        {[&] { return cudaHostAlloc(&memory, 1, 0); }, cudaErrorStreamCaptureUnsupported},
        {[&] { return cudaStreamSynchronize(stream.handle); }, cudaErrorStreamCaptureUnsupported},
        {[&] { return cudaDeviceSynchronize(); }, cudaErrorStreamCaptureUnsupported},
        {[&] { return cudaEventSynchronize(event); }, cudaErrorStreamCaptureUnsupported},
        {[&] { return cudaMemset(device.data, 0, 1); }, cudaErrorStreamCaptureUnsupported},
        {[&] { return cudaMemsetAsync(device.data, 0, 1, nullptr); }, cudaErrorStreamCaptureImplicit},
    };
    for (const auto& [attempt, error] : refused) {
        CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeGlobal) == cudaSuccess);
        CHECK(attempt() == error);
        CHECK(cudaMemsetAsync(device.data, 0, 1, stream.handle) == cudaErrorStreamCaptureInvalidated);
        cudaGraph_t graph = nullptr;
        CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureInvalidated && graph == nullptr);
    }
    CHECK(cudaEventDestroy(event) == cudaSuccess);
}

TEST("another thread may allocate during a capture when it says so, or the capture is of its own thread") {
    const Fresh fresh;
    const Stream stream;
    for (const auto& [mode, relaxed, allowed] :
         {std::tuple(cudaStreamCaptureModeGlobal, false, false), std::tuple(cudaStreamCaptureModeGlobal, true, true),
          std::tuple(cudaStreamCaptureModeThreadLocal, false, true)}) {
        CHECK(cudaStreamBeginCapture(stream.handle, mode) == cudaSuccess);
        std::thread([relaxed = relaxed, allowed = allowed] {
            cudaStreamCaptureMode exchanged = cudaStreamCaptureModeRelaxed;
            if (relaxed) CHECK(cudaThreadExchangeStreamCaptureMode(&exchanged) == cudaSuccess);
            void* memory = nullptr;
            CHECK((cudaMalloc(&memory, 1) == cudaSuccess) == allowed);
            if (allowed) CHECK(cudaFree(memory) == cudaSuccess);
        }).join();
        cudaGraph_t graph = nullptr;
        CHECK((cudaStreamEndCapture(stream.handle, &graph) == cudaSuccess) == allowed);
        if (allowed) CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    }
}

TEST("a capture that is left by a stream, or waits for what is outside, is no graph") {
    const Fresh fresh;
    const Stream stream, fork;
    const OnDevice device(1);
    cudaEvent_t inside = nullptr, outside = nullptr;
    CHECK(cudaEventCreate(&inside) == cudaSuccess && cudaEventCreate(&outside) == cudaSuccess);
    CHECK(cudaEventRecord(outside, fork.handle) == cudaSuccess);
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(cudaEventRecord(inside, stream.handle) == cudaSuccess);
    CHECK(cudaEventQuery(inside) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    CHECK(cudaEventRecord(inside, stream.handle) == cudaSuccess);
    CHECK(cudaEventQuery(inside) == cudaErrorCapturedEvent);
    CHECK(cudaStreamWaitEvent(fork.handle, inside) == cudaSuccess);
    CHECK(cudaMemsetAsync(device.data, 1, 1, fork.handle) == cudaSuccess);
    CHECK(cudaStreamEndCapture(fork.handle, &graph) == cudaErrorStreamCaptureUnmatched);
    CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureUnjoined);
    CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(stream.handle, outside) == cudaErrorStreamCaptureIsolation);
    CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaEventDestroy(inside) == cudaSuccess && cudaEventDestroy(outside) == cudaSuccess);
}

TEST("a graph that copies from memory no longer pinned loses the device") {
    const Fresh fresh;
    const Stream stream;
    const OnDevice device(10);
    std::vector<std::byte> host(10);
    CHECK(cudaHostRegister(host.data(), 10, 0) == cudaSuccess);
    CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    CHECK(cudaMemcpyAsync(device.data, host.data(), 10, cudaMemcpyHostToDevice, stream.handle) == cudaSuccess);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&exec, graph) == cudaSuccess);
    CHECK(cudaHostUnregister(host.data()) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, stream.handle) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream.handle) == cudaErrorIllegalAddress);
    CHECK(cudaGraphExecDestroy(exec) == cudaErrorIllegalAddress && cudaGraphDestroy(graph) == cudaErrorIllegalAddress);
}

TEST("in a forked child every call is refused at once") {
    const Fresh fresh;
    const Stream stream;
    const pid_t child = fork();
    if (child == 0) {
        int count = 0;
        const bool good = cudaGetDeviceCount(&count) == cudaErrorInitializationError &&
                          cudaStreamSynchronize(stream.handle) == cudaErrorInitializationError;
        _exit(good ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST("the host that touches device memory outside a test's care is killed by it") {
    const Fresh fresh;
    const OnDevice device(10);
    const pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        *static_cast<volatile std::byte*>(device.data) = std::byte{1};
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && !(WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

TEST("operations of one stream run in the order in which several threads put them in") {
    const Fresh fresh;
    const Stream stream, other;
    const OnDevice device(64);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&, i] {
            for (int round = 0; round < 50; ++round) {
                CHECK(cudaMemsetAsync(device.data + 16 * i, round, 16, stream.handle) == cudaSuccess);
                CHECK(cudaStreamQuery(other.handle) == cudaSuccess);
            }
        });
    }
    for (std::thread& thread : threads)
        thread.join();
    std::byte seen[64];
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    CHECK(cudaMemcpy(seen, device.data, 64, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(std::ranges::all_of(seen, [](std::byte byte) { return byte == std::byte{49}; }));
}

int main() {
    return run();
}

// The CUDA device: what it tells, what it leaves as it was, and that it fails with typed errors and gives all back.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "device/cuda/cuda_device.h"
#include "format/errors.h"
#include "standin.h"
#include "streams_for_tests.h"
#include "tested_device.h"

using namespace mome;
using namespace mome::test;

namespace {

constexpr size_t kBytes = 4096;

void fill(std::span<std::byte> memory, int seed) {
    for (size_t i = 0; i < memory.size(); ++i)
        memory[i] = static_cast<std::byte>(seed + static_cast<int>(i / 7));
}

bool says(const DeviceError& error, const char* part) {
    return error.problem.find(part) != std::string::npos;
}

// A device with memory, staging memory and a stream.
struct Opened {
    explicit Opened(int ordinal = 0, size_t bytes = 8 * kBytes)
        : device(make_cuda_device(ordinal)),
          slab(device->allocate(bytes)),
          staging(device->allocate_staging(bytes)),
          stream(device->make_stream()) {}
    Copy copy(size_t at, size_t bytes) const {
        return {.to_device = slab->data() + at, .from_host = staging->data() + at, .bytes = bytes};
    }
    std::vector<std::byte> read(size_t bytes) const {
        std::vector<std::byte> found(bytes);
        device->read(found, slab->data());
        return found;
    }
    std::unique_ptr<Device> device;
    std::unique_ptr<Allocation> slab;
    std::unique_ptr<Allocation> staging;
    std::unique_ptr<CopyStream> stream;
};

}  // namespace

TEST("the devices of the machine and the versions are told") {
    standin::set_compute_capability(8, 0);
    const Opened other(1);
    const std::vector<CudaDeviceInfo> devices = cuda_devices();
    CHECK(devices.size() == 2);
    CHECK(devices[0].ordinal == 0 && devices[1].name == "Stand-in 1" && devices[1].pci_bus == "0000:11:00.0");
    CHECK(devices[0].compute_major == 8 && devices[0].compute_minor == 0);
    CHECK(devices[0].memory_bytes == 256 << 20 && devices[0].memory_free_bytes == devices[0].memory_bytes);
    CHECK(devices[1].memory_free_bytes == devices[1].memory_bytes - static_cast<int64_t>(8 * kBytes));
    CHECK(devices[0].multiprocessors == 4 && devices[0].copy_engines == 3 && devices[0].l2_bytes == 50 << 20);
    CHECK(devices[0].memory_clock_khz == 2619000 && devices[0].memory_bus_bits == 5120);
    CHECK(cuda_driver_version() == 13000 && cuda_runtime_version() == 13000);
    CHECK(other.device->name() == "cuda:1" && !other.device->host_writes());
}

TEST("no driver, an old driver, no device and a device that is not there are told apart, with what to do") {
    CHECK_THROWS(DeviceError, make_cuda_device(2), error.device == "cuda:2" && says(error, "the last is cuda:1"));
    CHECK_THROWS(DeviceError, make_cuda_device(-1), says(error, "no such device"));
    standin::set_devices(0);
    CHECK_THROWS(DeviceError, make_cuda_device(0), says(error, "CUDA_VISIBLE_DEVICES"));
    CHECK_THROWS(DeviceError, cuda_devices(), error.device == "cuda" && says(error, "cudaErrorNoDevice"));
    standin::set_driver_version(11080);
    CHECK_THROWS(DeviceError, make_cuda_device(0), says(error, "up to 11.8") && says(error, "update the driver"));
    standin::set_driver_version(0);
    CHECK_THROWS(DeviceError, make_cuda_device(0), says(error, "no NVIDIA driver"));
    CHECK(cuda_driver_version() == 0);
    CHECK(cudaPeekAtLastError() == cudaSuccess);
}

TEST("memory that is not there is an error that says how much, and nothing is kept of it") {
    standin::set_device_memory(100 * kBytes);
    const auto device = make_cuda_device(0);
    const auto first = device->allocate(60 * kBytes);
    CHECK_THROWS(DeviceMemoryError, device->allocate(41 * kBytes),
                 error.device == "cuda:0" && error.bytes == static_cast<int64_t>(41 * kBytes));
    CHECK(cudaPeekAtLastError() == cudaSuccess);
    CHECK_THROWS(DeviceMemoryError, device->allocate_staging(size_t{1} << 60));
    standin::fail_call(3, cudaErrorMemoryAllocation);  // after two that make the device current
    CHECK_THROWS(DeviceMemoryError, device->allocate_staging(kBytes));
    CHECK(standin::failed_call() == "cudaHostRegister");
    CHECK(standin::live() == (standin::Live{.allocations = 1}));
}

TEST("copies arrive in the order of the calls, one command for those of one call, and an event says when") {
    Opened on;
    fill(on.staging->span(), 3);
    std::vector<Copy> copies;
    for (size_t i = 0; i < 8; ++i)
        copies.push_back(on.copy(i * kBytes, kBytes));
    standin::fail_call(0, cudaSuccess);
    on.stream->copy(copies);
    const auto event = on.stream->record();
    event->wait();
    const auto found = on.read(8 * kBytes);
    CHECK(std::memcmp(found.data(), on.staging->data(), found.size()) == 0);
#if CUDART_VERSION >= 12080
    CHECK(standin::calls_of("cudaMemcpyBatchAsync") == 1 && standin::calls_of("cudaMemcpyAsync") == 0);
#else
    CHECK(standin::calls_of("cudaMemcpyBatchAsync") == 0 && standin::calls_of("cudaMemcpyAsync") == 8);
#endif
    on.stream->copy(std::vector<Copy>{on.copy(0, kBytes)});
    CHECK(standin::calls_of("cudaMemcpyBatchAsync") <= 1 && standin::calls_of("cudaMemcpyAsync") >= 1);
    on.stream->copy({});
    on.stream->drain();
    CHECK(standin::calls_of("cudaStreamSynchronize") == 1);
}

TEST("a copy stream waits for an event of another stream, and the caller does not") {
    ComputeStream compute;
    Opened on;
    Gate gate;
    fill(on.staging->span(), 1);
    on.stream->copy(std::vector<Copy>{on.copy(0, kBytes)});
    on.stream->record()->wait();
    const std::vector<std::byte> before = on.read(kBytes);
    std::atomic<int> wrong{0};
    gate.close(compute);
    compute.launch(compare, static_cast<const std::byte*>(on.slab->data()), before.data(), kBytes, &wrong);
    on.stream->wait(on.device->record(compute.number()));
    fill(on.staging->span(), 9);
    on.stream->copy(std::vector<Copy>{on.copy(0, kBytes)});
    const auto copied = on.stream->record();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // as long as a copy that did not wait would have had
    gate.open();
    copied->wait();
    CHECK(wrong == 0);
    CHECK(std::memcmp(on.read(kBytes).data(), on.staging->data(), kBytes) == 0);
}

TEST("a stream goes only when its copies are done") {
    for (int i = 0; i < 20; ++i) {
        Opened on;
        for (int round = 0; round < 5; ++round)
            on.stream->copy(std::vector<Copy>{on.copy(0, 2 * kBytes)});
        on.stream.reset();  // the staging memory goes at once after it
        on.staging.reset();
    }
}

TEST("every call leaves the thread's current device, its capture mode and its last error as they were") {
    for (const int current : {0, 1}) {
        CHECK(cudaSetDevice(current) == cudaSuccess);
        const auto same = [&] {
            int now = -1;
            auto mode = cudaStreamCaptureModeGlobal;
            const bool kept = cudaGetDevice(&now) == cudaSuccess && now == current &&
                              cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess &&
                              mode == cudaStreamCaptureModeGlobal && cudaPeekAtLastError() == cudaSuccess;
            return kept;
        };
        for (const int ordinal : {0, 1}) {
            auto device = make_cuda_device(ordinal);
            CHECK(same());
            auto slab = device->allocate(kBytes);
            CHECK(same());
            auto staging = device->allocate_staging(kBytes);
            CHECK(same());
            auto stream = device->make_stream();
            CHECK(same());
            stream->copy(std::vector<Copy>{{.to_device = slab->data(), .from_host = staging->data(), .bytes = kBytes}});
            CHECK(same());
            auto event = stream->record();
            CHECK(same());
            stream->wait(event);
            CHECK(same());
            event->wait();
            CHECK(same());
            stream->wait(device->record(0));
            CHECK(same());
            std::vector<std::byte> found(kBytes);
            device->read(found, slab->data());
            CHECK(same());
            stream->drain();
            CHECK(same());
            CHECK_THROWS(DeviceMemoryError, device->allocate(size_t{1} << 40));
            CHECK(same());
            event.reset();
            stream.reset();
            staging.reset();
            slab.reset();
            CHECK(same());
        }
        cuda_devices();
        CHECK(same());
    }
    CHECK(cudaSetDevice(0) == cudaSuccess);
}

TEST("two devices work side by side") {
    ComputeStream compute(1);
    Opened first(0), second(1);
    fill(first.staging->span(), 1);
    fill(second.staging->span(), 2);
    first.stream->copy(std::vector<Copy>{first.copy(0, kBytes)});
    second.stream->wait(second.device->record(compute.number()));
    second.stream->copy(std::vector<Copy>{second.copy(0, kBytes), second.copy(kBytes, kBytes)});
    second.stream->record()->wait();
    first.stream->record()->wait();
    CHECK(std::memcmp(first.read(kBytes).data(), first.staging->data(), kBytes) == 0);
    CHECK(std::memcmp(second.read(kBytes).data(), second.staging->data(), kBytes) == 0);
    CHECK_THROWS(DeviceError, first.device->record(compute.number()), error.device == "cuda:0");
    CHECK(standin::violations().size() == 1);  // which is that
}

TEST("what goes on while a graph is captured does not end the capture, and a captured stream is no point to wait for") {
    ComputeStream compute;
    CHECK(cudaStreamBeginCapture(compute.handle(), cudaStreamCaptureModeGlobal) == cudaSuccess);
    {
        Opened on;
        std::thread([&] {
            on.stream->copy(std::vector<Copy>{on.copy(0, kBytes), on.copy(kBytes, kBytes)});
            on.stream->record()->wait();
            on.device->allocate(kBytes).reset();
        }).join();
        on.stream->copy(std::vector<Copy>{on.copy(0, kBytes)});
        on.stream->record()->wait();
        CHECK_THROWS(DeviceError, on.device->record(compute.number()), says(error, "captured"));
    }
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(compute.handle(), &graph) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

TEST("after the device is lost everything fails with the device's error, and what goes neither hangs nor leaks") {
    Opened on;
    on.stream->copy(std::vector<Copy>{on.copy(0, kBytes)});
    const auto event = on.stream->record();
    standin::lose_device(0);
    CHECK_THROWS(DeviceError, event->wait(), error.device == "cuda:0" && says(error, "cudaErrorIllegalAddress"));
    CHECK_THROWS(DeviceError, on.stream->record());
    CHECK_THROWS(DeviceError, on.stream->wait(event));
    CHECK_THROWS(DeviceError, on.stream->copy(std::vector<Copy>{on.copy(0, kBytes)}));
    CHECK_THROWS(DeviceError, on.stream->copy(std::vector<Copy>{on.copy(0, kBytes), on.copy(kBytes, kBytes)}));
    CHECK_THROWS(DeviceError, on.device->allocate(kBytes));
    CHECK_THROWS(DeviceError, on.device->allocate_staging(kBytes));
    CHECK_THROWS(DeviceError, on.device->make_stream());
    CHECK_THROWS(DeviceError, on.device->record(0));
    CHECK_THROWS(DeviceError, on.read(kBytes));
    on.stream->drain();
}

TEST("in a forked child nothing of CUDA is called, and the device says why it can't be used") {
    Opened on;
    const auto event = on.stream->record();
    event->wait();
    const pid_t child = fork();
    if (child == 0) {
        const int64_t before = standin::calls();
        int refused = 0;
        const auto refuses = [&](const auto& attempt) {
            try {
                attempt();
            } catch (const DeviceError& error) {
                refused += says(error, "forked") ? 1 : 0;
            }
        };
        refuses([&] { on.device->allocate(kBytes); });
        refuses([&] { on.device->allocate_staging(kBytes); });
        refuses([&] { on.device->make_stream(); });
        refuses([&] { on.device->record(0); });
        refuses([&] { on.stream->copy(std::vector<Copy>{on.copy(0, kBytes)}); });
        refuses([&] { on.stream->record(); });
        refuses([&] { event->wait(); });
        on.stream->drain();
        on.stream.reset();
        on.staging.reset();
        on.slab.reset();
        _exit(refused == 7 && standin::calls() == before ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main() {
    return run(check_device);
}

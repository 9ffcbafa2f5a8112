// Memory, copy streams and events of a CUDA device.
#include "device/cuda/cuda_device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "device/cuda/cuda_check.h"
#include "format/errors.h"

namespace mome {
namespace {

using cuda::check;
using cuda::ignore;

// A batch of copies is one call from CUDA 12.8 on, if the driver knows of it, too.
constexpr int kBatchedCopies = 12080;

// Which device, and in which process it was opened: shared by all that belongs to it.
struct Place {
    int ordinal;
    std::string name;
    pid_t process = getpid();
    bool forked() const { return getpid() != process; }
};

void refuse_fork(const Place& place) {
    if (place.forked()) {
        throw DeviceError(place.name,
                          "it was opened before this process was forked, and CUDA does not survive a fork; start "
                          "processes with the 'spawn' method, or open the device in the child");
    }
}

// The device is current while this lives. Meanwhile the thread's calls are not held against a capture that another
// thread has begun: loads go on while somebody captures a graph, and none of what is called here is part of one.
class Current {
  public:
    explicit Current(const Place& place) : Current(place, std::nothrow) {
        try {
            refuse_fork(place);
            check(place.name, "cudaGetDevice", got_);
            check(place.name, "cudaSetDevice", set_);
            check(place.name, "cudaThreadExchangeStreamCaptureMode", exchanged_);
        } catch (...) {
            restore();
            throw;
        }
    }
    // For destructors, which go on whatever fails here. Not in a forked child.
    Current(const Place& place, std::nothrow_t) noexcept {
        if (place.forked()) return;
        got_ = cudaGetDevice(&before_);
        set_ = got_ == cudaSuccess && before_ == place.ordinal ? cudaSuccess : cudaSetDevice(place.ordinal);
        exchanged_ = cudaThreadExchangeStreamCaptureMode(&mode_);
        ordinal_ = place.ordinal;
        ignore(got_);
        ignore(set_);
        ignore(exchanged_);
    }
    ~Current() { restore(); }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

  private:
    void restore() noexcept {
        if (std::exchange(exchanged_, cudaErrorNotReady) == cudaSuccess) {
            ignore(cudaThreadExchangeStreamCaptureMode(&mode_));
        }
        const bool moved = std::exchange(set_, cudaErrorNotReady) == cudaSuccess && got_ == cudaSuccess;
        if (moved && before_ != ordinal_) ignore(cudaSetDevice(before_));
    }

    int ordinal_ = 0;
    int before_ = 0;
    cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
    cudaError_t got_ = cudaErrorNotReady;
    cudaError_t set_ = cudaErrorNotReady;
    cudaError_t exchanged_ = cudaErrorNotReady;
};

std::span<std::byte> bytes_at(void* at, size_t bytes) {
    return {static_cast<std::byte*>(at), bytes};
}

[[noreturn]] void refuse_memory(const Place& place, size_t bytes) {
    ignore(cudaErrorMemoryAllocation);
    throw DeviceMemoryError(place.name, static_cast<int64_t>(bytes));
}

class DeviceMemory final : public Allocation {
  public:
    DeviceMemory(Place place, size_t bytes) : Allocation(allocate(place, bytes)), place_(std::move(place)) {}
    ~DeviceMemory() override {
        if (place_.forked()) return;
        const Current current(place_, std::nothrow);
        ignore(cudaFree(memory_.data()));
    }

  private:
    static std::span<std::byte> allocate(const Place& place, size_t bytes) {
        const Current current(place);
        void* at = nullptr;
        const cudaError_t result = cudaMalloc(&at, bytes);
        if (result == cudaErrorMemoryAllocation) refuse_memory(place, bytes);
        check(place.name, "cudaMalloc", result);
        return bytes_at(at, bytes);
    }
    Place place_;
};

// Pinned memory. It is mapped and touched before it is registered, because cudaHostAlloc of much memory holds a lock of
// the driver for as long as the system takes to find the pages, and every process on the machine waits for that.
class StagingMemory final : public Allocation {
  public:
    StagingMemory(Place place, size_t bytes) : Allocation(allocate(place, bytes)), place_(std::move(place)) {}
    ~StagingMemory() override {
        if (place_.forked()) return;  // it isn't mapped here
        {
            const Current current(place_, std::nothrow);
            ignore(cudaHostUnregister(memory_.data()));
        }
        munmap(memory_.data(), memory_.size());
    }

  private:
    static std::span<std::byte> allocate(const Place& place, size_t bytes) {
        const Current current(place);
        void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) throw DeviceMemoryError("the host", static_cast<int64_t>(bytes));
        const std::span<std::byte> memory = bytes_at(at, bytes);
        madvise(at, bytes, MADV_HUGEPAGE);
        // Else a fork would share the pages until one side writes, and that side would leave the device the old ones.
        madvise(at, bytes, MADV_DONTFORK);
        const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        for (size_t i = 0; i < bytes; i += page)
            memory[i] = std::byte{0};
        const cudaError_t result = cudaHostRegister(at, bytes, cudaHostRegisterPortable);
        if (result == cudaSuccess) return memory;
        munmap(at, bytes);
        if (result == cudaErrorMemoryAllocation) refuse_memory(place, bytes);
        check(place.name, "cudaHostRegister", result);
        return {};
    }
    Place place_;
};

class CudaEvent final : public Event {
  public:
    // At the end of what is in `stream` now. The device must be current.
    CudaEvent(Place place, cudaStream_t stream) : place_(std::move(place)) {
        // A thread that waits sleeps: there is one for all copies, and it may wait long.
        check(place_.name, "cudaEventCreateWithFlags",
              cudaEventCreateWithFlags(&event_, cudaEventDisableTiming | cudaEventBlockingSync));
        const cudaError_t recorded = cudaEventRecord(event_, stream);
        if (recorded != cudaSuccess) ignore(cudaEventDestroy(event_));
        check(place_.name, "cudaEventRecord", recorded);
    }
    ~CudaEvent() override {
        if (place_.forked()) return;
        const Current current(place_, std::nothrow);
        ignore(cudaEventDestroy(event_));
    }
    CudaEvent(const CudaEvent&) = delete;
    CudaEvent& operator=(const CudaEvent&) = delete;

    void wait() override {
        const Current current(place_);
        check(place_.name, "cudaEventSynchronize", cudaEventSynchronize(event_));
    }
    cudaEvent_t handle() const { return event_; }

  private:
    Place place_;
    cudaEvent_t event_ = nullptr;
};

class CudaStream final : public CopyStream {
  public:
    CudaStream(Place place, bool batches) : place_(std::move(place)), batches_(batches) {
        const Current current(place_);
        int least = 0;
        int greatest = 0;
        check(place_.name, "cudaDeviceGetStreamPriorityRange", cudaDeviceGetStreamPriorityRange(&least, &greatest));
        // A batch waits for these copies; what the device computes meanwhile can wait for the copies' commands.
        check(place_.name, "cudaStreamCreateWithPriority",
              cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
    }
    ~CudaStream() override {
        if (place_.forked()) return;
        const Current current(place_, std::nothrow);
        ignore(cudaStreamSynchronize(stream_));
        ignore(cudaStreamDestroy(stream_));
    }
    CudaStream(const CudaStream&) = delete;
    CudaStream& operator=(const CudaStream&) = delete;

    void copy(std::span<const Copy> copies) override {
        const Current current(place_);
#if CUDART_VERSION >= 12080
        if (batches_ && copies.size() > 1) return copy_batch(copies);
#endif
        for (const Copy& each : copies) {
            check(place_.name, "cudaMemcpyAsync",
                  cudaMemcpyAsync(each.to_device, each.from_host, each.bytes, cudaMemcpyHostToDevice, stream_));
        }
    }
    std::shared_ptr<Event> record() override {
        const Current current(place_);
        return std::make_shared<CudaEvent>(place_, stream_);
    }
    void wait(const std::shared_ptr<Event>& event) override {
        const auto& awaited = dynamic_cast<const CudaEvent&>(*event);
        const Current current(place_);
        check(place_.name, "cudaStreamWaitEvent", cudaStreamWaitEvent(stream_, awaited.handle(), cudaEventWaitDefault));
    }
    void drain() noexcept override {
        if (place_.forked()) return;
        const Current current(place_, std::nothrow);
        ignore(cudaStreamSynchronize(stream_));
    }

  private:
#if CUDART_VERSION >= 12080
    void copy_batch(std::span<const Copy> copies) {
        std::vector<void*> to;
        std::vector<const void*> from;
        std::vector<size_t> bytes;
        for (const Copy& each : copies) {
            to.push_back(each.to_device);
            from.push_back(each.from_host);
            bytes.push_back(each.bytes);
        }
        cudaMemcpyAttributes attributes{};
        attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
        attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
        size_t first = 0;  // which the attributes hold for
#if CUDART_VERSION >= 13000
        const cudaError_t result =
            cudaMemcpyBatchAsync(to.data(), from.data(), bytes.data(), copies.size(), &attributes, &first, 1, stream_);
#else
        std::vector<void*> sources;
        for (const void* each : from)
            sources.push_back(const_cast<void*>(each));
        size_t failed = 0;
        const cudaError_t result = cudaMemcpyBatchAsync(to.data(), sources.data(), bytes.data(), copies.size(),
                                                        &attributes, &first, 1, &failed, stream_);
#endif
        check(place_.name, "cudaMemcpyBatchAsync", result);
    }
#endif

    Place place_;
    [[maybe_unused]] bool batches_;
    cudaStream_t stream_ = nullptr;
};

class CudaDevice final : public Device {
  public:
    CudaDevice(int ordinal, bool batches)
        : place_{.ordinal = ordinal, .name = "cuda:" + std::to_string(ordinal)}, batches_(batches) {
        const Current current(place_);  // which shows that it can be used
    }
    std::string_view name() const override { return place_.name; }
    bool host_writes() const override { return false; }
    std::unique_ptr<Allocation> allocate(size_t bytes) override {
        return std::make_unique<DeviceMemory>(place_, bytes);
    }
    std::unique_ptr<Allocation> allocate_staging(size_t bytes) override {
        return std::make_unique<StagingMemory>(place_, bytes);
    }
    std::unique_ptr<CopyStream> make_stream() override { return std::make_unique<CudaStream>(place_, batches_); }

    std::shared_ptr<Event> record(uintptr_t stream) override {
        const Current current(place_);
        auto* const handle = reinterpret_cast<cudaStream_t>(stream);
        cudaStreamCaptureStatus status{};
        check(place_.name, "cudaStreamIsCapturing", cudaStreamIsCapturing(handle, &status));
        if (status != cudaStreamCaptureStatusNone) {
            throw DeviceError(place_.name,
                              "the stream is being captured into a graph, whose launches are not known yet; keep the "
                              "lease, and release it with the stream that the graph was last launched in");
        }
        return std::make_shared<CudaEvent>(place_, handle);
    }
    void read(std::span<std::byte> to, const std::byte* from_device) override {
        const Current current(place_);
        check(place_.name, "cudaMemcpy", cudaMemcpy(to.data(), from_device, to.size(), cudaMemcpyDeviceToHost));
    }

  private:
    Place place_;
    bool batches_;
};

int count_devices() {
    int count = 0;
    check("cuda", "cudaGetDeviceCount", cudaGetDeviceCount(&count));
    return count;
}

int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    const cudaError_t result = cudaDeviceGetAttribute(&value, which, device);
    ignore(result);  // not every device tells
    return result == cudaSuccess ? value : 0;
}

CudaDeviceInfo describe(int ordinal) {
    const Place place{.ordinal = ordinal, .name = "cuda:" + std::to_string(ordinal)};
    const Current current(place);
    cudaDeviceProp properties{};
    check(place.name, "cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, ordinal));
    char bus[32] = {};
    check(place.name, "cudaDeviceGetPCIBusId", cudaDeviceGetPCIBusId(bus, sizeof bus, ordinal));
    size_t free = 0;
    size_t total = 0;
    check(place.name, "cudaMemGetInfo", cudaMemGetInfo(&free, &total));
    return {.ordinal = ordinal,
            .name = properties.name,
            .pci_bus = bus,
            .compute_major = properties.major,
            .compute_minor = properties.minor,
            .memory_bytes = static_cast<int64_t>(total),
            .memory_free_bytes = static_cast<int64_t>(free),
            .l2_bytes = properties.l2CacheSize,
            .multiprocessors = properties.multiProcessorCount,
            .memory_clock_khz = attribute(cudaDevAttrMemoryClockRate, ordinal),
            .memory_bus_bits = attribute(cudaDevAttrGlobalMemoryBusWidth, ordinal),
            .copy_engines = properties.asyncEngineCount};
}

std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

std::string cuda::problem_of(cudaError_t error, const char* call) {
    const std::string said =
        std::string(call) + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
    if (error == cudaErrorInsufficientDriver) {
        int version = 0;
        ignore(cudaDriverGetVersion(&version));
        if (version == 0) {
            return "there is no NVIDIA driver that can be loaded; install one, and check with nvidia-smi [" + said +
                   "]";
        }
        return "the NVIDIA driver supports CUDA up to " + version_text(version) + ", and this build needs " +
               version_text(CUDART_VERSION) + "; update the driver, or build mome_store with an older CUDA [" + said +
               "]";
    }
    if (error == cudaErrorNoDevice) {
        return "there is a driver but no GPU that it shows; check with nvidia-smi, and whether CUDA_VISIBLE_DEVICES "
               "hides "
               "it [" +
               said + "]";
    }
    return said;
}

std::unique_ptr<Device> make_cuda_device(int ordinal) {
    const int count = count_devices();
    if (ordinal < 0 || ordinal >= count) {
        throw DeviceError(
            "cuda:" + std::to_string(ordinal),
            "there is no such device; there " +
                (count == 1 ? std::string("is 1, cuda:0")
                            : "are " + std::to_string(count) + ", the last is cuda:" + std::to_string(count - 1)));
    }
    const bool batches = cuda_driver_version() >= kBatchedCopies;
    return std::make_unique<CudaDevice>(ordinal, batches);
}

std::vector<CudaDeviceInfo> cuda_devices() {
    std::vector<CudaDeviceInfo> devices;
    const int count = count_devices();
    for (int ordinal = 0; ordinal < count; ++ordinal)
        devices.push_back(describe(ordinal));
    return devices;
}

int cuda_driver_version() {
    int version = 0;
    check("cuda", "cudaDriverGetVersion", cudaDriverGetVersion(&version));
    return version;
}

int cuda_runtime_version() {
    int version = 0;
    check("cuda", "cudaRuntimeGetVersion", cudaRuntimeGetVersion(&version));
    return version;
}

}  // namespace mome

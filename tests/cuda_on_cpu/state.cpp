// The frame of a call: what it fails with before it begins, and what is remembered of it.
#include "state.h"

#include <unistd.h>

namespace standin {
namespace {

thread_local cudaError_t t_last_error = cudaSuccess;
thread_local int t_device = 0;

bool loses_device(cudaError_t error) {
    return error == cudaErrorIllegalAddress || error == cudaErrorLaunchFailure || error == cudaErrorECCUncorrectable ||
           error == cudaErrorMisalignedAddress || error == cudaErrorUnknown;
}

cudaError_t begin(State& s, const char* name, unsigned traits) {
    ++s.calls;
    ++s.calls_by_name[name];
    if (s.fail_at > 0 && s.calls == s.fail_at) {
        s.failed_call = name;
        if (loses_device(s.fail_with)) lose(s, current_device(), s.fail_with);
        return s.fail_with;
    }
    if (const auto next = s.fail_next.find(name); next != s.fail_next.end()) {
        s.failed_call = name;
        return s.fail_next.extract(next).mapped();
    }
    if ((traits & kNoDevice) == 0) {
        if (s.driver_version / 1000 < CUDART_VERSION / 1000) return cudaErrorInsufficientDriver;
        if (s.devices == 0) return cudaErrorNoDevice;
    }
    return (traits & kUnsafe) != 0 ? check_captures(s) : cudaSuccess;
}

}  // namespace

State& state() {
    static State only;
    return only;
}

State::State() : process(getpid()) {
    install_fault_handler();
}

State::~State() {
    if (getpid() == process) reset();
}

int& current_device() {
    return t_device;
}

cudaError_t call(const char* name, unsigned traits, const std::function<cudaError_t(State&, Lock&)>& body) {
    State& s = state();
    if (getpid() != s.process) {  // before the lock, which another thread may have held when the process was forked
        ++s.calls;
        return t_last_error = cudaErrorInitializationError;
    }
    Lock lock(s.mutex);
    const cudaError_t early = begin(s, name, traits);
    cudaError_t result = early;
    if (early == cudaSuccess || ((traits & kCompletes) != 0 && early != cudaErrorStreamCaptureUnsupported)) {
        result = body(s, lock);
        if (early != cudaSuccess) result = early;
    }
    if (result != cudaSuccess) t_last_error = result;
    return result;
}

cudaError_t lost(const State& s, int device) {
    const auto found = s.lost.find(device);
    return found == s.lost.end() ? cudaSuccess : found->second;
}

void lose(State& s, int device, cudaError_t error) {
    s.lost.emplace(device, error);
}

cudaError_t violate(State& s, const std::string& what) {
    s.violations.push_back(what);
    return s.strict ? cudaErrorInvalidValue : cudaSuccess;
}

void reset(uint64_t seed) {
    State& s = state();
    std::vector<std::shared_ptr<Stream>> all;
    {
        const Lock lock(s.mutex);
        for (const auto& [handle, stream] : s.streams)
            all.push_back(stream);
        for (const auto& [device, stream] : s.legacy)
            all.push_back(stream);
        all.insert(all.end(), s.retired.begin(), s.retired.end());
        for (const auto& stream : all) {
            stream->closing = true;
            stream->filled.notify_all();
        }
    }
    for (const auto& stream : all)
        stream->worker.join();
    const Lock lock(s.mutex);
    s.streams.clear();
    s.legacy.clear();
    s.retired.clear();
    while (!s.allocations.empty())
        free_now(s, s.allocations.begin()->second);
    for (const auto& [at, pinned] : s.pinned) {
        if (pinned->allocated) ::operator delete(at, std::align_val_t{4096});
    }
    s.pinned.clear();
    s.events.clear();
    s.graphs.clear();
    s.captures.clear();
    s.lost.clear();
    s.shared_limits.clear();
    s.violations.clear();
    s.seed = seed;
    s.longest_delay = 200;
    s.strict = true;
    s.devices = 2;
    s.driver_version = CUDART_VERSION;
    s.device_bytes = size_t{256} << 20;
    s.major = 9;
    s.minor = 0;
    s.calls = 0;
    s.calls_by_name.clear();
    s.fail_at = 0;
    s.fail_next.clear();
    s.failed_call.clear();
    t_last_error = cudaSuccess;
    t_device = 0;
    capture_mode() = cudaStreamCaptureModeGlobal;
}

void set_seed(uint64_t seed) {
    const Lock lock(state().mutex);
    state().seed = seed;
}

void set_longest_delay(int64_t microseconds) {
    const Lock lock(state().mutex);
    state().longest_delay = microseconds;
}

void set_strict(bool strict) {
    const Lock lock(state().mutex);
    state().strict = strict;
}

void set_devices(int count) {
    const Lock lock(state().mutex);
    state().devices = count;
}

void set_driver_version(int version) {
    const Lock lock(state().mutex);
    state().driver_version = version;
}

void set_device_memory(size_t bytes) {
    const Lock lock(state().mutex);
    state().device_bytes = bytes;
}

void set_compute_capability(int major, int minor) {
    const Lock lock(state().mutex);
    state().major = major;
    state().minor = minor;
}

void fail_call(int64_t n, cudaError_t error) {
    State& s = state();
    const Lock lock(s.mutex);
    s.calls = 0;
    s.calls_by_name.clear();
    s.fail_at = n;
    s.fail_with = error;
    s.failed_call.clear();
}

void fail_next(const std::string& name, cudaError_t error) {
    const Lock lock(state().mutex);
    state().fail_next[name] = error;
}

int64_t calls() {
    return state().calls;
}

int64_t calls_of(const std::string& name) {
    const Lock lock(state().mutex);
    const auto found = state().calls_by_name.find(name);
    return found == state().calls_by_name.end() ? 0 : found->second;
}

std::string failed_call() {
    const Lock lock(state().mutex);
    return state().failed_call;
}

void lose_device(int device, cudaError_t error) {
    State& s = state();
    const Lock lock(s.mutex);
    lose(s, device, error);
    s.finished.notify_all();
}

Live live() {
    State& s = state();
    const Lock lock(s.mutex);
    Live counted{.allocations = s.allocations.size(),
                 .streams = s.streams.size(),
                 .events = s.events.size(),
                 .graphs = s.graphs.size()};
    for (const auto& [at, pinned] : s.pinned)
        ++(pinned->allocated ? counted.host_allocations : counted.registrations);
    return counted;
}

std::vector<std::string> violations() {
    State& s = state();
    const Lock lock(s.mutex);
    for (const auto& [at, allocation] : s.allocations)
        check_margins(s, *allocation);
    return std::exchange(s.violations, {});
}

}  // namespace standin

using namespace standin;

cudaError_t cudaGetLastError() {
    return std::exchange(t_last_error, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
    return t_last_error;
}

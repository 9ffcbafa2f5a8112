// What the stand-in knows: memory, streams, events and graphs, and the frame that every call of the API runs in.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "standin.h"

namespace standin {

// Device memory. `data` is 256-aligned; [mapping, mapping + mapped) is it with its guards.
struct Allocation {
    std::byte* data = nullptr;
    size_t bytes = 0;
    std::byte* mapping = nullptr;
    size_t mapped = 0;
    int device = 0;
    int open = 0;     // operations that run and may touch it
    int pending = 0;  // copies that are queued or run
    bool freed = false;
};

// Pinned host memory.
struct Pinned {
    std::byte* data = nullptr;
    size_t bytes = 0;
    bool allocated = false;  // by cudaHostAlloc
    int pending = 0;
    bool gone = false;
};

struct Stream;

// An operation of a stream, by its number there: what an event marks.
struct Point {
    std::shared_ptr<Stream> stream;  // null: reached from the beginning
    uint64_t number = 0;
    std::shared_ptr<std::chrono::steady_clock::time_point> time = {};  // when it was reached, if that is wanted
};

struct Operation {
    std::function<void()> work = {};  // null: it only waits or marks
    std::vector<Point> after = {};
    std::vector<std::shared_ptr<Allocation>> touches = {};
    bool touches_all = false;  // of its device
    std::vector<std::shared_ptr<Pinned>> pinned = {};
    std::shared_ptr<std::chrono::steady_clock::time_point> time = {};
};

struct Capture {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::thread::id thread = {};
    Stream* origin = nullptr;
    cudaError_t invalid = cudaSuccess;      // why
    std::vector<Operation> nodes = {};      // in an order that fits every dependency
    std::map<Stream*, size_t> last = {};    // per stream in the capture: its last node
    std::map<Stream*, size_t> joined = {};  // and the last of its nodes that another stream waits for
};

struct Stream {
    cudaStream_t handle = nullptr;
    int device = 0;
    bool blocking = true;  // the legacy stream and it wait for each other
    bool legacy = false;
    int priority = 0;
    std::deque<Operation> queue = {};
    uint64_t submitted = 0;
    uint64_t finished = 0;
    bool closing = false;
    bool ended = false;  // its thread only has to return
    std::shared_ptr<Capture> capture = {};
    std::condition_variable filled = {};
    std::mt19937_64 random = std::mt19937_64(0);
    std::thread worker = {};
};

struct Event {
    int device = 0;
    bool timed = true;
    Point at = {};
    // Recorded in a capture: by which stream, after which node.
    std::weak_ptr<Capture> capture = {};
    Stream* stream = nullptr;
    size_t node = 0;
};

struct Graph {
    int device = 0;
    bool exec = false;
    std::vector<Operation> nodes = {};
    Point last_launch = {};
};

struct State {
    State();
    ~State();

    std::mutex mutex;  // guards everything
    std::condition_variable finished;

    uint64_t seed = 1;
    int64_t longest_delay = 200;
    bool strict = true;
    int devices = 2;
    int driver_version = CUDART_VERSION;
    size_t device_bytes = size_t{256} << 20;
    int major = 9, minor = 0;

    std::map<int, cudaError_t> lost;
    std::map<std::byte*, std::shared_ptr<Allocation>> allocations;  // by data, alive
    std::map<std::byte*, std::shared_ptr<Pinned>> pinned;
    std::map<cudaStream_t, std::shared_ptr<Stream>> streams;
    std::map<int, std::shared_ptr<Stream>> legacy;
    std::vector<std::shared_ptr<Stream>> retired;  // destroyed; their threads end once their queues are empty
    std::map<cudaEvent_t, std::shared_ptr<Event>> events;
    std::map<const void*, std::shared_ptr<Graph>> graphs;
    std::vector<std::shared_ptr<Capture>> captures;
    std::map<const void*, int> shared_limits;  // of kernels, where raised
    std::map<std::byte*, size_t> freed;        // their sizes; the addresses are never used again
    std::vector<std::string> violations;
    uintptr_t next_handle = 0x10000;

    std::atomic<int64_t> calls{0};
    int64_t fail_at = 0;
    cudaError_t fail_with = cudaSuccess;
    std::string failed_call;
    std::map<std::string, cudaError_t> fail_next;  // by name
    std::map<std::string, int64_t> calls_by_name;
    const pid_t process;

    template <class Handle>
    Handle new_handle() {
        return reinterpret_cast<Handle>(next_handle += 0x10);
    }
};

State& state();
int& current_device();                  // of this thread
cudaStreamCaptureMode& capture_mode();  // likewise

// What a call may do.
enum Traits : unsigned {
    kPlain = 0,
    kUnsafe = 1,     // not while a stream is captured
    kCompletes = 2,  // frees, destroys or empties a stream even when it returns an error
    kNoDevice = 4,   // works without a device and a driver
};

using Lock = std::unique_lock<std::mutex>;

// Runs the body of a call under the lock, unless the call fails for a reason that has nothing to do with what it is
// about; remembers the error.
cudaError_t call(const char* name, unsigned traits, const std::function<cudaError_t(State&, Lock&)>& body);

// With the lock held:
cudaError_t lost(const State& state, int device);
void lose(State& state, int device, cudaError_t error);
cudaError_t violate(State& state, const std::string& what);              // what a call that does so returns
std::shared_ptr<Stream> find_stream(State& state, cudaStream_t handle);  // null: there is none; counted as a violation
std::shared_ptr<Stream> make_stream(State& state, int device, unsigned flags, int priority);
// Puts an operation into a stream, or into the capture that it is part of. Returns its point.
cudaError_t submit(State& state, const std::shared_ptr<Stream>& stream, Operation operation, Point* point = nullptr);
void wait_for(State& state, Lock& lock, const Point& point);
bool reached(const Point& point);
void invalidate(State& state, Capture& capture, cudaError_t why);
// Refuses a call that a capture forbids to this thread.
cudaError_t check_captures(State& state);
void open_memory(State& state, Operation& operation, int device);
void close_memory(const Operation& operation);
void check_margins(State& state, const Allocation& allocation);
cudaError_t free_now(State& state, const std::shared_ptr<Allocation>& allocation);

// Runs `work`; cudaErrorIllegalAddress when it faults, cudaErrorLaunchFailure when it throws.
cudaError_t guarded(const std::function<void()>& work);
void install_fault_handler();

}  // namespace standin

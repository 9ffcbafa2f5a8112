// Streams are threads with queues; events are points in them.
#include <algorithm>
#include <utility>

#include "state.h"

namespace standin {
namespace {

bool usable(const Operation& operation) {
    return std::ranges::none_of(operation.touches, [](const auto& allocation) { return allocation->freed; }) &&
           std::ranges::none_of(operation.pinned, [](const auto& pinned) { return pinned->gone; });
}

void dwell(Lock& lock, Stream& stream, int64_t longest) {
    const int64_t delay = longest > 0 && stream.random() % 2 == 0
                              ? static_cast<int64_t>(stream.random() % static_cast<uint64_t>(longest))
                              : 0;
    lock.unlock();
    if (delay > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay));
    lock.lock();
}

// Does one operation, its dependencies being reached.
void perform(State& s, Lock& lock, Stream& stream, Operation& operation) {
    const int device = stream.device;
    if (operation.work) dwell(lock, stream, s.longest_delay);
    const size_t counted = operation.touches.size();
    if (operation.work && lost(s, device) == cudaSuccess) {
        if (usable(operation)) {
            open_memory(s, operation, device);
            lock.unlock();
            const cudaError_t error = guarded(operation.work);
            lock.lock();
            close_memory(operation);
            if (error != cudaSuccess) lose(s, device, error);
        } else {
            lose(s, device, cudaErrorIllegalAddress);
        }
    }
    for (size_t i = 0; i < counted; ++i)
        --operation.touches[i]->pending;
    for (const auto& pinned : operation.pinned)
        --pinned->pending;
    if (operation.time) *operation.time = std::chrono::steady_clock::now();
}

void work(const std::shared_ptr<Stream>& stream) {
    State& s = state();
    Lock lock(s.mutex);
    for (;;) {
        stream->filled.wait(lock, [&] { return stream->closing || !stream->queue.empty(); });
        if (stream->queue.empty()) break;
        Operation operation = std::move(stream->queue.front());
        stream->queue.pop_front();
        for (const Point& point : operation.after)
            wait_for(s, lock, point);
        perform(s, lock, *stream, operation);
        ++stream->finished;
        s.finished.notify_all();
        lock.unlock();
        operation = {};  // what it owns goes without the lock
        lock.lock();
    }
    stream->ended = true;
}

// Joins the threads of destroyed streams that are done: such a thread no longer needs the lock, which is held here.
void join_retired(State& s) {
    std::erase_if(s.retired, [](const auto& stream) {
        if (stream->ended) stream->worker.join();
        return stream->ended;
    });
}

std::shared_ptr<Stream> legacy_stream(State& s, int device) {
    auto& stream = s.legacy[device];
    if (!stream) {
        stream = make_stream(s, device, cudaStreamDefault, 0);
        stream->legacy = true;
        s.streams.erase(stream->handle);
    }
    return stream;
}

bool is_default(cudaStream_t handle) {
    return handle == nullptr || handle == cudaStreamLegacy;
}

std::shared_ptr<Event> find_event(State& s, cudaEvent_t handle) {
    const auto found = s.events.find(handle);
    if (found != s.events.end()) return found->second;
    violate(s, "use of an event that was destroyed or never made");
    return nullptr;
}

cudaError_t create_event(cudaEvent_t* event, unsigned flags, const char* name) {
    return call(name, kPlain, [&](State& s, Lock&) {
        if (const cudaError_t error = lost(s, current_device()); error != cudaSuccess) return error;
        *event = s.new_handle<cudaEvent_t>();
        s.events.emplace(*event, std::make_shared<Event>(Event{.device = current_device(),
                                                               .timed = (flags & cudaEventDisableTiming) == 0}));
        return cudaSuccess;
    });
}

cudaError_t create_stream(cudaStream_t* stream, unsigned flags, int priority, const char* name) {
    return call(name, kUnsafe, [&](State& s, Lock&) {
        if (const cudaError_t error = lost(s, current_device()); error != cudaSuccess) return error;
        *stream = make_stream(s, current_device(), flags, priority)->handle;
        return cudaSuccess;
    });
}

// The capture that an event was last recorded in, if it still goes on.
std::shared_ptr<Capture> capture_of(const Event& event) {
    return event.capture.lock();
}

}  // namespace

std::shared_ptr<Stream> make_stream(State& s, int device, unsigned flags, int priority) {
    join_retired(s);
    auto stream = std::make_shared<Stream>();
    stream->handle = s.new_handle<cudaStream_t>();
    stream->device = device;
    stream->blocking = (flags & cudaStreamNonBlocking) == 0;
    stream->priority = priority;
    stream->random.seed(s.seed * 7919 + reinterpret_cast<uintptr_t>(stream->handle));
    s.streams.emplace(stream->handle, stream);
    stream->worker = std::thread(work, stream);
    return stream;
}

std::shared_ptr<Stream> find_stream(State& s, cudaStream_t handle) {
    if (is_default(handle)) return legacy_stream(s, current_device());
    const auto found = s.streams.find(handle);
    if (found != s.streams.end()) return found->second;
    violate(s, handle == cudaStreamPerThread ? "the per-thread default stream is not supported"
                                             : "use of a stream that was destroyed or never made");
    return nullptr;
}

bool reached(const Point& point) {
    return !point.stream || point.stream->finished >= point.number;
}

void wait_for(State& s, Lock& lock, const Point& point) {
    s.finished.wait(lock, [&] { return reached(point); });
}

cudaError_t submit(State& s, const std::shared_ptr<Stream>& stream, Operation operation, Point* point) {
    if (const cudaError_t error = lost(s, stream->device); error != cudaSuccess) return error;
    if (const auto& capture = stream->capture) {
        if (capture->invalid != cudaSuccess) return cudaErrorStreamCaptureInvalidated;
        capture->nodes.push_back(std::move(operation));
        capture->last[stream.get()] = capture->nodes.size();
        return cudaSuccess;
    }
    for (const auto& [handle, other] : s.streams) {
        if (other->device != stream->device || !other->blocking) continue;
        if (stream->legacy && other->capture) {
            invalidate(s, *other->capture, cudaErrorStreamCaptureImplicit);
            return cudaErrorStreamCaptureImplicit;
        }
        if (stream->legacy) operation.after.push_back({.stream = other, .number = other->submitted});
    }
    if (!stream->legacy && stream->blocking) {
        const auto legacy = s.legacy.find(stream->device);
        if (legacy != s.legacy.end()) {
            operation.after.push_back({.stream = legacy->second, .number = legacy->second->submitted});
        }
    }
    for (const auto& allocation : operation.touches)
        ++allocation->pending;
    for (const auto& pinned : operation.pinned)
        ++pinned->pending;
    ++stream->submitted;
    if (point != nullptr) *point = {.stream = stream, .number = stream->submitted, .time = operation.time};
    stream->queue.push_back(std::move(operation));
    stream->filled.notify_one();
    return cudaSuccess;
}

}  // namespace standin

using namespace standin;

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    return create_stream(stream, cudaStreamDefault, 0, "cudaStreamCreate");
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
    return create_stream(stream, flags, 0, "cudaStreamCreateWithFlags");
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int priority) {
    return create_stream(stream, flags, priority, "cudaStreamCreateWithPriority");
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    return call("cudaStreamDestroy", kCompletes, [&](State& s, Lock&) {
        if (is_default(handle)) return cudaErrorInvalidResourceHandle;
        const auto stream = find_stream(s, handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        if (stream->capture) invalidate(s, *stream->capture, cudaErrorStreamCaptureInvalidated);
        s.streams.erase(handle);
        s.retired.push_back(stream);
        stream->closing = true;
        stream->filled.notify_all();
        return lost(s, stream->device);
    });
}

cudaError_t cudaDeviceSynchronize() {
    return call("cudaDeviceSynchronize", kUnsafe | kCompletes, [&](State& s, Lock& lock) {
        std::vector<Point> points;
        for (const auto& [handle, stream] : s.streams)
            points.push_back({.stream = stream, .number = stream->submitted});
        for (const auto& [device, stream] : s.legacy)
            points.push_back({.stream = stream, .number = stream->submitted});
        for (const Point& point : points) {
            if (point.stream->device == current_device()) wait_for(s, lock, point);
        }
        return lost(s, current_device());
    });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    return call("cudaStreamSynchronize", kUnsafe | kCompletes, [&](State& s, Lock& lock) {
        const auto stream = find_stream(s, handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        if (stream->capture) {
            invalidate(s, *stream->capture, cudaErrorStreamCaptureUnsupported);
            return cudaErrorStreamCaptureUnsupported;
        }
        wait_for(s, lock, {.stream = stream, .number = stream->submitted});
        return lost(s, stream->device);
    });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    return call("cudaStreamQuery", kUnsafe, [&](State& s, Lock&) {
        const auto stream = find_stream(s, handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        if (stream->capture) {
            invalidate(s, *stream->capture, cudaErrorStreamCaptureUnsupported);
            return cudaErrorStreamCaptureUnsupported;
        }
        if (const cudaError_t error = lost(s, stream->device); error != cudaSuccess) return error;
        return stream->finished == stream->submitted ? cudaSuccess : cudaErrorNotReady;
    });
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
    return call("cudaStreamGetDevice", kPlain, [&](State& s, Lock&) {
        const auto stream = find_stream(s, handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        *device = stream->device;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
    return call("cudaStreamGetPriority", kPlain, [&](State& s, Lock&) {
        const auto stream = find_stream(s, handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        *priority = stream->priority;
        return cudaSuccess;
    });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
    return call("cudaLaunchHostFunc", kPlain, [&](State& s, Lock&) {
        const auto stream = find_stream(s, handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        return submit(s, stream, {.work = [function, data] { function(data); }});
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned int) {
    return call("cudaStreamWaitEvent", kPlain, [&](State& s, Lock&) {
        const auto stream = find_stream(s, handle);
        const auto event = find_event(s, event_handle);
        if (!stream || !event) return cudaErrorInvalidResourceHandle;
        if (const auto capture = capture_of(*event)) {
            if (stream->capture && stream->capture != capture) {
                invalidate(s, *stream->capture, cudaErrorStreamCaptureMerge);
                return cudaErrorStreamCaptureMerge;
            }
            if (stream->legacy) {
                invalidate(s, *capture, cudaErrorStreamCaptureImplicit);
                return cudaErrorStreamCaptureImplicit;
            }
            stream->capture = capture;  // it is part of the capture from now on
            capture->last.emplace(stream.get(), 0);
            if (event->stream != stream.get()) {
                size_t& joined = capture->joined[event->stream];
                joined = std::max(joined, event->node);
            }
            return cudaSuccess;
        }
        if (stream->capture) {  // on what is outside the capture
            invalidate(s, *stream->capture, cudaErrorStreamCaptureIsolation);
            return cudaErrorStreamCaptureIsolation;
        }
        if (const cudaError_t error = lost(s, event->device); error != cudaSuccess) return error;
        return submit(s, stream, {.after = {event->at}});
    });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    return create_event(event, cudaEventDefault, "cudaEventCreate");
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
    return create_event(event, flags, "cudaEventCreateWithFlags");
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
    return call("cudaEventDestroy", kCompletes, [&](State& s, Lock&) {
        const auto event = find_event(s, handle);
        if (!event) return cudaErrorInvalidResourceHandle;
        s.events.erase(handle);
        return lost(s, event->device);
    });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
    return call("cudaEventRecord", kPlain, [&](State& s, Lock&) {
        const auto event = find_event(s, handle);
        const auto stream = find_stream(s, stream_handle);
        if (!event || !stream) return cudaErrorInvalidResourceHandle;
        if (event->device != stream->device) {
            violate(s, "an event is recorded in a stream of another device");
            return cudaErrorInvalidResourceHandle;
        }
        if (stream->capture) {
            if (stream->capture->invalid != cudaSuccess) return cudaErrorStreamCaptureInvalidated;
            event->capture = stream->capture;
            event->stream = stream.get();
            event->node = stream->capture->last[stream.get()];
            return cudaSuccess;
        }
        event->capture.reset();
        Operation mark;
        if (event->timed) mark.time = std::make_shared<std::chrono::steady_clock::time_point>();
        return submit(s, stream, std::move(mark), &event->at);
    });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
    return call("cudaEventQuery", kUnsafe, [&](State& s, Lock&) {
        const auto event = find_event(s, handle);
        if (!event) return cudaErrorInvalidResourceHandle;
        if (capture_of(*event)) return cudaErrorCapturedEvent;
        if (const cudaError_t error = lost(s, event->device); error != cudaSuccess) return error;
        return reached(event->at) ? cudaSuccess : cudaErrorNotReady;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    return call("cudaEventSynchronize", kUnsafe, [&](State& s, Lock& lock) {
        const auto event = find_event(s, handle);
        if (!event) return cudaErrorInvalidResourceHandle;
        if (capture_of(*event)) return cudaErrorCapturedEvent;
        wait_for(s, lock, Point(event->at));
        return lost(s, event->device);
    });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    return call("cudaEventElapsedTime", kPlain, [&](State& s, Lock&) {
        const auto first = find_event(s, start);
        const auto last = find_event(s, end);
        if (!first || !last || !first->at.time || !last->at.time) return cudaErrorInvalidResourceHandle;
        if (!reached(first->at) || !reached(last->at)) return cudaErrorNotReady;
        *milliseconds = std::chrono::duration<float, std::milli>(*last->at.time - *first->at.time).count();
        return cudaSuccess;
    });
}

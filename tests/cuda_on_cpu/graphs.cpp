// Capturing streams into graphs, and launching those.
//
// A graph is the list of what was put into the streams of its capture, in that order, which fits every dependency; a
// launch puts it all into one stream. So nothing in a graph ever runs side by side.
#include <algorithm>
#include <utility>

#include "state.h"

namespace standin {
namespace {

std::shared_ptr<Graph> find_graph(State& s, const void* handle, bool exec) {
    const auto found = s.graphs.find(handle);
    if (found != s.graphs.end() && found->second->exec == exec) return found->second;
    violate(s, "use of a graph that was destroyed or never made");
    return nullptr;
}

cudaError_t destroy(const char* name, const void* handle, bool exec) {
    return call(name, kCompletes, [&](State& s, Lock&) {
        const auto graph = find_graph(s, handle, exec);
        if (!graph) return cudaErrorInvalidValue;
        s.graphs.erase(handle);
        return lost(s, graph->device);
    });
}

}  // namespace

cudaStreamCaptureMode& capture_mode() {
    thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    return mode;
}

void invalidate(State&, Capture& capture, cudaError_t why) {
    if (capture.invalid == cudaSuccess) capture.invalid = why;
}

cudaError_t check_captures(State& s) {
    if (capture_mode() == cudaStreamCaptureModeRelaxed) return cudaSuccess;
    cudaError_t result = cudaSuccess;
    for (const auto& capture : s.captures) {
        const bool mine = capture->thread == std::this_thread::get_id();
        const bool forbids =
            mine ? capture->mode != cudaStreamCaptureModeRelaxed
                 : capture->mode == cudaStreamCaptureModeGlobal && capture_mode() == cudaStreamCaptureModeGlobal;
        if (!forbids) continue;
        invalidate(s, *capture, cudaErrorStreamCaptureUnsupported);
        result = cudaErrorStreamCaptureUnsupported;
    }
    return result;
}

}  // namespace standin

using namespace standin;

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    return call("cudaThreadExchangeStreamCaptureMode", kPlain, [&](State&, Lock&) {
        std::swap(*mode, capture_mode());
        return cudaSuccess;
    });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    return call("cudaStreamBeginCapture", kPlain, [&](State& s, Lock&) {
        const auto stream = find_stream(s, handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        if (stream->legacy) return cudaErrorStreamCaptureUnsupported;
        if (const cudaError_t error = lost(s, stream->device); error != cudaSuccess) return error;
        if (stream->capture) return cudaErrorInvalidValue;
        auto capture = std::make_shared<Capture>();
        capture->mode = mode;
        capture->thread = std::this_thread::get_id();
        capture->origin = stream.get();
        capture->last.emplace(stream.get(), 0);
        stream->capture = capture;
        s.captures.push_back(std::move(capture));
        return cudaSuccess;
    });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
    return call("cudaStreamEndCapture", kPlain, [&](State& s, Lock&) {
        *graph = nullptr;
        const auto stream = find_stream(s, handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        const auto capture = stream->capture;
        if (!capture) return cudaErrorInvalidValue;
        if (capture->origin != stream.get()) return cudaErrorStreamCaptureUnmatched;
        if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
            return cudaErrorStreamCaptureWrongThread;
        }
        for (const auto& [at, each] : s.streams) {
            if (each->capture == capture) each->capture.reset();
        }
        std::erase(s.captures, capture);
        if (capture->invalid != cudaSuccess) return cudaErrorStreamCaptureInvalidated;
        for (const auto& [each, last] : capture->last) {
            if (each == capture->origin) continue;
            const auto joined = capture->joined.find(each);
            if (joined == capture->joined.end() || joined->second < last) return cudaErrorStreamCaptureUnjoined;
        }
        *graph = s.new_handle<cudaGraph_t>();
        s.graphs.emplace(*graph, std::make_shared<Graph>(Graph{.device = stream->device, .nodes = capture->nodes}));
        return cudaSuccess;
    });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
    return call("cudaStreamIsCapturing", kPlain, [&](State& s, Lock&) {
        const auto stream = find_stream(s, handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        if (stream->legacy) {
            for (const auto& [at, other] : s.streams) {
                if (other->blocking && other->capture && other->device == stream->device) {
                    return cudaErrorStreamCaptureImplicit;
                }
            }
        }
        *status = !stream->capture                          ? cudaStreamCaptureStatusNone
                  : stream->capture->invalid == cudaSuccess ? cudaStreamCaptureStatusActive
                                                            : cudaStreamCaptureStatusInvalidated;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t handle, unsigned long long) {
    return call("cudaGraphInstantiate", kUnsafe, [&](State& s, Lock&) {
        const auto graph = find_graph(s, handle, false);
        if (!graph) return cudaErrorInvalidValue;
        if (const cudaError_t error = lost(s, graph->device); error != cudaSuccess) return error;
        *exec = s.new_handle<cudaGraphExec_t>();
        s.graphs.emplace(*exec,
                         std::make_shared<Graph>(Graph{.device = graph->device, .exec = true, .nodes = graph->nodes}));
        return cudaSuccess;
    });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
    return call("cudaGraphLaunch", kPlain, [&](State& s, Lock&) {
        const auto graph = find_graph(s, handle, true);
        const auto stream = find_stream(s, stream_handle);
        if (!graph || !stream) return cudaErrorInvalidResourceHandle;
        if (stream->device != graph->device) {
            violate(s, "a graph is launched on another device");
            return cudaErrorInvalidValue;
        }
        Operation begin;  // a graph does not run beside itself
        begin.after.push_back(graph->last_launch);
        if (const cudaError_t error = submit(s, stream, std::move(begin)); error != cudaSuccess) return error;
        for (const Operation& node : graph->nodes) {
            if (const cudaError_t error = submit(s, stream, node, &graph->last_launch); error != cudaSuccess) {
                return error;
            }
        }
        return cudaSuccess;
    });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    return destroy("cudaGraphExecDestroy", exec, true);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return destroy("cudaGraphDestroy", graph, false);
}

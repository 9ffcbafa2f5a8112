// Binds the eviction policies' names and the replay of traces.
#include "runtime/replay.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "python/bindings.h"
#include "runtime/eviction.h"

namespace py = pybind11;

namespace mome::python {
namespace {

using Ids = py::array_t<int64_t, py::array::c_style>;

std::span<const int64_t> view(const Ids& array) {
    return {array.data(), static_cast<size_t>(array.size())};
}

py::dict replay_trace(const std::string& policy, int64_t slots, const Ids& indptr, const Ids& ids) {
    const auto batches = view(indptr);
    const auto requested = view(ids);
    const ReplayResult counted = [&] {
        const py::gil_scoped_release release;
        return policy == "belady" ? belady(slots, batches, requested) : replay(policy, slots, batches, requested);
    }();
    py::dict result;
    result["requests"] = counted.requests;
    result["hits"] = counted.hits;
    result["misses"] = counted.misses;
    result["evictions"] = counted.evictions;
    return result;
}

}  // namespace

void bind_replay(py::module_& module) {
    module.def("replay", &replay_trace, py::arg("policy"), py::arg("slots"), py::arg("indptr"), py::arg("ids"),
               "What a policy, or \"belady\", makes of a trace; see csrc/runtime/replay.h.");
    module.def("policy_names", [] {
        const auto names = policy_names();
        return std::vector<std::string>(names.begin(), names.end());
    });
}

}  // namespace mome::python

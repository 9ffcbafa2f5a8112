// Binds the kernels: the one place where tensors cross into C++.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "format/errors.h"
#include "kernels/apply.h"
#include "kernels/read_bandwidth.h"
#include "python/bindings.h"
#include "python/tensor.h"

namespace py = pybind11;

namespace mome::python {
namespace {

Isa isa_named(const std::string& name) {
    for (const Isa isa : available_isas()) {
        if (name_of(isa) == name) return isa;
    }
    throw SchemaError("this machine does not run the instruction set " + name);
}

DType dtype_with_code(int code) {
    if (code < 0 || code > 2) throw SchemaError("weight_dtype must be 0 (bfloat16), 1 (float16) or 2 (float32)");
    return static_cast<DType>(code);
}

void apply(py::handle y, py::handle x, py::handle row_index, py::handle row_sequence, py::handle expert_indptr,
           py::handle expert_base, py::handle expert_rank, py::handle expert_weight, int64_t a_offset, int64_t b_offset,
           float alpha, int weight_dtype, bool accumulate, int threads, const std::optional<std::string>& isa) {
    const ApplyArguments arguments{.y = matrix(y, "y"),
                                   .x = matrix(x, "x"),
                                   .row_index = vector<int32_t>(row_index, "row_index"),
                                   .row_sequence = vector<int32_t>(row_sequence, "row_sequence"),
                                   .expert_indptr = vector<int32_t>(expert_indptr, "expert_indptr"),
                                   .expert_base = vector<int64_t>(expert_base, "expert_base"),
                                   .expert_rank = vector<int32_t>(expert_rank, "expert_rank"),
                                   .expert_weight = vector<float>(expert_weight, "expert_weight"),
                                   .a_offset = a_offset,
                                   .b_offset = b_offset,
                                   .alpha = alpha,
                                   .weight_dtype = dtype_with_code(weight_dtype),
                                   .accumulate = accumulate,
                                   .threads = threads};
    const Isa chosen = isa ? isa_named(*isa) : best_isa();
    const py::gil_scoped_release release;
    apply_experts(arguments, chosen);
}

double bandwidth(py::handle memory, int threads) {
    const std::span<const float> values = vector<float>(memory, "memory");
    const py::gil_scoped_release release;
    return read_bandwidth(values, threads);
}

}  // namespace

void bind_kernels(py::module_& module) {
    module.def("apply_experts", &apply, py::arg("y"), py::arg("x"), py::arg("row_index"), py::arg("row_sequence"),
               py::arg("expert_indptr"), py::arg("expert_base"), py::arg("expert_rank"), py::arg("expert_weight"),
               py::arg("a_offset"), py::arg("b_offset"), py::arg("alpha"), py::arg("weight_dtype"),
               py::arg("accumulate") = false, py::arg("threads") = 1, py::arg("isa") = py::none(),
               "y[row_index] += routed experts of x[row_index]; see csrc/kernels/apply.h.");
    module.def("available_isas", [] {
        std::vector<std::string> found;
        for (const Isa isa : available_isas())
            found.emplace_back(name_of(isa));
        return found;
    });
    module.def("read_bandwidth", &bandwidth, py::arg("memory"), py::arg("threads"),
               "Bytes per second of one pass over a tensor float32 [n]; see csrc/kernels/read_bandwidth.h.");
}

}  // namespace mome::python

// Binds the kernels: the one place where tensors cross into C++.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "format/errors.h"
#include "kernels/apply.h"
#include "kernels/convolution.h"
#include "kernels/inner_products.h"
#include "kernels/read_bandwidth.h"
#include "python/bindings.h"
#include "python/routed_rows.h"
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

Isa chosen_isa(const std::optional<std::string>& isa) {
    return isa ? isa_named(*isa) : best_isa();
}

void apply(const RoutedRows& rows, py::handle y, py::handle x, int64_t a_offset, int64_t b_offset, float alpha,
           int weight_dtype, bool accumulate, int threads, const std::optional<std::string>& isa) {
    const ApplyArguments arguments{.y = matrix(y, "y"),
                                   .x = matrix(x, "x"),
                                   .rows = rows,
                                   .a_offset = a_offset,
                                   .b_offset = b_offset,
                                   .alpha = alpha,
                                   .weight_dtype = dtype_with_code(weight_dtype),
                                   .accumulate = accumulate,
                                   .threads = threads};
    const Isa chosen = chosen_isa(isa);
    const py::gil_scoped_release release;
    apply_experts(arguments, chosen);
}

void apply_tables(py::handle y, py::handle x, py::handle row_index, py::handle row_sequence, py::handle expert_indptr,
                  py::handle expert_base, py::handle expert_rank, py::handle expert_weight, int64_t a_offset,
                  int64_t b_offset, float alpha, int weight_dtype, bool accumulate, int threads,
                  const std::optional<std::string>& isa) {
    const RoutedRows rows(tables_of(row_index, row_sequence, expert_indptr, expert_base, expert_rank, expert_weight));
    apply(rows, y, x, a_offset, b_offset, alpha, weight_dtype, accumulate, threads, isa);
}

using Vectors = py::array_t<float, py::array::c_style>;

std::span<const float> values_of(const Vectors& array) {
    return {array.data(), static_cast<size_t>(array.size())};
}

std::span<float> writable(Vectors& array) {
    return {array.mutable_data(), static_cast<size_t>(array.size())};
}

Vectors products(const Vectors& rows, const Vectors& vectors, const std::optional<std::string>& isa) {
    if (rows.ndim() != 2 || vectors.ndim() != 2 || rows.shape(1) != vectors.shape(1)) {
        throw SchemaError("inner products need rows [n, d] and vectors [m, d]");
    }
    Vectors found({vectors.shape(0), rows.shape(0)});
    const int64_t d = rows.shape(1);
    const std::span<const float> all = values_of(rows);
    const Strided few{.values = values_of(vectors), .stride = d};
    const std::span<float> result = writable(found);
    const Isa chosen = chosen_isa(isa);
    {
        const py::gil_scoped_release release;
        inner_products(all, few, d, result, chosen);
    }
    return found;
}

Vectors convolved(const Vectors& inputs, const Vectors& weights, const Vectors& bias, bool gelu,
                  const std::optional<std::string>& isa) {
    if (inputs.ndim() != 2 || weights.ndim() != 3 || bias.ndim() != 1 || inputs.shape(1) != weights.shape(2) ||
        weights.shape(0) != bias.shape(0)) {
        throw SchemaError("a convolution needs inputs [t, width], weights [o, reach, width] and bias [o]");
    }
    Vectors found({inputs.shape(0), bias.shape(0)});
    const int64_t width = inputs.shape(1);
    const std::span<const float> tokens = values_of(inputs), filters = values_of(weights), added = values_of(bias);
    const std::span<float> result = writable(found);
    const Isa chosen = chosen_isa(isa);
    {
        const py::gil_scoped_release release;
        convolve(tokens, width, filters, added, gelu, result, chosen);
    }
    return found;
}

double bandwidth(py::handle memory, int threads) {
    const std::span<const float> values = vector<float>(memory, "memory");
    const py::gil_scoped_release release;
    return read_bandwidth(values, threads);
}

}  // namespace

void bind_kernels(py::module_& module) {
    py::class_<OwnedRows>(module, "RoutedRows",
                          "Which rows of a batch get which experts, checked once; see csrc/kernels/routed_rows.h.")
        .def(py::init<py::handle, py::handle, py::handle, py::object, py::handle, py::handle>(), py::arg("row_index"),
             py::arg("row_sequence"), py::arg("expert_indptr"), py::arg("expert_base"), py::arg("expert_rank"),
             py::arg("expert_weight"))
        .def_property_readonly("last_row", [](const OwnedRows& owned) { return owned.rows().last_row(); })
        .def_property_readonly("highest_rank", [](const OwnedRows& owned) { return owned.rows().highest_rank(); })
        .def(
            "apply",
            [](const OwnedRows& owned, py::handle y, py::handle x, int64_t a_offset, int64_t b_offset, float alpha,
               int weight_dtype, bool accumulate, int threads, const std::optional<std::string>& isa) {
                apply(owned.rows(), y, x, a_offset, b_offset, alpha, weight_dtype, accumulate, threads, isa);
            },
            py::arg("y"), py::arg("x"), py::arg("a_offset"), py::arg("b_offset"), py::arg("alpha"),
            py::arg("weight_dtype"), py::arg("accumulate") = false, py::arg("threads") = 1, py::arg("isa") = py::none(),
            "y[row_index] += routed experts of x[row_index]; see csrc/kernels/apply.h.");
    module.def("apply_experts", &apply_tables, py::arg("y"), py::arg("x"), py::arg("row_index"),
               py::arg("row_sequence"), py::arg("expert_indptr"), py::arg("expert_base"), py::arg("expert_rank"),
               py::arg("expert_weight"), py::arg("a_offset"), py::arg("b_offset"), py::arg("alpha"),
               py::arg("weight_dtype"), py::arg("accumulate") = false, py::arg("threads") = 1,
               py::arg("isa") = py::none(),
               "y[row_index] += routed experts of x[row_index]; see csrc/kernels/apply.h.");
    module.def("inner_products", &products, py::arg("rows").noconvert(), py::arg("vectors").noconvert(),
               py::arg("isa") = py::none(),
               "float32 [m, n]: of vectors [m, d] with rows [n, d]; see csrc/kernels/inner_products.h.");
    module.def(
        "convolution", &convolved, py::arg("inputs").noconvert(), py::arg("weights").noconvert(),
        py::arg("bias").noconvert(), py::arg("gelu"), py::arg("isa") = py::none(),
        "float32 [t, o]: inputs [t, width], weights [o, reach, width], bias [o]; see csrc/kernels/convolution.h.");
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

// The extension module `mome_store._cuda`: devices and the CUDA kernels. It shares the types of `mome_store._core`.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "format/errors.h"
#include "kernels/cuda/apply.h"
#include "python/bindings.h"
#include "python/routed_rows.h"
#include "python/tensor.h"

namespace py = pybind11;

namespace mome::python {
namespace {

using Capacity = std::array<int32_t, 4>;  // rows, ranks, sequence_ranks, tiles: as a TableCapacity

cuda::TableCapacity table_capacity(const Capacity& counts) {
    for (const int32_t count : counts) {
        if (count < 0) throw SchemaError("a capacity must not be negative");
    }
    return {.rows = counts[0], .ranks = counts[1], .sequence_ranks = counts[2], .tiles = counts[3]};
}

Capacity capacity_of(const OwnedRows& rows, int32_t prefill_rows) {
    const cuda::TableCapacity capacity = cuda::capacity_of(rows.rows(), prefill_rows);
    return {capacity.rows, capacity.ranks, capacity.sequence_ranks, capacity.tiles};
}

void apply(py::handle y, py::handle x, py::handle tables, const Capacity& counts, int32_t last_row,
           int32_t highest_rank, py::handle workspace, int64_t a_offset, int64_t b_offset, float alpha,
           int weight_dtype, bool accumulate, int device, uintptr_t stream) {
    const cuda::TableCapacity capacity = table_capacity(counts);
    const std::span<std::byte> table_memory = bytes(tables, "tables", device);
    if (table_memory.size() < cuda::table_bytes(capacity)) throw SchemaError("the tables are not of this capacity");
    const cuda::ApplyArguments arguments{.y = matrix(y, "y", device),
                                         .x = matrix(x, "x", device),
                                         .tables = table_memory.data(),
                                         .capacity = capacity,
                                         .last_row = last_row,
                                         .highest_rank = highest_rank,
                                         .workspace = bytes(workspace, "workspace", device),
                                         .a_offset = a_offset,
                                         .b_offset = b_offset,
                                         .alpha = alpha,
                                         .weight_dtype = dtype_with_code(weight_dtype),
                                         .accumulate = accumulate};
    const py::gil_scoped_release release;
    cuda::apply_experts(arguments, device, reinterpret_cast<cudaStream_t>(stream));
}

std::vector<py::dict> devices() {
    std::vector<py::dict> found;
    for (const CudaDeviceInfo& device : cuda_devices()) {
        py::dict facts;
        facts["index"] = device.ordinal;
        facts["name"] = device.name;
        facts["compute_capability"] = std::to_string(device.compute_major) + "." + std::to_string(device.compute_minor);
        facts["memory_bytes"] = device.memory_bytes;
        facts["memory_free_bytes"] = device.memory_free_bytes;
        facts["multiprocessors"] = device.multiprocessors;
        facts["pci_bus_id"] = device.pci_bus;
        found.push_back(std::move(facts));
    }
    return found;
}

std::vector<std::string> architectures() {
    std::istringstream names{std::string(cuda::architectures())};
    std::vector<std::string> found;
    for (std::string name; std::getline(names, name, ' ');)
        found.push_back(name);
    return found;
}

}  // namespace
}  // namespace mome::python

PYBIND11_MODULE(_cuda, module) {
    using namespace mome;
    using namespace mome::python;
    module.doc() = "The CUDA half of mome_store: devices, and kernels that apply experts.";
    py::module_::import("mome_store._core");  // Device and RoutedRows are registered there
    bind_errors(module);
    module.def("devices", &devices, "What is known of each device. Raises DeviceError when there is no driver.");
    module.def("driver_version", &cuda_driver_version, "The newest CUDA that the driver runs: 13000 is 13.0.");
    module.def("runtime_version", &cuda_runtime_version, "The CUDA runtime in this module.");
    module.def("architectures", &architectures, "For which the kernels were compiled.");
    module.def(
        "make_device", [](int ordinal) { return std::shared_ptr<Device>(make_cuda_device(ordinal)); },
        py::arg("ordinal"), "A device for an ExpertCache.");
    module.def(
        "kernels",
        [] {
            std::vector<std::tuple<std::string, int, size_t>> all;
            for (const cuda::KernelLaunch& each : cuda::kernel_launches())
                all.emplace_back(each.name, each.threads, each.shared_bytes);
            return all;
        },
        "(name, threads of a block, bytes of shared memory) of each kernel.");
    module.attr("PREFILL_ROWS") = cuda::kPrefillRows;
    module.def("capacity_of", &capacity_of, py::arg("rows"), py::arg("prefill_rows") = cuda::kPrefillRows,
               "(rows, ranks, ranks of a sequence, tiles): the smallest tables for routed rows.");
    module.def(
        "table_bytes", [](const Capacity& counts) { return cuda::table_bytes(table_capacity(counts)); },
        py::arg("capacity"));
    module.def(
        "workspace_bytes",
        [](const Capacity& counts, int64_t d_in) { return cuda::workspace_bytes(table_capacity(counts), d_in); },
        py::arg("capacity"), py::arg("d_in"));
    module.def(
        "write_tables",
        [](const OwnedRows& rows, const Capacity& counts, py::handle into, int32_t prefill_rows) {
            cuda::write_tables(rows.rows(), table_capacity(counts), bytes(into, "into"), prefill_rows);
        },
        py::arg("rows"), py::arg("capacity"), py::arg("into"), py::arg("prefill_rows") = cuda::kPrefillRows,
        "Fills a uint8 tensor on the cpu, which is to be copied to the device.");
    module.def("apply", &apply, py::arg("y"), py::arg("x"), py::arg("tables"), py::arg("capacity"), py::arg("last_row"),
               py::arg("highest_rank"), py::arg("workspace"), py::arg("a_offset"), py::arg("b_offset"),
               py::arg("alpha"), py::arg("weight_dtype"), py::arg("accumulate"), py::arg("device"), py::arg("stream"),
               "Enqueues y += routed experts of x on a stream of the device; see csrc/kernels/cuda/apply.h.");
}

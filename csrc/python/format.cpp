// Binds the record format: the checksum and the layout.
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "format/crc32c.h"
#include "format/layout.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace mome::python {

void bind_format(py::module_& module) {
    module.def(
        "crc32c",
        [](const py::buffer& buffer, uint32_t prefix) {
            const py::buffer_info info = buffer.request();
            const Bytes bytes(static_cast<const std::byte*>(info.ptr), static_cast<size_t>(info.size * info.itemsize));
            const py::gil_scoped_release release;
            return crc32c(bytes, prefix);
        },
        py::arg("data"), py::arg("prefix") = 0,
        "CRC-32C of a contiguous buffer, continuing the checksum of the bytes before it.");

    py::class_<RecordLayout>(module, "RecordLayout", "Where the factors of an expert lie inside its record.")
        .def(py::init([](const std::vector<std::pair<int64_t, int64_t>>& modules, int64_t rank, int dtype) {
                 std::vector<ModuleShape> shapes;
                 for (const auto& [d_in, d_out] : modules)
                     shapes.push_back({.d_in = d_in, .d_out = d_out});
                 return RecordLayout::make(shapes, rank, static_cast<DType>(dtype));
             }),
             py::arg("modules"), py::arg("rank"), py::arg("dtype"))
        .def_readonly("record_bytes", &RecordLayout::record_bytes)
        .def_readonly("payload_bytes", &RecordLayout::payload_bytes)
        .def_property_readonly("sections", [](const RecordLayout& layout) {
            std::vector<std::pair<int64_t, int64_t>> offsets;
            for (const Section& section : layout.sections)
                offsets.emplace_back(section.a_offset, section.b_offset);
            return offsets;
        });
}

}  // namespace mome::python

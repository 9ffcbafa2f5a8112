// Binds the record format: the checksum, the layout, and the checks of many records or keys that lie in one buffer.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "format/crc32c.h"
#include "format/errors.h"
#include "format/key.h"
#include "format/layout.h"
#include "format/record.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace mome::python {
namespace {

using Integers = py::array_t<int64_t, py::array::c_style>;

Bytes bytes_of(const py::buffer_info& info) {
    return {static_cast<const std::byte*>(info.ptr), static_cast<size_t>(info.size * info.itemsize)};
}

std::span<const int64_t> view(const Integers& array) {
    return {array.data(), static_cast<size_t>(array.size())};
}

// Rows of `row_bytes` at these offsets must lie within the buffer.
void check_offsets(Bytes bytes, int64_t row_bytes, std::span<const int64_t> at) {
    const auto last = static_cast<int64_t>(bytes.size()) - row_bytes;
    for (const int64_t offset : at) {
        if (row_bytes < 1 || offset < 0 || offset > last) {
            throw SchemaError("a row of " + std::to_string(row_bytes) + " bytes at offset " + std::to_string(offset) +
                              " does not lie in a buffer of " + std::to_string(bytes.size()) + " bytes");
        }
    }
}

std::vector<std::pair<int64_t, std::string>> records_with_problems(const py::buffer& buffer, int64_t record_bytes,
                                                                   int64_t payload_bytes, int64_t rank,
                                                                   uint32_t schema_crc, const Integers& at,
                                                                   const Integers& expert_ids,
                                                                   const Integers& group_ids) {
    const py::buffer_info info = buffer.request();
    const std::span<const int64_t> offsets = view(at), experts = view(expert_ids), groups = view(group_ids);
    if (experts.size() != offsets.size() || groups.size() != offsets.size()) {
        throw SchemaError("at, expert_ids and group_ids must have one length");
    }
    if (record_bytes < static_cast<int64_t>(sizeof(Trailer))) throw SchemaError("a record is as long as its trailer");
    const RecordFormat format{
        .record_bytes = record_bytes, .payload_bytes = payload_bytes, .rank = rank, .schema_crc = schema_crc};
    std::vector<std::pair<int64_t, std::string>> result;
    const py::gil_scoped_release release;
    check_offsets(bytes_of(info), format.record_bytes, offsets);
    for (RecordProblem& found : check_records(bytes_of(info), format, offsets, experts, groups))
        result.emplace_back(found.index, std::move(found.problem));
    return result;
}

std::vector<int64_t> rows_not_finite(const py::buffer& buffer, int64_t key_dim, const Integers& at) {
    const py::buffer_info info = buffer.request();
    const std::span<const int64_t> offsets = view(at);
    const py::gil_scoped_release release;
    check_offsets(bytes_of(info), 4 * key_dim, offsets);
    return keys_not_finite(bytes_of(info), key_dim, offsets);
}

}  // namespace

void bind_format(py::module_& module) {
    module.def(
        "crc32c",
        [](const py::buffer& buffer, uint32_t prefix) {
            const py::buffer_info info = buffer.request();
            const py::gil_scoped_release release;
            return crc32c(bytes_of(info), prefix);
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

    module.def(
        "check_records", &records_with_problems, py::arg("buffer"), py::arg("record_bytes"), py::arg("payload_bytes"),
        py::arg("rank"), py::arg("schema_crc"), py::arg("at").noconvert(), py::arg("expert_ids").noconvert(),
        py::arg("group_ids").noconvert(),
        "Of the records at byte offsets `at` of a buffer, those that are not the expert and group given for each: "
        "(position in `at`, problem). All lists are int64 [n].");
    module.def("keys_not_finite", &rows_not_finite, py::arg("buffer"), py::arg("key_dim"), py::arg("at").noconvert(),
               "Which of the float32 [key_dim] rows at byte offsets `at` (int64 [n]) of a buffer hold a number that is "
               "not finite: positions in `at`.");
}

}  // namespace mome::python

// Reads torch tensors. Interned attribute names and identity of dtype objects keep this at a microsecond or so a call.
#include "python/tensor.h"

#include <pybind11/gil_safe_call_once.h>

#include <string>

#include "format/errors.h"

namespace py = pybind11;

namespace mome::python {
namespace {

struct Names {
    py::str data_ptr = intern("data_ptr"), shape = intern("shape"), stride = intern("stride"), dtype = intern("dtype"),
            is_cpu = intern("is_cpu"), is_cuda = intern("is_cuda"), get_device = intern("get_device");
    // torch.dtype objects are singletons.
    py::object bfloat16 = torch("bfloat16"), float16 = torch("float16"), float32 = torch("float32"),
               int32 = torch("int32"), int64 = torch("int64"), uint8 = torch("uint8");

    static py::str intern(const char* name) { return py::reinterpret_steal<py::str>(PyUnicode_InternFromString(name)); }
    static py::object torch(const char* name) { return py::module_::import("torch").attr(name); }
};

const Names& names() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Names> storage;
    return storage.call_once_and_store_result([] { return Names(); }).get_stored();
}

py::object attribute(py::handle object, const py::str& name) {
    auto value = py::reinterpret_steal<py::object>(PyObject_GetAttr(object.ptr(), name.ptr()));
    if (!value) throw py::error_already_set();
    return value;
}

py::object call(py::handle object, const py::str& name) {
    auto value = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), name.ptr()));
    if (!value) throw py::error_already_set();
    return value;
}

SchemaError wrong(const char* name, const std::string& expected, py::handle found) {
    return SchemaError(std::string(name) + " must be " + expected + ", not " + py::str(found).cast<std::string>());
}

int64_t integer(py::handle value) {
    const int64_t result = PyLong_AsLongLong(value.ptr());
    if (result == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return result;
}

int64_t item(const py::object& tuple, py::ssize_t i) {
    return integer(PyTuple_GET_ITEM(tuple.ptr(), i));
}

std::byte* address(py::handle tensor, const char* name, int place) {
    const bool is_there = attribute(tensor, place == kCpu ? names().is_cpu : names().is_cuda).ptr() == Py_True &&
                          (place == kCpu || integer(call(tensor, names().get_device)) == place);
    if (!is_there) {
        throw wrong(name, place == kCpu ? "on the cpu" : "on cuda:" + std::to_string(place), tensor.attr("device"));
    }
    return reinterpret_cast<std::byte*>(integer(call(tensor, names().data_ptr)));
}

template <class T>
const py::object& dtype_of();
template <>
const py::object& dtype_of<int32_t>() {
    return names().int32;
}
template <>
const py::object& dtype_of<int64_t>() {
    return names().int64;
}
template <>
const py::object& dtype_of<float>() {
    return names().float32;
}
template <>
const py::object& dtype_of<uint8_t>() {
    return names().uint8;
}

}  // namespace

Matrix matrix(py::handle tensor, const char* name, int place) {
    const py::object dtype = attribute(tensor, names().dtype);
    DType code{};
    if (dtype.is(names().float32)) {
        code = DType::float32;
    } else if (dtype.is(names().bfloat16)) {
        code = DType::bfloat16;
    } else if (dtype.is(names().float16)) {
        code = DType::float16;
    } else {
        throw wrong(name, "bfloat16, float16 or float32", dtype);
    }
    const py::object shape = attribute(tensor, names().shape), stride = call(tensor, names().stride);
    const py::ssize_t last = PyTuple_Size(shape.ptr()) - 1;
    if (last < 1) throw wrong(name, "a tensor of two or more dimensions", shape);
    const int64_t columns = item(shape, last);
    if (item(stride, last) != 1 && columns > 1) {
        throw SchemaError(std::string(name) + " must be contiguous in its last dimension");
    }
    int64_t rows = 1, row_stride = columns;
    for (py::ssize_t i = last - 1; i >= 0; --i) {
        const int64_t size = item(shape, i), distance = item(stride, i);
        if (size == 1) continue;
        if (rows == 1) {
            row_stride = distance;
        } else if (distance != rows * row_stride) {
            throw SchemaError(std::string(name) + " must have all its rows at one distance from each other");
        }
        rows *= size;
    }
    return {
        .data = address(tensor, name, place), .dtype = code, .rows = rows, .columns = columns, .stride = row_stride};
}

template <class T>
std::span<const T> vector(py::handle tensor, const char* name, int place) {
    const py::object dtype = attribute(tensor, names().dtype);
    if (!dtype.is(dtype_of<T>())) throw wrong(name, py::str(dtype_of<T>()).cast<std::string>(), dtype);
    const py::object shape = attribute(tensor, names().shape);
    if (PyTuple_Size(shape.ptr()) != 1) throw wrong(name, "a tensor of one dimension", shape);
    const int64_t count = item(shape, 0), stride = item(call(tensor, names().stride), 0);
    if (stride != 1 && count > 1) throw SchemaError(std::string(name) + " must be contiguous");
    return {reinterpret_cast<const T*>(address(tensor, name, place)), static_cast<size_t>(count)};
}

template std::span<const int32_t> vector<int32_t>(py::handle, const char*, int);
template std::span<const int64_t> vector<int64_t>(py::handle, const char*, int);
template std::span<const float> vector<float>(py::handle, const char*, int);

std::span<std::byte> bytes(py::handle tensor, const char* name, int place) {
    const auto values = vector<uint8_t>(tensor, name, place);
    return {reinterpret_cast<std::byte*>(const_cast<uint8_t*>(values.data())), values.size()};
}

DType dtype_with_code(int code) {
    if (code < 0 || code > 2) throw SchemaError("weight_dtype must be 0 (bfloat16), 1 (float16) or 2 (float32)");
    return static_cast<DType>(code);
}

}  // namespace mome::python

// Turns each C++ error into the Python class of the same name, facts included.
#include <pybind11/stl.h>

#include "format/errors.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace mome::python {
namespace {

template <class... Facts>
void set_error(const char* name, Facts&&... facts) {
    const py::object type = py::module_::import("mome_store.errors").attr(name);
    const py::object error = type(std::forward<Facts>(facts)...);
    PyErr_SetObject(type.ptr(), error.ptr());
}

void translate(std::exception_ptr raised) {
    try {
        std::rethrow_exception(raised);
    } catch (const SchemaError& error) {
        set_error("SchemaError", error.what());
    } catch (const DamagedStoreError& error) {
        set_error("DamagedStoreError", error.file, error.row, error.expert_id, error.problem);
    } catch (const UnknownIdError& error) {
        set_error("UnknownIdError", error.kind, error.ids);
    } catch (const CapacityError& error) {
        set_error("CapacityError", error.needed, error.slots);
    } catch (const DeviceMemoryError& error) {
        set_error("DeviceMemoryError", error.device, error.bytes);
    } catch (const DeviceError& error) {
        set_error("DeviceError", error.device, error.problem);
    } catch (const ClosedError& error) {
        set_error("ClosedError", error.what());
    } catch (const ReadError& error) {
        set_error("ReadError", error.path, error.offset, error.error_number);
    }
}

}  // namespace

void bind_errors(py::module_&) {
    py::register_local_exception_translator(translate);
}

}  // namespace mome::python

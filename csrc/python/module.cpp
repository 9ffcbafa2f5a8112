// The extension module `mome_store._core`.
#include "python/bindings.h"

PYBIND11_MODULE(_core, module) {
    module.doc() = "The C++ core of mome_store: records, mapped shards, leases and the CPU kernels.";
    mome::python::bind_errors(module);
    mome::python::bind_format(module);
    mome::python::bind_runtime(module);
    mome::python::bind_replay(module);
    mome::python::bind_kernels(module);
}

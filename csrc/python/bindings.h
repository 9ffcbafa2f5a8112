// The parts of the extension module `mome_store._core`; each binds one layer of the C++ core and nothing more.
#pragma once

#include <pybind11/pybind11.h>

namespace mome::python {

void bind_errors(pybind11::module_& module);   // C++ errors become those of mome_store.errors
void bind_format(pybind11::module_& module);   // crc32c, RecordLayout
void bind_runtime(pybind11::module_& module);  // ShardSet, ExpertCache, Lease
void bind_kernels(pybind11::module_& module);  // apply_experts, read_bandwidth
void bind_replay(pybind11::module_& module);   // replay, policy_names

}  // namespace mome::python

// Runs the threads of a kernel.
#pragma once

#include <cstddef>
#include <functional>

#include "vector_types.h"

namespace standin {

void run_grid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& thread_body);

}  // namespace standin

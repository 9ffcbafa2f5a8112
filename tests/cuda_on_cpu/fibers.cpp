// One thread after the other.
#include "fibers.h"

namespace standin {

void run_grid(dim3 grid, dim3 block, size_t, const std::function<void()>& thread_body) {
    const size_t threads = size_t{grid.x} * grid.y * grid.z * block.x * block.y * block.z;
    for (size_t i = 0; i < threads; ++i)
        thread_body();
}

}  // namespace standin

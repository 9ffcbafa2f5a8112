// How fast this machine reads memory: what the kernels' rate over weights is held against.
#pragma once

#include <span>

namespace mome {

// Bytes per second of one pass over `memory` that reads every value once, on so many threads, with the widest loads
// this machine has. The size of `memory` says what is measured: well above the last-level cache, main memory.
double read_bandwidth(std::span<const float> memory, int threads);

}  // namespace mome

// What both caches make of a route.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/expert_cache.h"

namespace mome {

// Throws SchemaError unless counts, ids and weights fit together and the weights are finite.
void check_route(const RouteView& route);

// The ids, ascending, each once.
std::vector<int64_t> distinct(std::span<const int64_t> ids);

// Fills in what a lease takes from the route as it is; `base` and `rank` get their sizes.
void start_lease(Lease& lease, const RouteView& route);

}  // namespace mome

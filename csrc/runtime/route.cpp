// Checks routes and begins leases.
#include "runtime/route.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "format/errors.h"

namespace mome {

void check_route(const RouteView& route) {
    if (route.ids.size() != route.weights.size()) throw SchemaError("a route needs one weight for each expert");
    if (route.ids.size() > std::numeric_limits<int32_t>::max()) throw SchemaError("the route has too many entries");
    if (std::ranges::any_of(route.counts, [](int64_t count) { return count < 0; }) ||
        std::accumulate(route.counts.begin(), route.counts.end(), int64_t{0}) !=
            static_cast<int64_t>(route.ids.size())) {
        throw SchemaError("the experts of the sequences do not add up to the experts of the route");
    }
    if (!std::ranges::all_of(route.weights, [](float weight) { return std::isfinite(weight); })) {
        throw SchemaError("a route's weights must be finite");
    }
}

std::vector<int64_t> distinct(std::span<const int64_t> ids) {
    std::vector<int64_t> each(ids.begin(), ids.end());
    std::ranges::sort(each);
    each.erase(std::ranges::unique(each).begin(), each.end());
    return each;
}

void start_lease(Lease& lease, const RouteView& route) {
    lease.indptr.reserve(route.counts.size() + 1);
    lease.indptr.push_back(0);
    for (const int64_t count : route.counts)
        lease.indptr.push_back(lease.indptr.back() + static_cast<int32_t>(count));
    lease.weight.assign(route.weights.begin(), route.weights.end());
    lease.base.resize(route.ids.size());
    lease.rank.resize(route.ids.size());
}

std::shared_ptr<Lease> ExpertCache::acquire(const RouteView& route, const Poll& poll) {
    auto lease = reserve(route, poll);
    lease->wait(poll);
    return lease;
}

}  // namespace mome

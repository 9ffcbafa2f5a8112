// Binds mapped shards, the cache and its leases.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "format/layout.h"
#include "io/shard_set.h"
#include "python/bindings.h"
#include "runtime/expert_cache.h"

namespace py = pybind11;

namespace mome::python {
namespace {

template <class T>
using Vector = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
std::span<const T> view(const Vector<T>& array) {
    return {array.data(), static_cast<size_t>(array.size())};
}

template <class T>
std::vector<T> copy(const Vector<T>& array) {
    return {array.data(), array.data() + array.size()};
}

using SourceTuple = std::tuple<int64_t, int, std::string, int64_t, uint32_t>;  // the fields of ShardSource, in order

std::shared_ptr<ShardSet> open_shards(const RecordLayout& layout, uint32_t schema_crc, int64_t rows_per_shard,
                                      bool check_records, const std::vector<SourceTuple>& shards,
                                      const Vector<int64_t>& ids, const Vector<int64_t>& rows,
                                      const Vector<int64_t>& groups, const std::shared_ptr<ShardSet>& previous) {
    std::vector<ShardSource> sources;
    for (const auto& [number, fd, path, bytes, index_crc] : shards) {
        sources.push_back({.number = number, .fd = fd, .path = path, .bytes = bytes, .index_crc = index_crc});
    }
    const RecordFormat format{.record_bytes = layout.record_bytes,
                              .payload_bytes = layout.payload_bytes,
                              .rank = layout.rank,
                              .schema_crc = schema_crc};
    auto id_list = copy(ids);
    auto row_list = copy(rows);
    auto group_list = copy(groups);
    const py::gil_scoped_release release;
    return std::make_shared<ShardSet>(format, rows_per_shard, check_records ? Verify::record : Verify::open, sources,
                                      std::move(id_list), std::move(row_list), std::move(group_list), previous.get());
}

// An array over the lease's own memory. It holds the lease, and so the mapping that the addresses point into.
template <class T, std::vector<T> Lease::* member>
py::array_t<T> lease_array(const std::shared_ptr<Lease>& lease) {
    const std::vector<T>& values = (*lease).*member;
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data(), py::cast(lease));
}

py::dict counters(const ExpertCache& cache) {
    const CacheCounters& counted = cache.counters();
    const auto shards = cache.shards();
    py::dict result;
    result["leases"] = counted.leases.load();
    result["leases_live"] = counted.leases_live.load();
    result["experts_leased"] = counted.experts_leased.load();
    result["records_checked"] = counted.records_checked.load();
    result["records_prefetched"] = counted.records_advised.load();
    result["experts"] = shards->experts();
    result["shards"] = shards->shards();
    result["bytes_mapped"] = shards->bytes_mapped();
    result["record_bytes"] = shards->format().record_bytes;
    result["slots"] = cache.slots();
    return result;
}

}  // namespace

void bind_runtime(py::module_& module) {
    py::class_<ShardSet, std::shared_ptr<ShardSet>>(module, "ShardSet", "The mapped experts of one snapshot.")
        .def(py::init(&open_shards), py::arg("layout"), py::arg("schema_crc"), py::arg("rows_per_shard"),
             py::arg("check_records"), py::arg("shards"), py::arg("ids"), py::arg("rows"), py::arg("groups"),
             py::arg("previous") = nullptr);

    py::class_<Lease, std::shared_ptr<Lease>>(module, "Lease", "The experts of one route, pinned.")
        .def_property_readonly("expert_indptr", lease_array<int32_t, &Lease::indptr>)
        .def_property_readonly("expert_base", lease_array<int64_t, &Lease::base>)
        .def_property_readonly("expert_rank", lease_array<int32_t, &Lease::rank>)
        .def_property_readonly("expert_weight", lease_array<float, &Lease::weight>);

    py::class_<ExpertCache>(module, "ExpertCache", "Gives out leases over the experts of a snapshot.")
        .def(py::init([](const std::shared_ptr<ShardSet>& shards, std::optional<int64_t> slots) {
                 return std::make_unique<ExpertCache>(shards, slots);
             }),
             py::arg("shards"), py::arg("slots"))
        .def("prefetch",
             [](const ExpertCache& cache, const Vector<int64_t>& ids) {
                 const auto wanted = view(ids);
                 const py::gil_scoped_release release;
                 cache.prefetch(wanted);
             })
        .def("acquire",
             [](const ExpertCache& cache, const Vector<int64_t>& counts, const Vector<int64_t>& ids,
                const Vector<float>& weights) {
                 const auto count_view = view(counts);
                 const auto id_view = view(ids);
                 const auto weight_view = view(weights);
                 const py::gil_scoped_release release;
                 return cache.acquire(count_view, id_view, weight_view);
             })
        .def("refresh",
             [](ExpertCache& cache, const std::shared_ptr<ShardSet>& shards) {
                 const py::gil_scoped_release release;
                 cache.refresh(shards);
             })
        .def_property_readonly("shards",
                               [](const ExpertCache& cache) {
                                   return std::const_pointer_cast<ShardSet>(cache.shards());  // Python knows no const
                               })
        .def("counters", &counters);
}

}  // namespace mome::python

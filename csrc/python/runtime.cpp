// Binds mapped shards, the cache and its leases.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "device/device.h"
#include "format/layout.h"
#include "io/reader.h"
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

using SourceTuple = std::tuple<int64_t, int, std::string, int64_t, uint32_t>;  // the fields of ShardSource, in order

Verify verify_named(bool check_records) {
    return check_records ? Verify::record : Verify::open;
}

ShardSource source_of(const SourceTuple& fields) {
    const auto& [number, fd, path, bytes, index_crc] = fields;
    return {.number = number, .fd = fd, .path = path, .bytes = bytes, .index_crc = index_crc};
}

std::shared_ptr<ShardSet> open_shards(const RecordLayout& layout, uint32_t schema_crc, int64_t rows_per_shard,
                                      bool check_records, const std::vector<SourceTuple>& shards,
                                      const Vector<int64_t>& experts, const std::shared_ptr<ShardSet>& previous,
                                      const ReaderChoice* reader) {
    std::vector<ShardSource> sources;
    for (const SourceTuple& shard : shards)
        sources.push_back(source_of(shard));
    const RecordFormat format{.record_bytes = layout.record_bytes,
                              .payload_bytes = layout.payload_bytes,
                              .rank = layout.rank,
                              .schema_crc = schema_crc};
    if (experts.ndim() != 2 || experts.shape(1) != 5) throw SchemaError("runs of experts are int64 [n, 5]");
    std::vector<ExpertRun> runs;
    for (py::ssize_t i = 0; i < experts.shape(0); ++i) {
        const int64_t* run = experts.data(i, 0);
        runs.push_back({.row = run[0], .id = run[1], .group_id = run[2], .groups = run[3], .per_group = run[4]});
    }
    const py::gil_scoped_release release;
    return std::make_shared<ShardSet>(format, rows_per_shard, verify_named(check_records), sources, std::move(runs),
                                      previous.get(), reader == nullptr ? Access::mapped : reader->access);
}

ReaderChoice choose(const std::string& wanted, const std::vector<SourceTuple>& shards) {
    int64_t bytes = 0;
    for (const SourceTuple& shard : shards)
        bytes += source_of(shard).bytes;
    if (shards.empty()) return choose_reader(wanted, nullptr, 0);
    const ShardSource sample = source_of(shards.front());
    return choose_reader(wanted, &sample, bytes);
}

std::shared_ptr<ExpertCache> open_cache(const std::shared_ptr<ShardSet>& shards, std::optional<int64_t> slots,
                                        const std::shared_ptr<Device>& device, const std::string& policy,
                                        const ReaderChoice* choice, int64_t staging, double timeout,
                                        std::optional<std::pair<uint64_t, int64_t>> delays) {
    if (!slots || choice == nullptr) return make_mapped_cache(shards);
    const py::gil_scoped_release release;
    auto reader = choice->make();
    if (delays) reader = make_delaying_reader(std::move(reader), delays->first, delays->second);
    const SlotCacheOptions options{
        .slots = *slots,
        .policy = policy,
        .staging = staging,
        .timeout = std::chrono::milliseconds(static_cast<int64_t>(1000 * timeout)),
    };
    return make_slot_cache(shards, device, std::move(reader), options);
}

// Lets Ctrl-C end a wait.
void check_signals() {
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// What has been counted, under the names that it has in Python.
py::dict statistics(const ExpertCache& cache) {
    const CacheStatistics counted = cache.statistics();
    const auto shards = cache.shards();
    const auto seconds = [](std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); };
    py::dict result;
    result["leases"] = counted.leases;
    result["leases_live"] = counted.leases_live;
    result["experts_leased"] = counted.experts_leased;
    result["hits"] = counted.hits;
    result["joins"] = counted.joins;
    result["misses"] = counted.misses;
    result["evictions"] = counted.evictions;
    result["loads_failed"] = counted.loads_failed;
    result["records_prefetched"] = counted.records_prefetched;
    result["records_checked"] = counted.records_checked;
    result["bytes_from_memory"] = counted.bytes_from_memory;
    result["bytes_from_disk"] = counted.bytes_from_disk;
    result["bytes_staged"] = counted.bytes_staged;
    result["queue_depth"] = counted.queue_depth;
    result["queue_depth_peak"] = counted.queue_depth_peak;
    result["stall_seconds"] = seconds(counted.stall_total);
    result["stall_p50_seconds"] = seconds(counted.stall_p50);
    result["stall_p99_seconds"] = seconds(counted.stall_p99);
    result["slots"] = cache.slots();
    result["slots_free"] = counted.slots_free;
    result["slots_held"] = counted.slots_held;
    result["experts"] = shards->experts();
    result["shards"] = shards->shards();
    result["bytes_mapped"] = shards->bytes_mapped();
    result["record_bytes"] = shards->format().record_bytes;
    return result;
}

// An array over the lease's own memory. It holds the lease, and so the mapping that the addresses point into.
template <class T, std::vector<T> Lease::* member>
py::array_t<T> lease_array(const std::shared_ptr<Lease>& lease) {
    const std::vector<T>& values = (*lease).*member;
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data(), py::cast(lease));
}

}  // namespace

void bind_runtime(py::module_& module) {
    py::class_<ReaderChoice>(module, "ReaderChoice", "How the records of a store are read, and why.")
        .def(py::init(&choose), py::arg("wanted"), py::arg("shards"))
        .def_readonly("reader", &ReaderChoice::reader)
        .def_readonly("tiered", &ReaderChoice::tiered)
        .def_readonly("fallback", &ReaderChoice::fallback)
        .def_property_readonly("direct", [](const ReaderChoice& choice) { return choice.access == Access::direct; });

    py::class_<ShardSet, std::shared_ptr<ShardSet>>(module, "ShardSet", "The mapped experts of one snapshot.")
        .def(py::init(&open_shards), py::arg("layout"), py::arg("schema_crc"), py::arg("rows_per_shard"),
             py::arg("check_records"), py::arg("shards"), py::arg("experts"), py::arg("previous") = nullptr,
             py::arg("reader") = nullptr);

    py::class_<Device, std::shared_ptr<Device>>(module, "Device", "Where an ExpertCache keeps its slots.")
        .def_property_readonly("name", &Device::name)
        .def(
            "read",
            [](Device& device, uintptr_t from, int64_t bytes) {
                std::string found(static_cast<size_t>(bytes), '\0');
                device.read(std::as_writable_bytes(std::span(found)), reinterpret_cast<const std::byte*>(from));
                return py::bytes(found);
            },
            py::arg("address"), py::arg("bytes"), "Copies out of device memory; for tests and diagnosis.");
    module.def(
        "make_device", [](const std::string& name) { return std::shared_ptr<Device>(make_device(name)); },
        py::arg("name"), "The device 'cpu'; mome_store._cuda has the others.");

    py::class_<Lease, std::shared_ptr<Lease>>(module, "Lease", "The experts of one route, pinned.")
        .def_property_readonly("ready", &Lease::ready)
        .def("wait",
             [](Lease& lease) {
                 const py::gil_scoped_release release;
                 lease.wait(check_signals);
             })
        .def(
            "release",
            [](Lease& lease, uintptr_t stream) {
                const py::gil_scoped_release release;
                lease.release(stream);
            },
            py::arg("stream"), "Ends the lease; what is in the stream until now may still use its records.")
        .def_property_readonly("expert_indptr", lease_array<int32_t, &Lease::indptr>)
        .def_property_readonly("expert_base", lease_array<int64_t, &Lease::base>)
        .def_property_readonly("expert_rank", lease_array<int32_t, &Lease::rank>)
        .def_property_readonly("expert_weight", lease_array<float, &Lease::weight>);

    py::class_<ExpertCache, std::shared_ptr<ExpertCache>>(module, "ExpertCache",
                                                          "Gives out leases over the experts of a snapshot.")
        .def(py::init(&open_cache), py::arg("shards"), py::arg("slots"), py::arg("device"), py::arg("policy"),
             py::arg("reader"), py::arg("staging"), py::arg("timeout"), py::arg("delays") = py::none())
        .def("prefetch",
             [](ExpertCache& cache, const Vector<int64_t>& ids) {
                 const auto wanted = view(ids);
                 const py::gil_scoped_release release;
                 cache.prefetch(wanted);
             })
        .def("reserve",
             [](ExpertCache& cache, const Vector<int64_t>& counts, const Vector<int64_t>& ids,
                const Vector<float>& weights) {
                 const RouteView route{.counts = view(counts), .ids = view(ids), .weights = view(weights)};
                 const py::gil_scoped_release release;
                 return cache.reserve(route, check_signals);
             })
        .def("pin",
             [](ExpertCache& cache, const Vector<int64_t>& ids) {
                 const auto wanted = view(ids);
                 const py::gil_scoped_release release;
                 cache.pin(wanted, check_signals);
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
        .def_property_readonly("slots", &ExpertCache::slots)
        .def("statistics", &statistics);
}

}  // namespace mome::python

// The slot cache on a CUDA device: what kernels still read is not overwritten, and nothing that fails on the device is
// lost on the way to who waits, hangs, or leaks.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "device/cuda/cuda_device.h"
#include "experts.h"
#include "format/errors.h"
#include "readers.h"
#include "runtime/expert_cache.h"
#include "standin.h"
#include "streams_for_tests.h"

using namespace mome;
using namespace mome::test;

namespace {

constexpr size_t kRecord = 4096;

std::shared_ptr<ExpertCache> open_cache(const Experts& experts, std::unique_ptr<Reader> reader, int64_t slots,
                                        int device = 0) {
    return make_slot_cache(experts.open(), make_cuda_device(device), std::move(reader),
                           {.slots = slots, .policy = "lru", .timeout = std::chrono::milliseconds(20'000)});
}

const std::byte* slot_of(const Lease& lease, size_t entry) {
    return reinterpret_cast<const std::byte*>(lease.base[entry]);
}

void nap() {  // as long as a copy that does not wait would have had
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

// Delivers all reads, also those that are only asked for once a staging buffer is free.
void deliver_all(const ExpertCache& cache, HeldReads& reads) {
    while (cache.statistics().queue_depth > 0) {
        reads.deliver_all();
        std::this_thread::yield();
    }
}

}  // namespace

TEST("a slot is overwritten only after the work that its lease was released to, and the host does not wait for it") {
    const Experts experts(16);
    for (const bool default_stream : {false, true}) {
        ComputeStream compute(0, default_stream ? cudaStreamDefault : cudaStreamNonBlocking);
        const auto cache = open_cache(experts, make_mmap_reader(1), 1);
        const Buffer expected = record_of(3);
        std::atomic<int> wrong{0};
        Gate gate;
        auto lease = cache->acquire(TestRoute({3}).view());
        const std::byte* slot = slot_of(*lease, 0);
        gate.close(compute);
        compute.launch(compare, slot, expected.data(), kRecord, &wrong);
        lease->release(default_stream ? 0 : compute.number());  // the default stream waits for a blocking one
        lease.reset();
        const auto next = cache->reserve(TestRoute({5}).view());  // the only slot there is
        CHECK(slot_of(*next, 0) == slot);
        nap();
        CHECK(!next->ready());
        gate.open();
        next->wait();
        CHECK(wrong == 0);
        CHECK(holds_records(*next, {5}));
        for (int i = 0; i < 1000 && standin::live().events > 0; ++i)  // the copy's own goes a little later
            nap();
        CHECK(standin::live().events == 0);
    }
}

TEST("a slot that work in several streams uses waits for all of them, once") {
    const Experts experts(16);
    ComputeStream first, second;
    const auto cache = open_cache(experts, make_mmap_reader(1), 1);
    const Buffer expected = record_of(3);
    std::atomic<int> wrong{0};
    Gate early, late;
    for (int round = 0; round < 3; ++round) {
        for (auto* stream : {&first, &second}) {
            const auto lease = cache->acquire(TestRoute({3}).view());
            if (round == 2) (stream == &first ? late : early).close(*stream);
            stream->launch(compare, slot_of(*lease, 0), expected.data(), kRecord, &wrong);
            lease->release(stream->number());
        }
    }
    CHECK(standin::live().events <= 3);  // one for each stream; the rest has gone
    const auto next = cache->reserve(TestRoute({5}).view());
    early.open();
    nap();
    CHECK(!next->ready());
    late.open();
    next->wait();
    CHECK(wrong == 0 && holds_records(*next, {5}));
}

TEST("a load that fails leaves the slot's uses to the next") {
    const Experts experts(16);
    ComputeStream compute;
    const auto reads = std::make_shared<HeldReads>();
    const auto cache = open_cache(experts, std::make_unique<HeldReader>(reads), 1);
    const Buffer expected = record_of(3);
    std::atomic<int> wrong{0};
    Gate gate;
    auto lease = cache->reserve(TestRoute({3}).view());
    reads->deliver();
    lease->wait();
    gate.close(compute);
    compute.launch(compare, slot_of(*lease, 0), expected.data(), kRecord, &wrong);
    lease->release(compute.number());
    {
        const auto failing = cache->reserve(TestRoute({4}).view());
        reads->fail(0, EIO);
        CHECK_THROWS(ReadError, failing->wait());
    }
    const auto next = cache->reserve(TestRoute({5}).view());
    reads->deliver();
    nap();
    CHECK(!next->ready());
    gate.open();
    next->wait();
    CHECK(wrong == 0 && holds_records(*next, {5}));
}

TEST(
    "a load whose copy can't be followed ends only when the copy is done: its slot and its buffer are not free "
    "before") {
    const Experts experts(16);
    for (const char* call : {"cudaEventCreateWithFlags", "cudaEventRecord", "cudaEventSynchronize"}) {
        ComputeStream compute;
        const auto reads = std::make_shared<HeldReads>();
        const auto cache = open_cache(experts, std::make_unique<HeldReader>(reads), 1);
        Gate gate;
        {
            const auto lease = cache->reserve(TestRoute({3}).view());
            reads->deliver();
            lease->wait();
            gate.close(compute);
            lease->release(compute.number());
        }
        const auto failing = cache->reserve(TestRoute({4}).view());
        standin::fail_next(call, cudaErrorInvalidValue);
        std::thread delivery([&] { reads->deliver(); });
        nap();
        CHECK(!failing->ready());
        gate.open();
        CHECK_THROWS(DeviceError, failing->wait(), error.problem.find(call) == 0);
        delivery.join();
    }
}

TEST("a cache goes only after the work that leases were released to") {
    const Experts experts(16);
    ComputeStream compute;
    auto cache = open_cache(experts, make_mmap_reader(1), 4);
    const Buffer expected = record_of(3);
    std::atomic<int> wrong{0};
    Gate gate;
    auto lease = cache->acquire(TestRoute({3}).view());
    gate.close(compute);
    compute.launch(compare, slot_of(*lease, 0), expected.data(), kRecord, &wrong);
    lease->release(compute.number());
    lease.reset();
    std::atomic<bool> gone{false};
    std::thread closing([&] {
        cache.reset();
        gone = true;
    });
    nap();
    CHECK(!gone);
    gate.open();
    closing.join();
    CHECK(cudaStreamSynchronize(compute.handle()) == cudaSuccess && wrong == 0);
}

TEST("records that are read at once are copied by one command, and published together") {
    const Experts experts(16);
    const auto reads = std::make_shared<HeldReads>();
    const auto cache = open_cache(experts, std::make_unique<HeldReader>(reads), 8);
    standin::fail_call(0, cudaSuccess);
    const TestRoute route({2, 3, 4, 5});
    const auto lease = cache->reserve(route.view());
    CHECK(reads->count() == 1 && reads->parts(0) == 4);
    reads->deliver();
    lease->wait();
    CHECK(holds_records(*lease, route.ids));
    CHECK(standin::calls_of("cudaMemcpyBatchAsync") == (CUDART_VERSION >= 12080 ? 1 : 0));
    CHECK(standin::calls_of("cudaMemcpyAsync") == (CUDART_VERSION >= 12080 ? 0 : 4));
    CHECK(standin::calls_of("cudaEventRecord") == 1);
}

TEST("random work under streams on a cache that is far too small: every kernel reads what its lease was about") {
    const Experts experts(32);
    for (uint64_t seed = 1; seed <= 4; ++seed) {
        standin::set_seed(seed);
        std::vector<Buffer> records;
        for (int64_t id = 0; id < experts.count(); ++id)
            records.push_back(record_of(id));
        std::atomic<int> wrong{0};
        ComputeStream streams[2];
        const auto cache = open_cache(experts, std::make_unique<ChaoticReader>(seed, 2, 0), 6);
        std::vector<std::thread> threads;
        for (size_t thread = 0; thread < 2; ++thread) {
            threads.emplace_back([&, thread] {
                std::mt19937_64 random(seed * 10 + thread);
                for (int round = 0; round < 60; ++round) {
                    const TestRoute route({static_cast<int64_t>(random() % 32), static_cast<int64_t>(random() % 32)});
                    const auto lease = cache->acquire(route.view());
                    ComputeStream& stream = streams[random() % 2];
                    for (size_t i = 0; i < 2; ++i) {
                        stream.launch(compare, slot_of(*lease, i), records[static_cast<size_t>(route.ids[i])].data(),
                                      kRecord, &wrong);
                    }
                    lease->release(stream.number());
                }
            });
        }
        for (std::thread& thread : threads)
            thread.join();
        for (ComputeStream& stream : streams)
            CHECK(cudaStreamSynchronize(stream.handle()) == cudaSuccess);
        CHECK(wrong == 0);
        CHECK(cache->statistics().evictions > 50 && cache->statistics().slots_held == 0);
    }
}

TEST("a lost device reaches who waits, and everything ends") {
    const Experts experts(16);
    for (const bool while_copying : {false, true}) {
        standin::reset();
        ComputeStream compute;
        const auto reads = std::make_shared<HeldReads>();
        auto cache = open_cache(experts, std::make_unique<HeldReader>(reads), 2);
        auto used = cache->reserve(TestRoute({1}).view());
        reads->deliver();
        used->wait();
        Gate gate;
        gate.close(compute);
        used->release(compute.number());
        auto lease = cache->reserve(TestRoute({3, 4}).view());
        if (while_copying) {
            reads->deliver();  // a copy, which waits for the gate if it is into the slot that was used
            nap();
        }
        standin::lose_device(0);
        gate.open();
        deliver_all(*cache, *reads);
        CHECK_THROWS(DeviceError, lease->wait(), error.device == "cuda:0");
        CHECK_THROWS(DeviceError, lease->release(0));
        lease.reset();
        used.reset();
        CHECK(cache->statistics().slots_held == 0);
        // Of the two only one is sure to be under way: the other goes into a slot that nobody used.
        CHECK(cache->statistics().loads_failed >= (while_copying ? 1 : 2));
        const auto again = cache->reserve(TestRoute({5}).view());
        deliver_all(*cache, *reads);
        CHECK_THROWS(DeviceError, again->wait());
        cache->prefetch(std::vector<int64_t>{6});
        deliver_all(*cache, *reads);
    }
    cudaGetLastError();
}

TEST("a kernel that touches memory of no one loses the device, and the next lease says so") {
    const Experts experts(16);
    ComputeStream compute;
    const auto cache = open_cache(experts, make_mmap_reader(1), 1);
    const auto lease = cache->acquire(TestRoute({1}).view());
    std::atomic<int> read{0};
    compute.launch(touch, slot_of(*lease, 0) + kRecord, &read);  // behind the slab
    CHECK(cudaStreamSynchronize(compute.handle()) == cudaErrorIllegalAddress);
    cudaGetLastError();
    CHECK_THROWS(DeviceError, lease->release(compute.number()));
}

TEST("whichever call fails, with whatever error, the error is typed and nothing is left") {
    const Experts experts(16);
    for (const cudaError_t error : {cudaErrorMemoryAllocation, cudaErrorInvalidValue, cudaErrorIllegalAddress}) {
        int64_t n = 0;
        for (bool met = true; met;) {
            ++n;
            {
                ComputeStream compute;
                std::atomic<int> read{0};
                standin::fail_call(n, error);
                bool failed = false;
                try {
                    const auto cache = open_cache(experts, make_mmap_reader(1), 3);
                    cache->prefetch(std::vector<int64_t>{1, 2});
                    for (const std::vector<int64_t>& ids : {std::vector<int64_t>{1, 2}, {2, 3, 4}, {9}, {10, 11, 12}}) {
                        const auto lease = cache->acquire(TestRoute(ids).view());
                        compute.launch(touch, slot_of(*lease, 0), &read);
                        lease->release(compute.number());
                    }
                    failed = cache->statistics().loads_failed > 0;  // of a prefetch: it was tried again
                } catch (const DeviceError& raised) {
                    failed = true;
                    if (raised.problem.empty()) report(__FILE__, __LINE__, "an error that says nothing");
                } catch (const DeviceMemoryError&) {
                    failed = true;
                }
                const std::string call = standin::failed_call();
                met = !call.empty();
                // What ends something is done all the same, and what is asked on the way out is not reported.
                const bool on_the_way_out = call.find("Destroy") != std::string::npos || call == "cudaFree" ||
                                            call == "cudaHostUnregister" || call == "cudaStreamSynchronize" ||
                                            call == "cudaGetDevice" || call == "cudaSetDevice" ||
                                            call == "cudaThreadExchangeStreamCaptureMode" ||
                                            call == "cudaLaunchKernelEx" || call == "cudaEventSynchronize";
                if (met && !failed && !on_the_way_out) report(__FILE__, __LINE__, "nobody was told of " + call);
                standin::fail_call(0, cudaSuccess);
            }
            cudaGetLastError();
            const standin::Live left = standin::live();
            if (!(left == standin::Live{})) report(__FILE__, __LINE__, "something is left, call " + std::to_string(n));
            for (const std::string& violation : standin::violations())
                report("violation", static_cast<int>(n), violation);
            standin::reset(static_cast<uint64_t>(n));
        }
        CHECK(n > 60);
    }
}

TEST("two caches on one device, and on two, keep to themselves") {
    const Experts experts(16);
    std::vector<std::shared_ptr<ExpertCache>> caches;
    for (const int device : {0, 0, 1})
        caches.push_back(open_cache(experts, make_mmap_reader(1), 2, device));
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (size_t i = 0; i < caches.size(); ++i) {
        threads.emplace_back([&, i] {
            for (int64_t round = 0; round < 20; ++round) {
                const TestRoute route({(round + static_cast<int64_t>(i)) % 16, (3 * round) % 16});
                if (!holds_records(*caches[i]->acquire(route.view()), route.ids)) ++wrong;
            }
        });
    }
    for (std::thread& thread : threads)
        thread.join();
    CHECK(wrong == 0);
    standin::lose_device(1);
    CHECK_THROWS(DeviceError, caches[2]->acquire(TestRoute({14, 15}).view()), error.device == "cuda:1");
    CHECK(holds_records(*caches[0]->acquire(TestRoute({14, 15}).view()), {14, 15}));
}

TEST("a device with too little memory is refused with nothing kept, and others go on") {
    const Experts experts(16);
    standin::set_device_memory(8 * kRecord);
    const auto cache = open_cache(experts, make_mmap_reader(1), 4);
    CHECK_THROWS(DeviceMemoryError, open_cache(experts, make_mmap_reader(1), 5),
                 error.bytes == static_cast<int64_t>(5 * kRecord));
    CHECK(holds_records(*cache->acquire(TestRoute({1, 2}).view()), {1, 2}));
}

TEST("in a forked child no lease and no cache calls CUDA") {
    const Experts experts(16);
    ComputeStream compute;
    auto cache = open_cache(experts, make_mmap_reader(1), 4);
    auto lease = cache->acquire(TestRoute({1, 2}).view());
    auto released = cache->acquire(TestRoute({3}).view());
    released->release(compute.number());
    const pid_t child = fork();
    if (child == 0) {
        const int64_t before = standin::calls();
        bool good = false;
        try {
            lease->release(compute.number());
        } catch (const ClosedError&) {
            good = true;
        }
        lease.reset();
        released.reset();
        cache.reset();
        _exit(good && standin::calls() == before ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(holds_records(*cache->acquire(TestRoute({3}).view()), {3}));
}

int main() {
    return run(check_device);
}

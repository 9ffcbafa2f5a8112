// Device memory between guards, pinned host memory, and copies.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <span>
#include <tuple>

#include "state.h"

namespace standin {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;
constexpr std::byte kMargin{0xC3};

size_t rounded(size_t bytes, size_t to) {
    return (bytes + to - 1) / to * to;
}

std::span<std::byte> pages(const Allocation& allocation) {
    return {allocation.mapping + kPage, allocation.mapped - 2 * kPage};
}

void protect(const Allocation& allocation, int protection) {
    const auto inside = pages(allocation);
    if (mprotect(inside.data(), inside.size(), protection) != 0) std::abort();
}

// Uninitialised memory: a NaN in each of the floating-point types that experts may have.
void fill(std::span<std::byte> memory) {
    for (size_t i = 0; i < memory.size(); ++i)
        memory[i] = std::byte{static_cast<unsigned char>(i % 2 == 0 ? 0xA5 : 0xFF)};
}

struct Place {
    std::shared_ptr<Allocation> allocation;  // on a device
    std::shared_ptr<Pinned> pinned;          // on the host, and all of it is pinned
    bool overruns = false;                   // begins in an allocation and does not end there
};

bool inside(const std::byte* at, const std::byte* data, size_t bytes) {
    return at >= data && at < data + bytes;
}

Place locate(State& s, const void* memory, size_t bytes) {
    const auto* at = static_cast<const std::byte*>(memory);
    Place place;
    for (const auto& [data, allocation] : s.allocations) {
        if (inside(at, data, std::max<size_t>(allocation->bytes, 1))) {
            place.allocation = allocation;
            place.overruns = bytes > allocation->bytes - static_cast<size_t>(at - data);
        }
    }
    for (const auto& [data, pinned] : s.pinned) {
        if (inside(at, data, pinned->bytes) && bytes <= pinned->bytes - static_cast<size_t>(at - data)) {
            place.pinned = pinned;
        }
    }
    return place;
}

bool was_device_memory(const State& s, const void* memory) {
    const auto* at = static_cast<const std::byte*>(memory);
    const auto after = s.freed.upper_bound(const_cast<std::byte*>(at));
    if (after == s.freed.begin()) return false;
    const auto& [data, bytes] = *std::prev(after);
    return inside(at, data, bytes);
}

// Fills in what a copy touches. `asynchronous`: host memory must be pinned.
cudaError_t plan_copy(State& s, void* to, const void* from, size_t bytes, cudaMemcpyKind kind, bool asynchronous,
                      Operation& operation) {
    const Place target = locate(s, to, bytes);
    const Place source = locate(s, from, bytes);
    const auto name = [&](const char* what) {
        char text[160];
        std::snprintf(text, sizeof text, "copy of %zu bytes from %p to %p: %s", bytes, from, to, what);
        return std::string(text);
    };
    if (target.overruns || source.overruns) {
        violate(s, name("leaves its allocation"));
        return cudaErrorInvalidValue;
    }
    if (was_device_memory(s, to) || was_device_memory(s, from)) {
        violate(s, name("the device memory was freed"));
        return cudaErrorInvalidValue;
    }
    const bool to_device = target.allocation != nullptr;
    const bool from_device = source.allocation != nullptr;
    const bool fits = kind == cudaMemcpyDefault ||
                      (to_device == (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
                       from_device == (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice));
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
    if (!fits) {
        violate(s, name("not the direction that was said"));
        return cudaErrorInvalidValue;
    }
    for (const auto& [place, on_device, host] :
         {std::tuple(target, to_device, static_cast<const void*>(to)), std::tuple(source, from_device, from)}) {
        if (on_device) {
            operation.touches.push_back(place.allocation);
        } else if (place.pinned) {
            operation.pinned.push_back(place.pinned);
        } else if (asynchronous) {
            if (const cudaError_t error = violate(s, name("the host memory is not pinned")); error != cudaSuccess) {
                return error;
            }
        }
    }
    operation.work = [to, from, bytes] { std::memcpy(to, from, bytes); };
    return cudaSuccess;
}

// As CUDA does when the host's memory is not pinned: a copy to the device takes the bytes now.
void take_now(Operation& operation, void* to, const void* from, size_t bytes) {
    auto taken = std::make_shared<std::vector<std::byte>>(bytes);
    std::memcpy(taken->data(), from, bytes);
    operation.work = [to, taken] { std::memcpy(to, taken->data(), taken->size()); };
}

cudaError_t copy(State& s, Lock& lock, void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                 const std::shared_ptr<Stream>& stream, bool asynchronous) {
    if (bytes == 0) return cudaSuccess;
    Operation operation;
    if (const cudaError_t error = plan_copy(s, to, from, bytes, kind, asynchronous, operation); error != cudaSuccess) {
        return error;
    }
    const bool unpinned = operation.pinned.size() + operation.touches.size() < 2;
    const bool to_host = locate(s, to, bytes).allocation == nullptr;
    if (unpinned && asynchronous && !to_host) take_now(operation, to, from, bytes);
    Point point;
    const cudaError_t error = submit(s, stream, std::move(operation), &point);
    if (error == cudaSuccess && (!asynchronous || (unpinned && to_host))) {
        wait_for(s, lock, point);
        return lost(s, stream->device);
    }
    return error;
}

cudaError_t set(State& s, Lock& lock, void* memory, int value, size_t bytes, const std::shared_ptr<Stream>& stream,
                bool asynchronous) {
    if (bytes == 0) return cudaSuccess;
    const Place place = locate(s, memory, bytes);
    if (!place.allocation || place.overruns) {
        violate(s, "a memset leaves its allocation, or is of no device memory");
        return cudaErrorInvalidValue;
    }
    Point point;
    const cudaError_t error = submit(
        s, stream,
        {.work = [memory, value, bytes] { std::memset(memory, value, bytes); }, .touches = {place.allocation}}, &point);
    if (error == cudaSuccess && !asynchronous) {
        wait_for(s, lock, point);
        return lost(s, stream->device);
    }
    return error;
}

cudaError_t unpin(State& s, void* memory, bool allocated) {
    const auto found = s.pinned.find(static_cast<std::byte*>(memory));
    if (found == s.pinned.end() || found->second->allocated != allocated) {
        violate(s, allocated ? "cudaFreeHost of what cudaHostAlloc did not give, or of what is freed"
                             : "cudaHostUnregister of what is not registered");
        return allocated ? cudaErrorInvalidValue : cudaErrorHostMemoryNotRegistered;
    }
    if (found->second->pending > 0) {
        const cudaError_t error = violate(s, "pinned memory is given up while an operation uses it");
        if (error != cudaSuccess) return error;
    }
    found->second->gone = true;
    if (allocated) ::operator delete(memory, std::align_val_t{kPage});
    s.pinned.erase(found);
    return lost(s, current_device());
}

}  // namespace

void open_memory(State& s, Operation& operation, int device) {
    if (operation.touches_all) {
        for (const auto& [data, allocation] : s.allocations) {
            if (allocation->device == device) operation.touches.push_back(allocation);
        }
    }
    for (const auto& allocation : operation.touches) {
        if (allocation->open++ == 0 && !allocation->freed) protect(*allocation, PROT_READ | PROT_WRITE);
    }
}

void close_memory(const Operation& operation) {
    for (const auto& allocation : operation.touches) {
        if (--allocation->open == 0 && !allocation->freed) protect(*allocation, PROT_NONE);
    }
}

void check_margins(State& s, const Allocation& allocation) {
    if (allocation.freed) return;
    if (allocation.open == 0) protect(allocation, PROT_READ);
    const auto inside_pages = pages(allocation);
    for (const std::byte& byte : inside_pages) {
        if (inside(&byte, allocation.data, allocation.bytes)) continue;
        if (byte == kMargin) continue;
        char text[120];
        std::snprintf(text, sizeof text, "a byte was written %td bytes from the beginning of an allocation of %zu",
                      &byte - allocation.data, allocation.bytes);
        s.violations.emplace_back(text);
        break;
    }
    if (allocation.open == 0) protect(allocation, PROT_NONE);
}

cudaError_t free_now(State& s, const std::shared_ptr<Allocation>& allocation) {
    check_margins(s, *allocation);
    protect(*allocation, PROT_NONE);
    madvise(allocation->mapping, allocation->mapped, MADV_DONTNEED);  // the addresses stay taken for ever
    allocation->freed = true;
    s.freed.emplace(allocation->data, allocation->bytes);
    s.allocations.erase(allocation->data);
    return cudaSuccess;
}

}  // namespace standin

using namespace standin;

cudaError_t cudaMalloc(void** memory, size_t bytes) {
    return call("cudaMalloc", kUnsafe, [&](State& s, Lock&) {
        const int device = current_device();
        if (const cudaError_t error = lost(s, device); error != cudaSuccess) return error;
        *memory = nullptr;
        if (bytes == 0) return cudaSuccess;
        size_t used = 0;
        for (const auto& [data, allocation] : s.allocations)
            used += allocation->device == device ? allocation->bytes : 0;
        if (bytes > s.device_bytes || used > s.device_bytes - bytes) return cudaErrorMemoryAllocation;
        const size_t padded = rounded(bytes, kAlignment);
        auto allocation = std::make_shared<Allocation>();
        allocation->mapped = rounded(padded, kPage) + 2 * kPage;
        void* at = mmap(nullptr, allocation->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) return cudaErrorMemoryAllocation;
        allocation->mapping = static_cast<std::byte*>(at);
        allocation->data = allocation->mapping + allocation->mapped - kPage - padded;
        allocation->bytes = bytes;
        allocation->device = device;
        protect(*allocation, PROT_READ | PROT_WRITE);
        std::memset(pages(*allocation).data(), static_cast<int>(kMargin), pages(*allocation).size());
        fill({allocation->data, bytes});
        protect(*allocation, PROT_NONE);
        *memory = allocation->data;
        s.allocations.emplace(allocation->data, std::move(allocation));
        return cudaSuccess;
    });
}

cudaError_t cudaFree(void* memory) {
    return call("cudaFree", kUnsafe | kCompletes, [&](State& s, Lock&) {
        if (memory == nullptr) return cudaSuccess;
        const auto found = s.allocations.find(static_cast<std::byte*>(memory));
        if (found == s.allocations.end()) {
            violate(s, s.freed.contains(static_cast<std::byte*>(memory)) ? "cudaFree of what is freed"
                                                                         : "cudaFree of what cudaMalloc did not give");
            return cudaErrorInvalidValue;
        }
        if (found->second->pending > 0) {
            const cudaError_t error = violate(s, "device memory is freed while an operation uses it");
            if (error != cudaSuccess) return error;
        }
        const int device = found->second->device;
        free_now(s, std::shared_ptr(found->second));
        return lost(s, device);
    });
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned int) {
    return call("cudaHostAlloc", kUnsafe, [&](State& s, Lock&) {
        if (const cudaError_t error = lost(s, current_device()); error != cudaSuccess) return error;
        *memory = nullptr;
        if (bytes == 0) return cudaSuccess;
        *memory = ::operator new(bytes, std::align_val_t{kPage}, std::nothrow);
        if (*memory == nullptr) return cudaErrorMemoryAllocation;
        auto* data = static_cast<std::byte*>(*memory);
        s.pinned.emplace(data, std::make_shared<Pinned>(Pinned{.data = data, .bytes = bytes, .allocated = true}));
        return cudaSuccess;
    });
}

cudaError_t cudaFreeHost(void* memory) {
    return call("cudaFreeHost", kUnsafe | kCompletes,
                [&](State& s, Lock&) { return memory == nullptr ? cudaSuccess : unpin(s, memory, true); });
}

cudaError_t cudaHostRegister(void* memory, size_t bytes, unsigned int) {
    return call("cudaHostRegister", kUnsafe, [&](State& s, Lock&) {
        if (const cudaError_t error = lost(s, current_device()); error != cudaSuccess) return error;
        auto* data = static_cast<std::byte*>(memory);
        if (data == nullptr || bytes == 0) return cudaErrorInvalidValue;
        for (const auto& [at, pinned] : s.pinned) {
            if (data < at + pinned->bytes && at < data + bytes) return cudaErrorHostMemoryAlreadyRegistered;
        }
        auto* page = data - reinterpret_cast<uintptr_t>(data) % kPage;
        std::vector<unsigned char> there(static_cast<size_t>(data + bytes - page + 4095) / kPage);
        if (mincore(page, static_cast<size_t>(data + bytes - page), there.data()) != 0) return cudaErrorInvalidValue;
        s.pinned.emplace(data, std::make_shared<Pinned>(Pinned{.data = data, .bytes = bytes}));
        return cudaSuccess;
    });
}

cudaError_t cudaHostUnregister(void* memory) {
    return call("cudaHostUnregister", kUnsafe | kCompletes, [&](State& s, Lock&) { return unpin(s, memory, false); });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
    return call("cudaPointerGetAttributes", kPlain, [&](State& s, Lock&) {
        const Place place = locate(s, memory, 1);
        void* at = const_cast<void*>(memory);
        *attributes = {.type = cudaMemoryTypeUnregistered, .device = -1, .devicePointer = nullptr, .hostPointer = at};
        if (place.allocation) {
            *attributes = {.type = cudaMemoryTypeDevice,
                           .device = place.allocation->device,
                           .devicePointer = at,
                           .hostPointer = nullptr};
        } else if (place.pinned) {
            attributes->type = cudaMemoryTypeHost;
            attributes->device = 0;
            attributes->devicePointer = at;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return call("cudaMemcpy", kUnsafe, [&](State& s, Lock& lock) {
        return copy(s, lock, to, from, bytes, kind, find_stream(s, nullptr), false);
    });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return call("cudaMemcpyAsync", kPlain, [&](State& s, Lock& lock) {
        const auto found = find_stream(s, stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        return copy(s, lock, to, from, bytes, kind, found, true);
    });
}

cudaError_t cudaMemcpyBatchAsync(void* const* to, const void* const* from, const size_t* bytes, size_t count,
                                 cudaMemcpyAttributes* attributes, size_t* attribute_starts, size_t attribute_count,
                                 cudaStream_t stream) {
    return call("cudaMemcpyBatchAsync", kPlain, [&](State& s, Lock& lock) {
        if (stream == nullptr || stream == cudaStreamLegacy) return cudaErrorInvalidValue;  // CUDA has it refuse them
        const auto found = find_stream(s, stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        if (found->capture) {
            invalidate(s, *found->capture, cudaErrorStreamCaptureUnsupported);
            return cudaErrorStreamCaptureUnsupported;
        }
        if (count == 0 || attribute_count == 0 || attribute_count > count || attribute_starts[0] != 0) {
            return cudaErrorInvalidValue;
        }
        for (size_t i = 0; i < attribute_count; ++i) {
            if (attributes[i].srcAccessOrder < cudaMemcpySrcAccessOrderStream ||
                attributes[i].srcAccessOrder > cudaMemcpySrcAccessOrderAny) {
                return cudaErrorInvalidValue;
            }
            if (attribute_starts[i] >= count || (i > 0 && attribute_starts[i] <= attribute_starts[i - 1])) {
                return cudaErrorInvalidValue;
            }
        }
        std::vector<size_t> order(count);
        for (size_t i = 0; i < count; ++i)
            order[i] = i;
        std::shuffle(order.begin(), order.end(), found->random);  // no order is promised within a batch
        for (const size_t i : order) {
            if (bytes[i] == 0) return cudaErrorInvalidValue;
            Operation checked;
            const cudaError_t error = plan_copy(s, to[i], from[i], bytes[i], cudaMemcpyDefault, true, checked);
            if (error != cudaSuccess) return error;
        }
        for (const size_t i : order) {
            const cudaError_t error = copy(s, lock, to[i], from[i], bytes[i], cudaMemcpyDefault, found, true);
            if (error != cudaSuccess) return error;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
    return call("cudaMemset", kUnsafe, [&](State& s, Lock& lock) {
        return set(s, lock, memory, value, bytes, find_stream(s, nullptr), false);
    });
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
    return call("cudaMemsetAsync", kPlain, [&](State& s, Lock& lock) {
        const auto found = find_stream(s, stream);
        if (!found) return cudaErrorInvalidResourceHandle;
        return set(s, lock, memory, value, bytes, found, true);
    });
}

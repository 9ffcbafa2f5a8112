// What the runtime needs of a device: memory, a stream that copies into it, and events that say when something is done.
//
// The cpu implementation has memory of its own and a copy stream that is a thread, so that everything above it runs the
// same way on a machine without a GPU.
//
// Where there is a driver that can fail, any of this may throw DeviceError; what is destroyed afterwards neither throws
// nor waits for ever.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace mome {

// Memory that is given back when the handle goes. Page-aligned.
class Allocation {
  public:
    virtual ~Allocation() = default;
    Allocation(const Allocation&) = delete;
    Allocation& operator=(const Allocation&) = delete;
    std::byte* data() const { return memory_.data(); }
    std::span<std::byte> span() const { return memory_; }

  protected:
    explicit Allocation(std::span<std::byte> memory) : memory_(memory) {}
    std::span<std::byte> memory_;
};

// A point in a stream.
class Event {
  public:
    virtual ~Event() = default;
    // Returns when everything that was put into the stream before the event is done.
    virtual void wait() = 0;
};

struct Copy {
    std::byte* to_device;
    const std::byte* from_host;  // staging memory
    size_t bytes;
};

// What is put in is done in that order, beside the thread that puts it in; the copies of one call in any order.
class CopyStream {
  public:
    virtual ~CopyStream() = default;  // waits for what is under way
    // All ranges must stay valid until an event after the copies, or until `drain` when this throws.
    virtual void copy(std::span<const Copy> copies) = 0;
    virtual std::shared_ptr<Event> record() = 0;
    // What is put in from now on begins when `event` of the same device is reached. The caller doesn't wait for it.
    virtual void wait(const std::shared_ptr<Event>& event) = 0;
    // Returns when everything that was put in is done, or is known never to be.
    virtual void drain() noexcept = 0;
};

class Device {
  public:
    virtual ~Device() = default;
    virtual std::string_view name() const = 0;

    // True when the host may write device memory itself: then reads can go straight into a slot.
    virtual bool host_writes() const = 0;

    // Device memory, and host memory that copies to the device start from (pinned, where there is such a thing). Both
    // throw DeviceMemoryError when there is not so much.
    virtual std::unique_ptr<Allocation> allocate(size_t bytes) = 0;
    virtual std::unique_ptr<Allocation> allocate_staging(size_t bytes) = 0;

    virtual std::unique_ptr<CopyStream> make_stream() = 0;

    // The point up to which somebody else's stream has been filled; `stream` is its handle (a cudaStream_t; 0 is the
    // default stream). On the cpu nothing runs later, and the event is one that is reached.
    virtual std::shared_ptr<Event> record(uintptr_t stream) = 0;

    // Copies out of device memory and waits for that; for tests and diagnosis.
    virtual void read(std::span<std::byte> to, const std::byte* from_device) = 0;
};

// The device of that name: "cpu". Throws SchemaError for any other.
std::unique_ptr<Device> make_device(std::string_view name);

}  // namespace mome

// What the runtime needs of a device: memory, a stream that copies into it, and events that say when a copy is done.
//
// The cpu implementation has memory of its own and a copy stream that is a thread, so that everything above it runs the
// same way on a machine without a GPU.
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

// Copies run in the order in which they are put in, beside the thread that does so.
class CopyStream {
  public:
    virtual ~CopyStream() = default;  // waits for what is under way
    // Both ranges must stay valid until an event after the copy.
    virtual void copy(std::byte* to_device, const std::byte* from_host, size_t bytes) = 0;
    virtual std::unique_ptr<Event> record() = 0;
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
};

// The device of that name: "cpu". Throws SchemaError for any other.
std::unique_ptr<Device> make_device(std::string_view name);

}  // namespace mome

// The cpu as a device: anonymous memory in huge pages where the system has them, and a thread as the copy stream.
#include <sys/mman.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <variant>

#include "device/device.h"
#include "format/errors.h"

namespace mome {
namespace {

class MappedMemory final : public Allocation {
  public:
    explicit MappedMemory(size_t bytes) : Allocation(map(bytes)) {}
    ~MappedMemory() override { munmap(memory_.data(), memory_.size()); }

  private:
    static std::span<std::byte> map(size_t bytes) {
        void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) throw DeviceMemoryError("cpu", static_cast<int64_t>(bytes));
        madvise(at, bytes, MADV_HUGEPAGE);  // fewer page faults while slots are filled the first time; only advice
        return {static_cast<std::byte*>(at), bytes};
    }
};

class CpuEvent final : public Event {
  public:
    explicit CpuEvent(std::future<void> reached) : reached_(std::move(reached)) {}
    void wait() override { reached_.wait(); }

  private:
    std::future<void> reached_;
};

class CpuStream final : public CopyStream {
  public:
    CpuStream() : worker_([this] { run(); }) {}
    ~CpuStream() override {
        put(Stop{});
        worker_.join();
    }
    void copy(std::span<const Copy> copies) override {
        for (const Copy& copy : copies)
            put(copy);
    }
    std::shared_ptr<Event> record() override {
        std::promise<void> promise;
        auto event = std::make_shared<CpuEvent>(promise.get_future());
        put(std::move(promise));
        return event;
    }
    void wait(const std::shared_ptr<Event>& event) override { put(event); }
    void drain() noexcept override { record()->wait(); }

  private:
    struct Stop {};
    using Command = std::variant<Copy, std::promise<void>, std::shared_ptr<Event>, Stop>;

    void put(Command command) {
        {
            const std::lock_guard lock(mutex_);
            queue_.push_back(std::move(command));
        }
        filled_.notify_one();
    }
    Command take() {
        std::unique_lock lock(mutex_);
        filled_.wait(lock, [this] { return !queue_.empty(); });
        Command command = std::move(queue_.front());
        queue_.pop_front();
        return command;
    }
    void run() {
        for (;;) {
            Command command = take();
            if (const auto* copy = std::get_if<Copy>(&command)) {
                std::memcpy(copy->to_device, copy->from_host, copy->bytes);
            } else if (auto* recorded = std::get_if<std::promise<void>>(&command)) {
                recorded->set_value();
            } else if (const auto* awaited = std::get_if<std::shared_ptr<Event>>(&command)) {
                (*awaited)->wait();
            } else {
                return;
            }
        }
    }

    std::mutex mutex_;
    std::condition_variable filled_;
    std::deque<Command> queue_;
    std::thread worker_;  // last: it runs as soon as it is made
};

class CpuDevice final : public Device {
  public:
    std::string_view name() const override { return "cpu"; }
    bool host_writes() const override { return true; }
    std::unique_ptr<Allocation> allocate(size_t bytes) override { return std::make_unique<MappedMemory>(bytes); }
    std::unique_ptr<Allocation> allocate_staging(size_t bytes) override {
        return std::make_unique<MappedMemory>(bytes);
    }
    std::unique_ptr<CopyStream> make_stream() override { return std::make_unique<CpuStream>(); }
    std::shared_ptr<Event> record(uintptr_t) override {
        std::promise<void> reached;
        reached.set_value();
        return std::make_shared<CpuEvent>(reached.get_future());
    }
    void read(std::span<std::byte> to, const std::byte* from_device) override {
        std::memcpy(to.data(), from_device, to.size());
    }
};

}  // namespace

std::unique_ptr<Device> make_device(std::string_view name) {
    if (name == "cpu") return std::make_unique<CpuDevice>();
    throw SchemaError("there is no device '" + std::string(name) + "'; this build knows 'cpu'");
}

}  // namespace mome

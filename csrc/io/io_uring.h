// A submission and completion queue shared with the kernel: the few operations of io_uring(7) that reads need, by
// system call, so that nothing but the kernel's headers is required.
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace mome {

// All calls come from one thread at a time; with `single_issuer` the kernel is told so, and it must be the thread that
// made the ring.
class IoUring {
  public:
    // Throws std::system_error (ENOSYS: no such thing in this kernel; EPERM: forbidden in this container).
    explicit IoUring(unsigned entries);
    ~IoUring();
    IoUring(const IoUring&) = delete;
    IoUring& operator=(const IoUring&) = delete;

    // A zeroed entry to fill in; null when `entries` are waiting to be submitted.
    io_uring_sqe* next();

    // Hands over what was filled in and waits until at least one operation has completed.
    void submit_and_wait();

    // Calls `each(user_data, result)` for everything that has completed, and forgets it.
    void reap(const std::function<void(uint64_t, int)>& each);

    // Pins memory for reads with a fixed buffer; a table of files for reads with a fixed file. False: refused (a limit
    // on locked memory, an old kernel), and reads go on without.
    bool register_buffers(std::span<const std::span<std::byte>> buffers);
    bool register_file_table(unsigned slots);
    bool set_file(unsigned slot, int fd);  // -1 empties the slot

  private:
    struct Mapping {
        std::byte* at = nullptr;
        size_t bytes = 0;
    };
    Mapping map(size_t bytes, uint64_t what) const;
    int enter(unsigned to_submit, unsigned to_wait_for) const;
    void release();

    int fd_ = -1;
    Mapping rings_;
    Mapping entries_;
    unsigned* sq_head_ = nullptr;
    unsigned* sq_tail_ = nullptr;
    unsigned* sq_array_ = nullptr;
    unsigned sq_mask_ = 0;
    unsigned sq_entries_ = 0;
    io_uring_sqe* sqes_ = nullptr;
    unsigned* cq_head_ = nullptr;
    unsigned* cq_tail_ = nullptr;
    io_uring_cqe* cqes_ = nullptr;
    unsigned cq_mask_ = 0;
    unsigned prepared_ = 0;  // filled in and not yet submitted
};

}  // namespace mome

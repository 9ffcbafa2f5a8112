// Sets a ring up and moves entries through it. The kernel and we share the queues' heads and tails: each side writes
// its own with release and reads the other's with acquire.
#include "io/io_uring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

namespace mome {
namespace {

[[noreturn]] void fail(const char* what) {
    throw std::system_error(errno, std::generic_category(), what);
}

int setup(unsigned entries, io_uring_params& parameters) {
    return static_cast<int>(syscall(SYS_io_uring_setup, entries, &parameters));
}

int register_with(int fd, unsigned what, const void* argument, unsigned count) {
    return static_cast<int>(syscall(SYS_io_uring_register, fd, what, argument, count));
}

}  // namespace

IoUring::IoUring(unsigned entries) {
    io_uring_params parameters{};
#ifdef IORING_SETUP_DEFER_TASKRUN
    // One thread submits and waits: completions then need no interrupt of it. Kernels before 6.1 know no such flags.
    parameters.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    fd_ = setup(entries, parameters);
    if (fd_ < 0 && errno == EINVAL) {
        parameters = {};
        fd_ = setup(entries, parameters);
    }
#else
    fd_ = setup(entries, parameters);
#endif
    if (fd_ < 0) fail("io_uring_setup");
    try {
        if ((parameters.features & IORING_FEAT_SINGLE_MMAP) == 0) {
            errno = ENOSYS;  // kernels before 5.4
            fail("io_uring_setup");
        }
        const size_t sq_bytes = parameters.sq_off.array + parameters.sq_entries * sizeof(unsigned);
        const size_t cq_bytes = parameters.cq_off.cqes + parameters.cq_entries * sizeof(io_uring_cqe);
        rings_ = map(std::max(sq_bytes, cq_bytes), IORING_OFF_SQ_RING);
        entries_ = map(parameters.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
    } catch (...) {
        release();
        throw;
    }
    auto field = [this](unsigned offset) { return reinterpret_cast<unsigned*>(rings_.at + offset); };
    sq_head_ = field(parameters.sq_off.head);
    sq_tail_ = field(parameters.sq_off.tail);
    sq_array_ = field(parameters.sq_off.array);
    sq_mask_ = *field(parameters.sq_off.ring_mask);
    sq_entries_ = parameters.sq_entries;
    sqes_ = reinterpret_cast<io_uring_sqe*>(entries_.at);
    cq_head_ = field(parameters.cq_off.head);
    cq_tail_ = field(parameters.cq_off.tail);
    cqes_ = reinterpret_cast<io_uring_cqe*>(rings_.at + parameters.cq_off.cqes);
    cq_mask_ = *field(parameters.cq_off.ring_mask);
}

IoUring::~IoUring() {
    release();
}

void IoUring::release() {
    if (entries_.at != nullptr) munmap(entries_.at, entries_.bytes);
    if (rings_.at != nullptr) munmap(rings_.at, rings_.bytes);
    close(fd_);
}

IoUring::Mapping IoUring::map(size_t bytes, uint64_t what) const {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, static_cast<off_t>(what));
    if (at == MAP_FAILED) fail("mmap of an io_uring");
    return {.at = static_cast<std::byte*>(at), .bytes = bytes};
}

io_uring_sqe* IoUring::next() {
    const unsigned tail = *sq_tail_ + prepared_;  // only we write the tail
    if (tail - std::atomic_ref(*sq_head_).load(std::memory_order_acquire) >= sq_entries_) return nullptr;
    const unsigned at = tail & sq_mask_;
    sq_array_[at] = at;
    ++prepared_;
    std::memset(&sqes_[at], 0, sizeof sqes_[at]);
    return &sqes_[at];
}

void IoUring::submit_and_wait() {
    std::atomic_ref(*sq_tail_).store(*sq_tail_ + prepared_, std::memory_order_release);
    unsigned left = prepared_;
    prepared_ = 0;
    for (;;) {
        const int taken = enter(left, 1);
        if (taken < 0) {
            if (errno == EINTR || errno == EAGAIN || errno == EBUSY) continue;
            fail("io_uring_enter");
        }
        left -= static_cast<unsigned>(taken);
        if (left == 0) return;
    }
}

int IoUring::enter(unsigned to_submit, unsigned to_wait_for) const {
    return static_cast<int>(
        syscall(SYS_io_uring_enter, fd_, to_submit, to_wait_for, IORING_ENTER_GETEVENTS, nullptr, 0));
}

void IoUring::reap(const std::function<void(uint64_t, int)>& each) {
    unsigned head = *cq_head_;  // only we write the head
    while (head != std::atomic_ref(*cq_tail_).load(std::memory_order_acquire)) {
        const io_uring_cqe completed = cqes_[head & cq_mask_];
        std::atomic_ref(*cq_head_).store(++head, std::memory_order_release);
        each(completed.user_data, completed.res);
    }
}

bool IoUring::register_buffers(std::span<const std::span<std::byte>> buffers) {
    std::vector<iovec> vectors;
    for (const std::span<std::byte> buffer : buffers)
        vectors.push_back({.iov_base = buffer.data(), .iov_len = buffer.size()});
    const auto count = static_cast<unsigned>(vectors.size());
    return register_with(fd_, IORING_REGISTER_BUFFERS, vectors.data(), count) == 0;
}

bool IoUring::register_file_table(unsigned slots) {
    const std::vector<int> empty(slots, -1);
    return register_with(fd_, IORING_REGISTER_FILES, empty.data(), slots) == 0;
}

bool IoUring::set_file(unsigned slot, int fd) {
    io_uring_files_update update{};
    update.offset = slot;
    update.fds = reinterpret_cast<uint64_t>(&fd);
    return register_with(fd_, IORING_REGISTER_FILES_UPDATE, &update, 1) == 1;
}

}  // namespace mome

// Threads that run jobs.
#include "io/work_queue.h"

#include <iterator>
#include <utility>

namespace mome {

WorkQueue::WorkQueue(int threads) {
    for (int i = 0; i < threads; ++i)
        threads_.emplace_back([this] { run(); });
}

WorkQueue::~WorkQueue() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    filled_.notify_all();
    for (std::thread& thread : threads_)
        thread.join();
}

void WorkQueue::put(std::vector<Job> jobs) {
    const size_t count = jobs.size();
    {
        const std::lock_guard lock(mutex_);
        jobs_.insert(jobs_.end(), std::move_iterator(jobs.begin()), std::move_iterator(jobs.end()));
    }
    if (count > 1) {
        filled_.notify_all();
    } else {
        filled_.notify_one();
    }
}

bool WorkQueue::help() {
    std::unique_lock lock(mutex_);
    if (jobs_.empty()) return false;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    return true;
}

void WorkQueue::run() {
    for (;;) {
        {
            std::unique_lock lock(mutex_);
            filled_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
            if (jobs_.empty()) return;
        }
        help();
    }
}

}  // namespace mome

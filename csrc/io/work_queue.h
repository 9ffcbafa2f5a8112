// Threads that run jobs in the order in which they were put in.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace mome {

class WorkQueue {
  public:
    using Job = std::function<void()>;  // must not throw

    explicit WorkQueue(int threads);
    ~WorkQueue();  // runs what is queued first
    WorkQueue(const WorkQueue&) = delete;
    WorkQueue& operator=(const WorkQueue&) = delete;

    void put(std::vector<Job> jobs);

    // Runs the first job in the calling thread; false when there is none.
    bool help();

  private:
    void run();

    std::mutex mutex_;
    std::condition_variable filled_;
    std::deque<Job> jobs_;
    bool stopping_ = false;
    std::vector<std::thread> threads_;  // last: they run as soon as they are made
};

}  // namespace mome

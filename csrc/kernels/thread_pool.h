// Threads that share the tasks of one call, phase by phase.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mome {

// A function and what it works on, as std::function_ref will be: it holds no copy, and does not throw.
class PhaseTask {
  public:
    template <class Body>
    explicit PhaseTask(const Body& body)
        : context_(&body), call_([](const void* context, size_t phase, int64_t task) noexcept {
              (*static_cast<const Body*>(context))(phase, task);
          }) {}

    void operator()(size_t phase, int64_t task) const noexcept { call_(context_, phase, task); }

  private:
    const void* context_;
    void (*call_)(const void*, size_t, int64_t) noexcept;
};

constexpr size_t kMostPhases = 2;

// Calls body(phase, task) once for every task in [0, tasks[phase]), on up to `threads` threads, of which the caller is
// one; every task of a phase is done before the first of the next. tasks: at most kMostPhases counts. Which thread does
// which task is left to chance, so a task must give the same whoever does it.
//
// The other threads belong to the process and stay: started when first needed, they spin for a moment after their work
// and then sleep. They serve one call at a time: a call that comes meanwhile, from another thread, runs all its tasks
// by itself instead of waiting. A forked child starts threads of its own. Threads that the system refuses are done
// without.
void run_phases(int threads, std::span<const int64_t> tasks, PhaseTask body);

}  // namespace mome

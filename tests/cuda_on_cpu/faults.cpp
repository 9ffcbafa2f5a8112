// Turns an access fault in a running operation into an error.
#include "faults.h"

#include <csignal>
#include <exception>
#include <utility>

#include "fibers.h"
#include "state.h"

namespace standin {
namespace {

thread_local sigjmp_buf* t_way_out = nullptr;  // of the operation that this thread runs

struct sigaction g_before_segv, g_before_bus;

void on_fault(int signal, siginfo_t* info, void* context) {
    if (t_way_out != nullptr) siglongjmp(*t_way_out, 1);
    const struct sigaction& before = signal == SIGSEGV ? g_before_segv : g_before_bus;
    if ((before.sa_flags & SA_SIGINFO) != 0) {
        before.sa_sigaction(signal, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(signal);
    } else {
        sigaction(signal, &before, nullptr);  // and the access is tried again
    }
}

}  // namespace

sigjmp_buf* exchange_way_out(sigjmp_buf* way_out) {
    return std::exchange(t_way_out, way_out);
}

void install_fault_handler() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &g_before_segv);
    sigaction(SIGBUS, &action, &g_before_bus);
}

// What the frames between here and the fault own is not destroyed.
cudaError_t guarded(const std::function<void()>& work) {
    sigjmp_buf here;
    sigjmp_buf* const outer = t_way_out;
    if (sigsetjmp(here, 1) != 0) {
        t_way_out = outer;
        return cudaErrorIllegalAddress;
    }
    t_way_out = &here;
    cudaError_t result = cudaSuccess;
    try {
        work();
    } catch (const KernelFault&) {
        result = cudaErrorIllegalAddress;
    } catch (const std::exception&) {
        result = cudaErrorLaunchFailure;
    }
    t_way_out = outer;
    return result;
}

bool faults(const std::function<void()>& access) {
    state();
    return guarded(access) == cudaErrorIllegalAddress;
}

}  // namespace standin

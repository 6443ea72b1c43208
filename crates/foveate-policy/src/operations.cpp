// Which of libtorch's operations are called, which tch does not bind.

#include <memory>
#include <stdexcept>

#include <ATen/record_function.h>

#include "native.h"

namespace {

using Note = void (*)(void *, const char *name, const char *overload);

struct Watch {
    Note note;
    void *to;
    at::CallbackHandle handle;
};

thread_local Watch *watching = nullptr;

std::unique_ptr<at::ObserverContext> noted(const at::RecordFunction &call) {
    if (watching) watching->note(watching->to, call.name(), call.overload_name());
    return nullptr;
}

} // namespace

extern "C" {

// Notes the names of each operation that this thread calls, those called by others too, until the same thread ends it.
int foveate_begin_watching(Note note, void *to, char *message, size_t size) {
    return guarded(message, size, [&] {
        if (watching) throw std::logic_error("this thread's operations are watched already");
        at::RecordFunctionCallback callback(noted);
        watching = new Watch{note, to, at::addThreadLocalCallback(callback.scopes({at::RecordScope::FUNCTION}))};
    });
}

void foveate_end_watching() {
    at::removeCallback(watching->handle);
    delete watching;
    watching = nullptr;
}
}

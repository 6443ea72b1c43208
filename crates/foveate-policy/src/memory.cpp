// Settings of libtorch and what its allocators do, which tch does not bind.

#include <atomic>
#include <memory>

#include <ATen/Context.h>
#include <c10/core/Allocator.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "native.h"

namespace {

// Counts the tensors' memory that this thread asks for, on any device.
struct Counter final : c10::MemoryReportingInfoBase {
    std::atomic<uint64_t> count{0};

    void reportMemoryUsage(void *, int64_t size, size_t, size_t, c10::Device) override { count += size > 0; }
    bool memoryProfilingEnabled() const override { return true; }
};

struct Counting {
    std::shared_ptr<Counter> counter = std::make_shared<Counter>();
    c10::DebugInfoGuard guard{c10::DebugInfoKind::PROFILER_STATE, counter};
};

} // namespace

extern "C" {

// Settings for CUDA, before anything is done on it.
int foveate_settle_cuda(char *message, size_t size) {
    return guarded(message, size, [&] {
        // It makes a plan for every shape, and every video brings new ones.
        at::globalContext().setSDPUseCuDNN(false);
        // libtorch has read them from the environment.
        if (c10::CachingAllocator::getAllocatorSettings().empty())
            c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
    });
}

// Most bytes that were in use at a time on the CUDA device of this number.
int foveate_peak_bytes(int device, double *bytes, char *message, size_t size) {
    return guarded(message, size, [&] {
        auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
        constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
        *bytes = static_cast<double>(stats.allocated_bytes[all].peak);
    });
}

// Begins to count; to be ended by the same thread, the newest first.
int foveate_begin_counting(Counting **counting, char *message, size_t size) {
    return guarded(message, size, [&] { *counting = new Counting; });
}

uint64_t foveate_counted(const Counting *counting) { return counting->counter->count; }

void foveate_end_counting(Counting *counting) { delete counting; }
}

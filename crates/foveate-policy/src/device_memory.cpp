// What libtorch's allocator of a device has handed out at most, which tch does not bind.

#include <c10/core/CachingDeviceAllocator.h>

#include "native.h"

extern "C" {

// Most bytes that were in use at a time on the CUDA device of this number.
int foveate_peak_bytes(int device, double *bytes, char *message, size_t size) {
    return guarded(message, size, [&] {
        auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
        constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
        *bytes = static_cast<double>(stats.allocated_bytes[all].peak);
    });
}
}

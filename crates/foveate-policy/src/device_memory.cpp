// What libtorch's allocator of a device has handed out at most, which tch does not bind.

#include <cstring>
#include <exception>

#include <c10/core/CachingDeviceAllocator.h>

extern "C" {

// Most bytes that were in use at a time on the CUDA device of this number. Returns 0, or 1 with a message.
int foveate_peak_bytes(int device, double *bytes, char *message, size_t size) {
    try {
        auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
        constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
        *bytes = static_cast<double>(stats.allocated_bytes[all].peak);
        return 0;
    } catch (const std::exception &error) {
        std::strncpy(message, error.what(), size - 1);
        message[size - 1] = 0;
        return 1;
    }
}
}

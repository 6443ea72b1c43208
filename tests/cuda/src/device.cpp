// A CUDA device that is none: loaded in the place of libtorch_cuda, these two files make of `cuda:0` a device whose memory
// is the host's and whose operations are the CPU's. Here: its memory, its one stream, which is always done, and what libtorch
// asks about it.

#include <cstring>
#include <mutex>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::Stream;

const Device DEVICE(c10::DeviceType::CUDA, 0);

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
    Device exchangeDevice(Device) const override { return DEVICE; }
    Device getDevice() const override { return DEVICE; }
    Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, DEVICE); }
    Stream getDefaultStream(Device) const override { return Stream(Stream::DEFAULT, DEVICE); }
    Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, DEVICE); }
    void record(void **, const Stream &, DeviceIndex, c10::EventFlag) const override {}
    void block(void *, const Stream &) const override {}
    bool queryEvent(void *) const override { return true; }
    void synchronizeDevice(DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

// The host's memory under the device's name: counted, and garbage until it is written.
struct Memory final : c10::DeviceAllocator {
    struct Block {
        Memory *memory;
        void *data;
        int64_t bytes;
    };

    c10::DataPtr allocate(size_t bytes) override {
        auto *block = new Block{this, bytes ? c10::alloc_cpu(bytes) : nullptr, static_cast<int64_t>(bytes)};
        if (bytes) std::memset(block->data, 0xff, bytes); // no number; -1 as an integer
        account(block->data, block->bytes);
        return {block->data, block, release, DEVICE};
    }

    static void release(void *context) {
        auto *block = static_cast<Block *>(context);
        block->memory->account(block->data, -block->bytes);
        if (block->data) c10::free_cpu(block->data);
        delete block;
    }

    void account(void *data, int64_t bytes) {
        if (!bytes) return;
        size_t now;
        {
            std::lock_guard<std::mutex> lock(mutex);
            bytes > 0 ? used.increase(bytes) : used.decrease(-bytes);
            now = used.current;
        }
        c10::reportMemoryUsageToProfiler(data, bytes, now, now, DEVICE);
    }

    c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override {
        TORCH_CHECK(device == DEVICE.index(), "there is no device ", static_cast<int>(device));
        std::lock_guard<std::mutex> lock(mutex);
        c10::CachingDeviceAllocator::DeviceStats stats;
        stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)] = used;
        return stats;
    }

    void resetPeakStats(DeviceIndex) override {
        std::lock_guard<std::mutex> lock(mutex);
        used.reset_peak();
    }

    void copy_data(void *to, const void *from, size_t bytes) const override { default_copy_data(to, from, bytes); }
    bool initialized() override { return true; }
    void emptyCache(c10::MempoolId_t) override {}
    void recordStream(const c10::DataPtr &, Stream) override {}
    void resetAccumulatedStats(DeviceIndex) override {}

    std::mutex mutex;
    c10::CachingAllocator::Stat used;
};

REGISTER_ALLOCATOR(c10::DeviceType::CUDA, new Memory) // lives as long as the process

struct Hooks final : at::CUDAHooksInterface {
    explicit Hooks(at::CUDAHooksArgs) {}
    void init() const override {}
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasCUDA() const override { return true; }
    bool hasPrimaryContext(DeviceIndex) const override { return true; }
    int getNumGPUs() const override { return 1; }
    DeviceIndex deviceCount() const override { return 1; }
    DeviceIndex current_device() const override { return 0; }
    DeviceIndex getCurrentDevice() const override { return 0; }
    void setCurrentDevice(DeviceIndex) const override {}
    DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
    DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
    void deviceSynchronize(DeviceIndex) const override {}

    const at::Generator &getDefaultGenerator(DeviceIndex) const override {
        static const at::Generator generator = at::detail::createCPUGenerator();
        return generator;
    }
};

} // namespace

namespace at {
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", Hooks)
}

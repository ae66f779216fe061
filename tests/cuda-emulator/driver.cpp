// NVIDIA's driver interface, as far as candle and parityd call it: memory of the host for a GPU's, threads for streams.
//
// What a program may rely on with a real driver holds here, and what it may not rely on does not: memory comes full of NaN, work that was handed to a
// stream is not over when the call returns, and copies from pinned memory read it when their turn comes. Kernels are candle's own.
//
// Two things are stricter than CUDA: memory is used on the stream that it was allocated on and no other, which is what parityd promises (decision 0027), and ends where
// it ends: a GPU may not see what goes a little beyond. Whoever does that breaks the device, as by an illegal address. `refuses.cpp` asks for all that is refused.
//
// CUDA_EMULATOR_GPUS: how many there are (1). CUDA_EMULATOR_CONTROL: a file of lines ORDINAL.KEY=NUMBER, which is read at each turn:
//   memory_mib   what the device has (16384)
//   fails        the next kernel breaks the device for this process, with this error of CUDA's
//   hangs        1: nothing moves on the device
//   kernel_us    what each kernel takes at least
//   captures     0: no graphs
//   driver       what the driver is of, which is told of all by the first (13000): where it is older, CUDA 13's libraries and kernels do not start
//   instantiates another number than 0: what is captured becomes no graph, for this error of CUDA's
//   cudnn        0: cuDNN takes no convolution; another number: it does not start, and says that
// CUDA_EMULATOR_FAULTS: a file to which lines are added of what breaks a GPU and is the program's own fault: memory that work goes beyond, or that is gone.
// CUDA_EMULATOR_COUNTS: a file that says in the end how often each function was called.
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

#include "emulator.h"

namespace emulator {

namespace {

size_t count_of_devices()
{
    const char *told = std::getenv("CUDA_EMULATOR_GPUS");
    return told ? std::strtoul(told, nullptr, 10) : 1;
}

int driver_version() { return devices().empty() ? 13000 : static_cast<int>(devices()[0]->told("driver", 13000)); }

} // namespace

// Never destroyed: threads of the program may call after `main`.
std::vector<std::unique_ptr<Device>> &devices()
{
    static auto *all = [] {
        auto *made = new std::vector<std::unique_ptr<Device>>;
        for (size_t ordinal = 0; ordinal < count_of_devices(); ordinal++)
            made->push_back(std::make_unique<Device>(static_cast<int>(ordinal)));
        return made;
    }();
    return *all;
}

Device *device_of(CUdevice ordinal)
{
    return ordinal >= 0 && static_cast<size_t>(ordinal) < devices().size() ? devices()[ordinal].get() : nullptr;
}

thread_local Device *current = nullptr;

CUresult state()
{
    if (!current)
        return CUDA_ERROR_INVALID_CONTEXT;
    return static_cast<CUresult>(current->broken.load());
}

long Device::told(const char *key, long otherwise) const
{
    static const char *file = std::getenv("CUDA_EMULATOR_CONTROL");
    if (!file)
        return otherwise;
    std::ifstream lines(file);
    std::string line, sought = std::to_string(ordinal) + "." + key + "=";
    while (std::getline(lines, line))
        if (line.compare(0, sought.size(), sought) == 0)
            return std::strtol(line.c_str() + sought.size(), nullptr, 10);
    return otherwise;
}

bool is_too_old() { return driver_version() < 13000; }

void push_kernel(Stream &stream, const char *name, std::vector<Range> ranges, std::function<CUresult()> kernel)
{
    stream.push([&device = stream.device, name, ranges = std::move(ranges), kernel = std::move(kernel)] {
        if (long code = device.told("fails", 0))
            device.broken = static_cast<int>(code);
        else if (CUresult error = reach(device, name, ranges))
            device.broken = error;
        else if (CUresult error = kernel())
            device.broken = error;
        if (long us = device.told("kernel_us", 0))
            std::this_thread::sleep_for(std::chrono::microseconds(us));
    });
}

void called(const char *function)
{
    static const char *file = std::getenv("CUDA_EMULATOR_COUNTS");
    if (!file)
        return;
    static auto &lock = *new std::mutex;
    static auto &counts = *new std::map<std::string, long>;
    std::lock_guard<std::mutex> guard(lock);
    if (counts.empty())
        std::atexit([] {
            std::lock_guard<std::mutex> guard(lock);
            std::ofstream out(file);
            for (auto &[name, times] : counts)
                out << name << ' ' << times << '\n';
        });
    counts[function]++;
}

} // namespace emulator

using namespace emulator;

EXPORT CUresult cuInit(unsigned)
{
    called(__func__);
    return devices().empty() ? CUDA_ERROR_NO_DEVICE : static_cast<CUresult>(devices()[0]->told("init", CUDA_SUCCESS));
}

EXPORT CUresult cuDriverGetVersion(int *version)
{
    called(__func__);
    *version = driver_version();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult error, const char **name)
{
    called(__func__);
    static const auto &names = *new std::map<CUresult, const char *>{
        {CUDA_SUCCESS, "CUDA_SUCCESS"},
        {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {CUDA_ERROR_SYSTEM_NOT_READY, "CUDA_ERROR_SYSTEM_NOT_READY"},
        {CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
        {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
        {CUDA_ERROR_ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE"},
        {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY"},
        {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {CUDA_ERROR_ASSERT, "CUDA_ERROR_ASSERT"},
        {CUDA_ERROR_MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS"},
        {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
        {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
        {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
    };
    auto found = names.find(error);
    *name = found == names.end() ? "CUDA_ERROR_UNKNOWN" : found->second;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult error, const char **text)
{
    called(__func__);
    return cuGetErrorName(error, text);
}

EXPORT CUresult cuDeviceGetCount(int *count)
{
    called(__func__);
    *count = static_cast<int>(devices().size());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    called(__func__);
    *device = ordinal;
    return device_of(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice)
{
    called(__func__);
    std::snprintf(name, length, "emulated GPU");
    return CUDA_SUCCESS;
}

static CUresult uuid_of(CUuuid *uuid, CUdevice device)
{
    if (!device_of(device))
        return CUDA_ERROR_INVALID_DEVICE;
    if (long code = device_of(device)->told("uuid", 0))
        return static_cast<CUresult>(code);
    // As tests/nvml-stub calls them: GPU-00000000-0000-0000-0000-000000000000 is the first.
    std::memset(uuid->bytes, 0, sizeof uuid->bytes);
    uuid->bytes[15] = static_cast<char>(device);
    return CUDA_SUCCESS;
}

// The newer header has one name for both.
#undef cuDeviceGetUuid
EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    called(__func__);
    return uuid_of(uuid, device);
}

EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    called(__func__);
    return uuid_of(uuid, device);
}

EXPORT CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device)
{
    called(__func__);
    *pool = reinterpret_cast<CUmemoryPool>(device_of(device));
    return *pool ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value)
{
    called(__func__);
    if (!pool || !value)
        return CUDA_ERROR_INVALID_VALUE;
    Device &device = *reinterpret_cast<Device *>(pool);
    if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        device.threshold = *static_cast<cuuint64_t *>(value);
    else if (attribute == CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES)
        device.waits_for_memory = *static_cast<int *>(value);
    else
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value)
{
    called(__func__);
    if (!pool || !value)
        return CUDA_ERROR_INVALID_VALUE;
    const Device &device = *reinterpret_cast<Device *>(pool);
    if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        *static_cast<cuuint64_t *>(value) = device.threshold;
    else if (attribute == CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES)
        *static_cast<int *>(value) = device.waits_for_memory;
    else
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device)
{
    called(__func__);
    if (!device_of(device))
        return CUDA_ERROR_INVALID_DEVICE;
    *bytes = memory_of(*device_of(device));
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice)
{
    called(__func__);
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 8; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    called(__func__);
    Device *found = device_of(device);
    *context = reinterpret_cast<CUcontext>(found);
    return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice)
{
    called(__func__);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *context)
{
    called(__func__);
    *context = reinterpret_cast<CUcontext>(current);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context)
{
    called(__func__);
    current = reinterpret_cast<Device *>(context);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize()
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    return settle(*current) ? state() : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

// Modules are not looked at: what a kernel is called says which one it is.
EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    // Kernels are in the PTX of the compiler that made them.
    if (is_too_old())
        return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    *module = reinterpret_cast<CUmodule>(current);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleUnload(CUmodule)
{
    called(__func__);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name)
{
    called(__func__);
    const Kernel *kernel = kernel_of(name);
    *function = reinterpret_cast<CUfunction>(const_cast<Kernel *>(kernel));
    return kernel ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

// Of a GPU of compute capability 8.0; shared memory as far as nobody asks for more.
static bool is_within_limits(const unsigned grid[3], const unsigned block[3], unsigned shared)
{
    for (int side = 0; side < 3; side++)
        if (!grid[side] || !block[side])
            return false;
    if (grid[0] > 0x7fffffff || grid[1] > 0xffff || grid[2] > 0xffff || shared > 48 * 1024)
        return false;
    return block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 && block[0] * block[1] * block[2] <= 1024;
}

EXPORT CUresult cuLaunchKernel(
    CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
    CUstream stream, void **parameters, void **)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    const Kernel &kernel = *reinterpret_cast<const Kernel *>(function);
    std::array<unsigned, 3> grid = {grid_x, grid_y, grid_z}, block = {block_x, block_y, block_z};
    if (!is_within_limits(grid.data(), block.data(), shared))
        return CUDA_ERROR_INVALID_VALUE;
    if (&stream_of(stream).device != current)
        return CUDA_ERROR_INVALID_HANDLE;
    // Parameters are copied before the call returns.
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    std::vector<Range> ranges;
    bool are_aligned = true;
    for (size_t index = 0; index < kernel.parameters; index++) {
        const char *from = static_cast<const char *>(parameters[index]);
        values->emplace_back(from, from + kernel.sizes[index]);
        const void *address = nullptr;
        if (!kernel.alignments[index])
            continue;
        std::memcpy(&address, from, sizeof address);
        // How much is read there, only the kernel knows; what it has none of is told by no address.
        if (!address)
            continue;
        use(address, stream_of(stream));
        ranges.push_back({address, 0});
        are_aligned &= is_aligned(address, kernel.alignments[index]);
    }
    push_kernel(stream_of(stream), kernel.name, std::move(ranges), [=, &kernel] {
        if (!are_aligned)
            return fault(CUDA_ERROR_MISALIGNED_ADDRESS, kernel.name, "reads or writes values that lie between two");
        std::vector<void *> at;
        for (auto &value : *values)
            at.push_back(value.data());
        return launch(kernel, grid.data(), block.data(), at.data()) ? CUDA_SUCCESS : CUDA_ERROR_ASSERT;
    });
    return CUDA_SUCCESS;
}

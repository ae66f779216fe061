// NVIDIA's driver interface, as far as candle and parityd call it: memory of the host for a GPU's, threads for streams.
//
// What a program may rely on with a real driver holds here, and what it may not rely on does not: memory comes full of NaN, work that was handed to a
// stream is not over when the call returns, and copies from pinned memory read it when their turn comes. Kernels are candle's own.
//
// CUDA_EMULATOR_GPUS: how many there are (1). CUDA_EMULATOR_CONTROL: a file of lines ORDINAL.KEY=NUMBER, which is read at each turn:
//   memory_mib   what the device has (16384)
//   fails        the next kernel breaks the device for this process, with this error of CUDA's
//   hangs        1: nothing moves on the device
//   kernel_us    what each kernel takes at least
// CUDA_EMULATOR_COUNTS: a file that says in the end how often each function was called.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <vector>

#include "emulator.h"

namespace emulator {

namespace {

double now_ms()
{
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

size_t count_of_devices()
{
    const char *told = std::getenv("CUDA_EMULATOR_GPUS");
    return told ? std::strtoul(told, nullptr, 10) : 1;
}

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

size_t memory_of(const Device &device) { return static_cast<size_t>(device.told("memory_mib", 16 * 1024)) << 20; }

// Sizes of what is allocated on devices, ranges of pinned memory, and all streams. Never destroyed, either.
std::mutex &books = *new std::mutex;
auto &allocated = *new std::map<CUdeviceptr, std::pair<size_t, Device *>>;
auto &pinned = *new std::map<const char *, size_t>;
auto &streams = *new std::vector<Stream *>;

bool is_pinned(const void *at)
{
    std::lock_guard<std::mutex> guard(books);
    auto after = pinned.upper_bound(static_cast<const char *>(at));
    return after != pinned.begin() && static_cast<const char *>(at) < std::prev(after)->first + std::prev(after)->second;
}

void free_now(CUdeviceptr at)
{
    std::lock_guard<std::mutex> guard(books);
    auto found = allocated.find(at);
    if (found == allocated.end()) {
        std::fprintf(stderr, "cuda-emulator: freed what was not allocated\n");
        std::abort();
    }
    found->second.second->used -= found->second.first;
    allocated.erase(found);
    std::free(reinterpret_cast<void *>(at));
}

CUresult state()
{
    if (!current)
        return CUDA_ERROR_INVALID_CONTEXT;
    return static_cast<CUresult>(current->broken.load());
}

// All that was handed to the streams of a device, until it is over.
void settle(Device &device)
{
    std::vector<std::shared_ptr<Fence>> fences;
    {
        std::lock_guard<std::mutex> guard(books);
        for (Stream *stream : streams)
            if (&stream->device == &device)
                fences.push_back(stream->behind());
    }
    for (auto &fence : fences)
        fence->wait();
}

struct Event {
    std::shared_ptr<Fence> fence;
};

Stream &of_no_handle(Device &device)
{
    static std::mutex lock;
    static auto *all = new std::map<Device *, std::unique_ptr<Stream>>;
    std::lock_guard<std::mutex> guard(lock);
    auto &stream = (*all)[&device];
    if (!stream)
        stream = std::make_unique<Stream>(device);
    return *stream;
}

} // namespace

void Fence::happen()
{
    std::lock_guard<std::mutex> guard(lock);
    at_ms = now_ms();
    happened = true;
    changed.notify_all();
}

void Fence::wait()
{
    std::unique_lock<std::mutex> guard(lock);
    changed.wait(guard, [this] { return happened; });
}

bool Fence::has_happened()
{
    std::lock_guard<std::mutex> guard(lock);
    return happened;
}

Stream::Stream(Device &device) : device(device), thread([this] { run(); })
{
    std::lock_guard<std::mutex> guard(books);
    streams.push_back(this);
}

Stream::~Stream()
{
    {
        std::lock_guard<std::mutex> guard(books);
        streams.erase(std::find(streams.begin(), streams.end(), this));
    }
    {
        std::lock_guard<std::mutex> guard(lock);
        ends = true;
        changed.notify_all();
    }
    thread.join();
}

void Stream::push_always(std::function<void()> work)
{
    std::lock_guard<std::mutex> guard(lock);
    queue.push_back(std::move(work));
    changed.notify_all();
}

void Stream::push(std::function<void()> work)
{
    push_always([this, work = std::move(work)] {
        if (!device.broken)
            work();
    });
}

std::shared_ptr<Fence> Stream::behind()
{
    auto fence = std::make_shared<Fence>();
    push_always([fence] { fence->happen(); });
    return fence;
}

void Stream::run()
{
    for (;;) {
        std::function<void()> work;
        {
            std::unique_lock<std::mutex> guard(lock);
            changed.wait(guard, [this] { return ends || !queue.empty(); });
            if (queue.empty())
                return;
            work = std::move(queue.front());
            queue.pop_front();
        }
        while (device.told("hangs", 0))
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        work();
    }
}

Stream &stream_of(CUstream handle)
{
    // The legacy stream, and the thread's own.
    if (reinterpret_cast<uintptr_t>(handle) <= 2)
        return of_no_handle(*current);
    return *reinterpret_cast<Stream *>(handle);
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

void count(const char *function)
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

#define EXPORT extern "C" __attribute__((visibility("default")))
#define NEEDS_A_WELL_DEVICE                                                                                            \
    count(__func__);                                                                                                   \
    if (CUresult broken = state())                                                                                     \
        return broken;

EXPORT CUresult cuInit(unsigned) { return devices().empty() ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS; }

EXPORT CUresult cuDriverGetVersion(int *version)
{
    *version = 13000;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult error, const char **name)
{
    static const auto &names = *new std::map<CUresult, const char *>{
        {CUDA_SUCCESS, "CUDA_SUCCESS"},
        {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY"},
        {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {CUDA_ERROR_ASSERT, "CUDA_ERROR_ASSERT"},
        {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
    };
    auto found = names.find(error);
    *name = found == names.end() ? "CUDA_ERROR_UNKNOWN" : found->second;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult error, const char **text) { return cuGetErrorName(error, text); }

EXPORT CUresult cuDeviceGetCount(int *count)
{
    *count = static_cast<int>(devices().size());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = ordinal;
    return device_of(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice)
{
    std::snprintf(name, length, "emulated GPU");
    return CUDA_SUCCESS;
}

static CUresult uuid_of(CUuuid *uuid, CUdevice device)
{
    if (!device_of(device))
        return CUDA_ERROR_INVALID_DEVICE;
    // As tests/nvml-stub calls them: GPU-00000000-0000-0000-0000-000000000000 is the first.
    std::memset(uuid->bytes, 0, sizeof uuid->bytes);
    uuid->bytes[15] = static_cast<char>(device);
    return CUDA_SUCCESS;
}

// The newer header has one name for both.
#undef cuDeviceGetUuid
EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) { return uuid_of(uuid, device); }
EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) { return uuid_of(uuid, device); }

EXPORT CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device)
{
    *pool = reinterpret_cast<CUmemoryPool>(device_of(device));
    return *pool ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value)
{
    bool is_known = pool && value && attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    return is_known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device)
{
    if (!device_of(device))
        return CUDA_ERROR_INVALID_DEVICE;
    *bytes = memory_of(*device_of(device));
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice)
{
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
    Device *found = device_of(device);
    *context = reinterpret_cast<CUcontext>(found);
    return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }

EXPORT CUresult cuCtxGetCurrent(CUcontext *context)
{
    *context = reinterpret_cast<CUcontext>(current);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context)
{
    current = reinterpret_cast<Device *>(context);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize()
{
    NEEDS_A_WELL_DEVICE
    settle(*current);
    return state();
}

EXPORT CUresult cuMemGetInfo(size_t *free, size_t *total)
{
    NEEDS_A_WELL_DEVICE
    *total = memory_of(*current);
    size_t used = current->used;
    *free = *total > used ? *total - used : 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc(CUdeviceptr *at, size_t bytes)
{
    NEEDS_A_WELL_DEVICE
    if (current->used + bytes > memory_of(*current)) {
        // What streams are about to free counts.
        settle(*current);
        if (current->used + bytes > memory_of(*current))
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    void *made = nullptr;
    if (posix_memalign(&made, 512, bytes ? bytes : 1))
        return CUDA_ERROR_OUT_OF_MEMORY;
    // NaN, whether read as f32 or as f16.
    std::memset(made, 0xff, bytes);
    *at = reinterpret_cast<CUdeviceptr>(made);
    current->used += bytes;
    std::lock_guard<std::mutex> guard(books);
    allocated[*at] = {bytes, current};
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAllocAsync(CUdeviceptr *at, size_t bytes, CUstream) { return cuMemAlloc(at, bytes); }

EXPORT CUresult cuMemFree(CUdeviceptr at)
{
    NEEDS_A_WELL_DEVICE
    settle(*current);
    free_now(at);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFreeAsync(CUdeviceptr at, CUstream stream)
{
    NEEDS_A_WELL_DEVICE
    stream_of(stream).push([at] { free_now(at); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostAlloc(void **at, size_t bytes, unsigned)
{
    NEEDS_A_WELL_DEVICE
    if (posix_memalign(at, 4096, bytes ? bytes : 1))
        return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(*at, 0xff, bytes);
    std::lock_guard<std::mutex> guard(books);
    pinned[static_cast<const char *>(*at)] = bytes;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFreeHost(void *at)
{
    {
        std::lock_guard<std::mutex> guard(books);
        if (!pinned.erase(static_cast<const char *>(at)))
            return CUDA_ERROR_INVALID_VALUE;
    }
    std::free(at);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    NEEDS_A_WELL_DEVICE
    if (is_pinned(from)) {
        // Late enough for whoever writes there too early to be found out.
        stream_of(stream).push([=] {
            std::this_thread::sleep_for(std::chrono::microseconds(100));
            std::memcpy(reinterpret_cast<void *>(to), from, bytes);
        });
    } else {
        // Memory that can be paged out is copied aside before the call returns.
        const char *bytes_of = static_cast<const char *>(from);
        auto aside = std::make_shared<std::vector<char>>(bytes_of, bytes_of + bytes);
        stream_of(stream).push([=] { std::memcpy(reinterpret_cast<void *>(to), aside->data(), aside->size()); });
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    NEEDS_A_WELL_DEVICE
    stream_of(stream).push([=] { std::memcpy(to, reinterpret_cast<const void *>(from), bytes); });
    if (!is_pinned(to)) {
        stream_of(stream).behind()->wait();
        return state();
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    NEEDS_A_WELL_DEVICE
    stream_of(stream).push([=] { std::memmove(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), bytes); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)
{
    NEEDS_A_WELL_DEVICE
    stream_of(stream).push([=] { std::memset(reinterpret_cast<void *>(to), value, bytes); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned)
{
    NEEDS_A_WELL_DEVICE
    *stream = reinterpret_cast<CUstream>(new Stream(*current));
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamDestroy(CUstream stream)
{
    delete reinterpret_cast<Stream *>(stream);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(CUstream stream)
{
    NEEDS_A_WELL_DEVICE
    stream_of(stream).behind()->wait();
    return state();
}

EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned)
{
    NEEDS_A_WELL_DEVICE
    if (auto fence = reinterpret_cast<Event *>(event)->fence)
        stream_of(stream).push_always([fence] { fence->wait(); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus *status)
{
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventCreate(CUevent *event, unsigned)
{
    NEEDS_A_WELL_DEVICE
    *event = reinterpret_cast<CUevent>(new Event);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventDestroy(CUevent event)
{
    delete reinterpret_cast<Event *>(event);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream stream)
{
    NEEDS_A_WELL_DEVICE
    reinterpret_cast<Event *>(event)->fence = stream_of(stream).behind();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventQuery(CUevent event)
{
    NEEDS_A_WELL_DEVICE
    auto fence = reinterpret_cast<Event *>(event)->fence;
    return fence && !fence->has_happened() ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

EXPORT CUresult cuEventSynchronize(CUevent event)
{
    NEEDS_A_WELL_DEVICE
    if (auto fence = reinterpret_cast<Event *>(event)->fence)
        fence->wait();
    return state();
}

EXPORT CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end)
{
    auto first = reinterpret_cast<Event *>(start)->fence, last = reinterpret_cast<Event *>(end)->fence;
    if (!first || !last || !first->has_happened() || !last->has_happened())
        return CUDA_ERROR_NOT_READY;
    *ms = static_cast<float>(last->at_ms - first->at_ms);
    return CUDA_SUCCESS;
}

// Modules are not looked at: what a kernel is called says which one it is.
EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *)
{
    NEEDS_A_WELL_DEVICE
    *module = reinterpret_cast<CUmodule>(current);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name)
{
    const Kernel *kernel = kernel_of(name);
    *function = reinterpret_cast<CUfunction>(const_cast<Kernel *>(kernel));
    return kernel ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

EXPORT CUresult cuLaunchKernel(
    CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z, unsigned,
    CUstream stream, void **parameters, void **)
{
    NEEDS_A_WELL_DEVICE
    const Kernel &kernel = *reinterpret_cast<const Kernel *>(function);
    if (!grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z || block_x * block_y * block_z > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    // Parameters are copied before the call returns.
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    for (size_t index = 0; index < kernel.parameters; index++) {
        const char *from = static_cast<const char *>(parameters[index]);
        values->emplace_back(from, from + kernel.sizes[index]);
    }
    Stream &of = stream_of(stream);
    of.push([=, &kernel, &of] {
        std::vector<void *> at;
        for (auto &value : *values)
            at.push_back(value.data());
        unsigned grid[] = {grid_x, grid_y, grid_z}, block[] = {block_x, block_y, block_z};
        if (long code = of.device.told("fails", 0))
            of.device.broken = static_cast<int>(code);
        else if (!launch(kernel, grid, block, at.data()))
            of.device.broken = CUDA_ERROR_ASSERT;
        if (long us = of.device.told("kernel_us", 0))
            std::this_thread::sleep_for(std::chrono::microseconds(us));
    });
    return CUDA_SUCCESS;
}

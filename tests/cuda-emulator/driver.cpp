// NVIDIA's driver interface, as far as candle and parityd call it: memory of the host for a GPU's, threads for streams.
//
// What a program may rely on with a real driver holds here, and what it may not rely on does not: memory comes full of NaN, work that was handed to a
// stream is not over when the call returns, and copies from pinned memory read it when their turn comes. Kernels are candle's own.
//
// One thing is stricter than CUDA: memory is used on the stream that it was allocated on and no other, which is what parityd promises (decision 0027).
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

// Memory of a device, with the stream that it was allocated on, if it was on one.
struct Memory {
    size_t bytes;
    Device *device;
    const Stream *stream;
};

size_t memory_of(const Device &device) { return static_cast<size_t>(device.told("memory_mib", 16 * 1024)) << 20; }

// Sizes of what is allocated on devices, ranges of pinned memory, and all streams. Never destroyed, either.
std::mutex &books = *new std::mutex;
auto &allocated = *new std::map<CUdeviceptr, Memory>;
auto &pinned = *new std::map<const char *, size_t>;
auto &streams = *new std::vector<Stream *>;

bool is_pinned(const void *at)
{
    std::lock_guard<std::mutex> guard(books);
    auto after = pinned.upper_bound(static_cast<const char *>(at));
    return after != pinned.begin() && static_cast<const char *>(at) < std::prev(after)->first + std::prev(after)->second;
}

// Whoever still reads it finds nothing right.
void spoil_and_free(void *at, size_t bytes)
{
    std::memset(at, 0xff, bytes);
    // The compiler knows that nobody may, and would leave that out.
    __asm__ volatile("" : : "r"(at) : "memory");
    std::free(at);
}

void free_now(CUdeviceptr at)
{
    std::lock_guard<std::mutex> guard(books);
    auto found = allocated.find(at);
    if (found == allocated.end()) {
        std::fprintf(stderr, "cuda-emulator: freed what was not allocated\n");
        std::abort();
    }
    Memory memory = found->second;
    memory.device->used -= memory.bytes;
    allocated.erase(found);
    spoil_and_free(reinterpret_cast<void *>(at), memory.bytes);
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

void use(CUdeviceptr at, const Stream &stream)
{
    std::lock_guard<std::mutex> guard(books);
    auto after = allocated.upper_bound(at);
    if (after == allocated.begin() || at >= std::prev(after)->first + std::prev(after)->second.bytes)
        return;
    const Memory &memory = std::prev(after)->second;
    if (memory.device == &stream.device && (!memory.stream || memory.stream == &stream))
        return;
    std::fprintf(stderr, "cuda-emulator: memory of one stream or GPU is used on another\n");
    std::abort();
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

#define EXPORT extern "C" __attribute__((visibility("default")))
#define NEEDS_A_WELL_DEVICE                                                                                            \
    if (CUresult broken = state())                                                                                     \
        return broken;

EXPORT CUresult cuInit(unsigned)
{
    called(__func__);
    return devices().empty() ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int *version)
{
    called(__func__);
    *version = 13000;
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
    if (!pool || !value || attribute != CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        return CUDA_ERROR_INVALID_VALUE;
    reinterpret_cast<Device *>(pool)->threshold = *static_cast<cuuint64_t *>(value);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value)
{
    called(__func__);
    if (!pool || !value || attribute != CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        return CUDA_ERROR_INVALID_VALUE;
    *static_cast<cuuint64_t *>(value) = reinterpret_cast<Device *>(pool)->threshold;
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
    settle(*current);
    return state();
}

EXPORT CUresult cuMemGetInfo(size_t *free, size_t *total)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    *total = memory_of(*current);
    size_t used = current->used;
    *free = *total > used ? *total - used : 0;
    return CUDA_SUCCESS;
}

static CUresult allocate(CUdeviceptr *at, size_t bytes, const Stream *stream)
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
    allocated[*at] = {bytes, current, stream};
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc(CUdeviceptr *at, size_t bytes)
{
    called(__func__);
    return allocate(at, bytes, nullptr);
}

EXPORT CUresult cuMemAllocAsync(CUdeviceptr *at, size_t bytes, CUstream stream)
{
    called(__func__);
    return allocate(at, bytes, &stream_of(stream));
}

EXPORT CUresult cuMemFree(CUdeviceptr at)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    settle(*current);
    free_now(at);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFreeAsync(CUdeviceptr at, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    use(at, stream_of(stream));
    stream_of(stream).push([at] { free_now(at); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostAlloc(void **at, size_t bytes, unsigned)
{
    called(__func__);
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
    called(__func__);
    size_t bytes;
    {
        std::lock_guard<std::mutex> guard(books);
        auto found = pinned.find(static_cast<const char *>(at));
        if (found == pinned.end())
            return CUDA_ERROR_INVALID_VALUE;
        bytes = found->second;
        pinned.erase(found);
    }
    // It waits for nobody.
    spoil_and_free(at, bytes);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    use(to, stream_of(stream));
    if (is_pinned(from)) {
        // Late enough for whoever writes there too early to be found out.
        stream_of(stream).push([=] {
            std::this_thread::sleep_for(std::chrono::microseconds(300));
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
    called(__func__);
    NEEDS_A_WELL_DEVICE
    use(from, stream_of(stream));
    stream_of(stream).push([=] { std::memcpy(to, reinterpret_cast<const void *>(from), bytes); });
    if (!is_pinned(to)) {
        stream_of(stream).behind()->wait();
        return state();
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    use(to, stream_of(stream));
    use(from, stream_of(stream));
    stream_of(stream).push([=] { std::memmove(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), bytes); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    use(to, stream_of(stream));
    stream_of(stream).push([=] { std::memset(reinterpret_cast<void *>(to), value, bytes); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    *stream = reinterpret_cast<CUstream>(new Stream(*current));
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamDestroy(CUstream stream)
{
    called(__func__);
    // It does what it has been handed, and nobody waits for that.
    std::thread([stream] { delete reinterpret_cast<Stream *>(stream); }).detach();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    stream_of(stream).behind()->wait();
    return state();
}

EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    if (auto fence = reinterpret_cast<Event *>(event)->fence)
        stream_of(stream).push_always([fence] { fence->wait(); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus *status)
{
    called(__func__);
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventCreate(CUevent *event, unsigned)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    *event = reinterpret_cast<CUevent>(new Event);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventDestroy(CUevent event)
{
    called(__func__);
    delete reinterpret_cast<Event *>(event);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    reinterpret_cast<Event *>(event)->fence = stream_of(stream).behind();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventQuery(CUevent event)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    auto fence = reinterpret_cast<Event *>(event)->fence;
    return fence && !fence->has_happened() ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

EXPORT CUresult cuEventSynchronize(CUevent event)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    if (auto fence = reinterpret_cast<Event *>(event)->fence)
        fence->wait();
    return state();
}

EXPORT CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end)
{
    called(__func__);
    auto first = reinterpret_cast<Event *>(start)->fence, last = reinterpret_cast<Event *>(end)->fence;
    if (!first || !last || !first->has_happened() || !last->has_happened())
        return CUDA_ERROR_NOT_READY;
    *ms = static_cast<float>(last->at_ms - first->at_ms);
    return CUDA_SUCCESS;
}

// Modules are not looked at: what a kernel is called says which one it is.
EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
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

EXPORT CUresult cuLaunchKernel(
    CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z, unsigned,
    CUstream stream, void **parameters, void **)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    const Kernel &kernel = *reinterpret_cast<const Kernel *>(function);
    if (!grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z || block_x * block_y * block_z > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    if (grid_x > 0x7fffffff || grid_y > 0xffff || grid_z > 0xffff)
        return CUDA_ERROR_INVALID_VALUE;
    // Parameters are copied before the call returns.
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    for (size_t index = 0; index < kernel.parameters; index++) {
        const char *from = static_cast<const char *>(parameters[index]);
        values->emplace_back(from, from + kernel.sizes[index]);
        CUdeviceptr address;
        if (kernel.sizes[index] == sizeof address) {
            // Some are numbers; none of them is an address of ours.
            std::memcpy(&address, from, sizeof address);
            use(address, stream_of(stream));
        }
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

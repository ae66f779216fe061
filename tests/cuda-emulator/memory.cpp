// Memory of GPUs, which is the host's, and pinned memory of the host: who has what, and the driver's functions for it.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "emulator.h"

namespace emulator {

namespace {

// Memory of a device, with the stream that it was allocated on, if it was on one.
struct Memory {
    size_t bytes;
    Device *device;
    const Stream *stream;
};

// Sizes of what is allocated on devices, and ranges of pinned memory. Never destroyed: threads of the program may call after `main`.
std::mutex &books = *new std::mutex;
auto &allocated = *new std::map<CUdeviceptr, Memory>;
auto &pinned = *new std::map<const char *, size_t>;

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

} // namespace

size_t memory_of(const Device &device) { return static_cast<size_t>(device.told("memory_mib", 16 * 1024)) << 20; }

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

void must_be_there(const void *at)
{
    std::lock_guard<std::mutex> guard(books);
    auto address = reinterpret_cast<CUdeviceptr>(at);
    auto after = allocated.upper_bound(address);
    if (after != allocated.begin() && address < std::prev(after)->first + std::prev(after)->second.bytes)
        return;
    std::fprintf(stderr, "cuda-emulator: a graph uses memory that is gone\n");
    std::abort();
}

} // namespace emulator

using namespace emulator;

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
    stream_of(stream).must_not_capture("an allocation");
    return allocate(at, bytes, &stream_of(stream));
}

EXPORT CUresult cuMemFree(CUdeviceptr at)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    if (!settle(*current))
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    free_now(at);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFreeAsync(CUdeviceptr at, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    stream_of(stream).must_not_capture("a free");
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
    stream_of(stream).must_not_capture("a copy of rows");
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

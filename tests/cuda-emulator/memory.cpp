// Memory of GPUs, which is the host's, and pinned memory of the host: who has what, and the driver's functions for it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
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

// Before and behind what is allocated, bytes that nobody may write.
constexpr size_t FENCE = 512;
constexpr int NAN_BYTE = 0xff;

// Sizes of what is allocated on devices, and ranges of pinned memory. Never destroyed: threads of the program may call after `main`.
std::mutex &books = *new std::mutex;
auto &allocated = *new std::map<CUdeviceptr, Memory>;
auto &pinned = *new std::map<const char *, size_t>;

// Bytes from there to the end of a block of pinned memory; none if it is not in one.
size_t pinned_from(const void *at)
{
    std::lock_guard<std::mutex> guard(books);
    auto after = pinned.upper_bound(static_cast<const char *>(at));
    if (after == pinned.begin())
        return 0;
    auto &[start, bytes] = *std::prev(after);
    size_t offset = static_cast<size_t>(static_cast<const char *>(at) - start);
    return offset < bytes ? bytes - offset : 0;
}

// What is allocated there, if all of that is in it. Of no bytes, right behind it is in it, too. Whoever asks holds the books.
const Memory *around(const void *at, size_t bytes)
{
    auto address = reinterpret_cast<CUdeviceptr>(at);
    auto after = allocated.upper_bound(address);
    if (after == allocated.begin())
        return nullptr;
    auto &[start, memory] = *std::prev(after);
    size_t offset = address - start;
    return offset <= memory.bytes && bytes <= memory.bytes - offset ? &memory : nullptr;
}

// Whether it is as it was made.
bool is_whole(const unsigned char *fence)
{
    return std::all_of(fence, fence + FENCE, [](unsigned char byte) { return byte == NAN_BYTE; });
}

// Whoever still reads it finds nothing right.
void spoil(void *at, size_t bytes)
{
    std::memset(at, NAN_BYTE, bytes);
    // The compiler knows that nobody may, and would leave that out.
    __asm__ volatile("" : : "r"(at) : "memory");
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
    auto *start = reinterpret_cast<unsigned char *>(at);
    if (!is_whole(start - FENCE) || !is_whole(start + memory.bytes))
        memory.device->broken = fault(CUDA_ERROR_ILLEGAL_ADDRESS, "a kernel", "wrote beside its memory");
    memory.device->used -= memory.bytes;
    allocated.erase(found);
    spoil(start, memory.bytes);
    std::free(start - FENCE);
}

// Hands over a copy, or what else is not a kernel, of a device's memory.
void push_copy(Stream &stream, const char *name, std::vector<Range> ranges, std::function<void()> copy)
{
    stream.push([&device = stream.device, name, ranges = std::move(ranges), copy = std::move(copy)] {
        if (CUresult error = reach(device, name, ranges))
            device.broken = error;
        else
            copy();
    });
}

} // namespace

size_t memory_of(const Device &device) { return static_cast<size_t>(device.told("memory_mib", 16 * 1024)) << 20; }

void use(const void *at, const Stream &stream)
{
    std::lock_guard<std::mutex> guard(books);
    const Memory *memory = around(at, 1);
    if (!memory || (memory->device == &stream.device && (!memory->stream || memory->stream == &stream)))
        return;
    std::fprintf(stderr, "cuda-emulator: memory of one stream or GPU is used on another\n");
    std::abort();
}

CUresult reach(const Device &device, const char *name, const std::vector<Range> &ranges)
{
    for (const Range &range : ranges) {
        std::unique_lock<std::mutex> guard(books);
        const Memory *memory = around(range.at, range.bytes);
        const Memory *begun = around(range.at, 0);
        bool is_there = memory && memory->device == &device;
        guard.unlock();
        if (!is_there && pinned_from(range.at) < std::max<size_t>(range.bytes, 1))
            return fault(CUDA_ERROR_ILLEGAL_ADDRESS, name, begun ? "goes on behind the end of its memory" : "uses memory that is not there, or gone");
    }
    return CUDA_SUCCESS;
}

CUresult fault(CUresult error, const char *name, const char *what)
{
    std::string line = std::string("cuda-emulator: ") + name + ' ' + what + '\n';
    std::fputs(line.c_str(), stderr);
    if (const char *file = std::getenv("CUDA_EMULATOR_FAULTS")) {
        // Of all processes, at once.
        std::ofstream out(file, std::ios::app);
        out << line << std::flush;
    }
    return error;
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
    if (posix_memalign(&made, FENCE, bytes + 2 * FENCE))
        return CUDA_ERROR_OUT_OF_MEMORY;
    // NaN, whether read as f32 or as f16.
    std::memset(made, NAN_BYTE, bytes + 2 * FENCE);
    *at = reinterpret_cast<CUdeviceptr>(made) + FENCE;
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
    use(reinterpret_cast<void *>(at), stream_of(stream));
    stream_of(stream).push([at] { free_now(at); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostAlloc(void **at, size_t bytes, unsigned)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    if (posix_memalign(at, 4096, bytes ? bytes : 1))
        return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(*at, NAN_BYTE, bytes);
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
    spoil(at, bytes);
    std::free(at);
    return CUDA_SUCCESS;
}

// What begins in a block of pinned memory and goes on behind it, the driver does not take.
static bool leaves_its_block(const void *at, size_t bytes)
{
    size_t left = pinned_from(at);
    return left && left < bytes;
}

// None where nothing is copied.
static std::vector<Range> of_bytes(size_t bytes, std::initializer_list<const void *> places)
{
    std::vector<Range> ranges;
    for (const void *at : places)
        if (bytes)
            ranges.push_back({at, bytes});
    return ranges;
}

EXPORT CUresult cuMemcpyHtoDAsync(CUdeviceptr there, const void *from, size_t bytes, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    void *to = reinterpret_cast<void *>(there);
    stream_of(stream).must_not_capture("a copy of rows");
    use(to, stream_of(stream));
    if (leaves_its_block(from, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    if (pinned_from(from)) {
        // Late enough for whoever writes there too early to be found out.
        push_copy(stream_of(stream), __func__, of_bytes(bytes, {to}), [=] {
            std::this_thread::sleep_for(std::chrono::microseconds(300));
            std::memcpy(to, from, bytes);
        });
    } else {
        // Memory that can be paged out is copied aside before the call returns.
        const char *bytes_of = static_cast<const char *>(from);
        auto aside = std::make_shared<std::vector<char>>(bytes_of, bytes_of + bytes);
        push_copy(stream_of(stream), __func__, of_bytes(bytes, {to}), [=] { std::memcpy(to, aside->data(), aside->size()); });
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr there, size_t bytes, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    const void *from = reinterpret_cast<const void *>(there);
    use(from, stream_of(stream));
    if (leaves_its_block(to, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    push_copy(stream_of(stream), __func__, of_bytes(bytes, {from}), [=] { std::memcpy(to, from, bytes); });
    if (!pinned_from(to)) {
        stream_of(stream).behind()->wait();
        return state();
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyDtoDAsync(CUdeviceptr into, CUdeviceptr there, size_t bytes, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    void *to = reinterpret_cast<void *>(into);
    const void *from = reinterpret_cast<const void *>(there);
    use(to, stream_of(stream));
    use(from, stream_of(stream));
    push_copy(stream_of(stream), __func__, of_bytes(bytes, {to, from}), [=] { std::memmove(to, from, bytes); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr there, unsigned char value, size_t bytes, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    void *to = reinterpret_cast<void *>(there);
    use(to, stream_of(stream));
    push_copy(stream_of(stream), __func__, of_bytes(bytes, {to}), [=] { std::memset(to, value, bytes); });
    return CUDA_SUCCESS;
}

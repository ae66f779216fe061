// Streams, each a thread, and events; and the driver's functions for them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

#include "emulator.h"

namespace emulator {

namespace {

double now_ms()
{
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// Of all devices. Never destroyed: threads of the program may call after `main`.
std::mutex &books = *new std::mutex;
auto &streams = *new std::vector<Stream *>;

struct Event {
    Device &device;
    // Whether it says when it was.
    bool is_timed;
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

bool settle(Device &device)
{
    std::vector<std::shared_ptr<Fence>> fences;
    {
        std::lock_guard<std::mutex> guard(books);
        for (Stream *stream : streams)
            if (&stream->device == &device) {
                fences.push_back(stream->behind_or_spoil());
                if (!fences.back())
                    return false;
            }
    }
    for (auto &fence : fences)
        fence->wait();
    return true;
}

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
    must_not_capture("a wait or a mark");
    std::lock_guard<std::mutex> guard(lock);
    queue.push_back(std::move(work));
    changed.notify_all();
}

void Stream::push(std::function<void()> work)
{
    {
        std::lock_guard<std::mutex> guard(lock);
        if (captures) {
            captured.push_back(std::move(work));
            return;
        }
    }
    push_always([this, work = std::move(work)] {
        if (!device.broken)
            work();
    });
}

void Stream::begin_capture()
{
    std::lock_guard<std::mutex> guard(lock);
    captures = true;
    is_spoiled = false;
}

std::unique_ptr<std::vector<std::function<void()>>> Stream::end_capture()
{
    std::lock_guard<std::mutex> guard(lock);
    captures = false;
    auto kept = std::make_unique<std::vector<std::function<void()>>>(std::exchange(captured, {}));
    return is_spoiled ? nullptr : std::move(kept);
}

std::shared_ptr<Fence> Stream::behind_or_spoil()
{
    std::lock_guard<std::mutex> guard(lock);
    if (captures) {
        is_spoiled = true;
        return nullptr;
    }
    auto fence = std::make_shared<Fence>();
    queue.push_back([fence] { fence->happen(); });
    changed.notify_all();
    return fence;
}

bool Stream::is_capturing()
{
    std::lock_guard<std::mutex> guard(lock);
    return captures;
}

void Stream::must_not_capture(const char *what)
{
    if (is_capturing()) {
        std::fprintf(stderr, "cuda-emulator: %s while a graph is captured\n", what);
        std::abort();
    }
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

} // namespace emulator

using namespace emulator;

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

EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    *event = reinterpret_cast<CUevent>(new Event{*current, !(flags & CU_EVENT_DISABLE_TIMING), nullptr});
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
    if (&reinterpret_cast<Event *>(event)->device != &stream_of(stream).device)
        return CUDA_ERROR_INVALID_HANDLE;
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
    const Event &from = *reinterpret_cast<Event *>(start), &to = *reinterpret_cast<Event *>(end);
    if (CUresult broken = static_cast<CUresult>(from.device.broken.load()))
        return broken;
    auto first = from.fence, last = to.fence;
    if (!first || !last || !from.is_timed || !to.is_timed || &from.device != &to.device)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!first->has_happened() || !last->has_happened())
        return CUDA_ERROR_NOT_READY;
    *ms = static_cast<float>(last->at_ms - first->at_ms);
    return CUDA_SUCCESS;
}

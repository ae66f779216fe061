// What the parts of the emulator share: devices, streams, and how work gets into a stream.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <cuda.h>

namespace emulator {

// Something that happens once. Whoever waits for it sees what was done before.
class Fence {
public:
    void happen();
    void wait();
    bool has_happened();
    double at_ms = 0;

private:
    std::mutex lock;
    std::condition_variable changed;
    bool happened = false;
};

struct Device;

// Work in order, on a thread of its own: nothing that is handed to it is over when the call returns.
class Stream {
public:
    explicit Stream(Device &device);
    ~Stream();
    // Does `work` after all that came before it; if the device is broken by then, leaves it. While it captures, it is kept for the graph instead.
    void push(std::function<void()> work);
    // The same, broken or not; ends the program while it captures.
    void push_always(std::function<void()> work);
    // Everything handed over so far.
    std::shared_ptr<Fence> behind();
    // The same for somebody who waits for the whole device; nothing while it captures, which ends the capture.
    std::shared_ptr<Fence> behind_or_spoil();
    // Keeps what is handed over from now on; gives what it kept.
    void begin_capture();
    // Nothing, if it was ended by somebody else.
    std::unique_ptr<std::vector<std::function<void()>>> end_capture();
    bool is_capturing();
    // Ends the program while it captures: what a graph must not have in it.
    void must_not_capture(const char *what);
    Device &device;

private:
    void run();
    bool captures = false, is_spoiled = false;
    std::vector<std::function<void()>> captured;
    std::mutex lock;
    std::condition_variable changed;
    std::deque<std::function<void()>> queue;
    bool ends = false;
    std::thread thread;
};

struct Device {
    explicit Device(int ordinal) : ordinal(ordinal) {}
    // What the control file says of it (`ORDINAL.KEY=NUMBER`), or `otherwise`; read anew at each call.
    long told(const char *key, long otherwise) const;
    const int ordinal;
    // An error that this process is not rid of: of the context, as NVIDIA calls it.
    std::atomic<int> broken{0};
    std::atomic<size_t> used{0};
    // Bytes that are kept when they are freed.
    std::atomic<uint64_t> threshold{0};
    std::atomic<int> waits_for_memory{1};
};

// All there are, and the one of that number, if there is one.
std::vector<std::unique_ptr<Device>> &devices();
Device *device_of(CUdevice ordinal);

// What a device has for memory.
size_t memory_of(const Device &device);

// The device that the calling thread's context is of; and whether it may go on, or the error that it is broken by.
extern thread_local Device *current;
CUresult state();

// Waits until all that was handed to the streams of a device is over; false where one of them captures, whose capture ends by that.
bool settle(Device &device);

// The stream that a handle of the driver's means.
Stream &stream_of(CUstream handle);

// Memory that work reads or writes; of no bytes, a place that it is told, which may be right behind memory.
struct Range {
    const void *at;
    size_t bytes;
};

// Hands a kernel over, which the control file may have fail or take long. It reads and writes all of `ranges`, and gives its error.
void push_kernel(Stream &stream, const char *name, std::vector<Range> ranges, std::function<CUresult()> kernel);

// A device's memory, if it is that, is used on this stream; ends the program if it is another's.
void use(const void *at, const Stream &stream);

// Whether all of that is memory of this device when work comes to it: a graph may outlive what it points to. If not, a fault, and its error.
CUresult reach(const Device &device, const char *name, const std::vector<Range> &ranges);

// Whether an address is a multiple of so many bytes.
inline bool is_aligned(const void *at, size_t to) { return reinterpret_cast<uintptr_t>(at) % to == 0; }

// Says what the program did that breaks a GPU, for whoever reads what it writes and in the file of faults; gives the error.
CUresult fault(CUresult error, const char *name, const char *what);

// Whether the driver is older than the CUDA that the program and its libraries are of.
bool is_too_old();

// A function has been called.
void called(const char *function);

// A kernel of candle's, compiled for the CPU.
struct Kernel {
    const char *name;
    size_t parameters;
    const size_t *sizes;
    // Of what parameters point to; 0 of those that are no pointers.
    const size_t *alignments;
    void (*call)(void **parameters);
    // Whether threads of a block wait for each other, so that each needs a stack.
    bool is_cooperative;
    Kernel *next;
};

void enlist(Kernel *kernel);
const Kernel *kernel_of(const std::string &name);

// Runs a kernel here and now; false if one of its assertions failed.
bool launch(const Kernel &kernel, const unsigned grid[3], const unsigned block[3], void **parameters);

} // namespace emulator

#define EXPORT extern "C" __attribute__((visibility("default")))
#define NEEDS_A_WELL_DEVICE                                                                                            \
    if (CUresult broken = state())                                                                                     \
        return broken;

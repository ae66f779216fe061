// What a real GPU refuses, and its libraries do, the emulator must: else nobody finds that a program does it. `scripts/check-cuda` runs this.
//
// Each case has a GPU of its own, since most break it.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <cuda.h>

extern "C" {
int cublasCreate_v2(void **);
int cublasSetStream_v2(void *, CUstream);
int cublasGemmStridedBatchedEx(
    void *, int, int, int, int, int, const float *, const void *, int, int, long long, const void *, int, int, long long, const float *, void *, int, int,
    long long, int, int, int);
int curandCreateGenerator(void **, int);
int cudnnCreate(void **);
int cudnnSetStream(void *, CUstream);
int cudnnCreateTensorDescriptor(void **);
int cudnnCreateFilterDescriptor(void **);
int cudnnCreateConvolutionDescriptor(void **);
int cudnnCreateActivationDescriptor(void **);
int cudnnCreatePoolingDescriptor(void **);
int cudnnSetTensor4dDescriptor(void *, int, int, int, int, int, int);
int cudnnSetFilter4dDescriptor(void *, int, int, int, int, int, int);
int cudnnSetConvolution2dDescriptor(void *, int, int, int, int, int, int, int, int);
int cudnnSetConvolutionMathType(void *, int);
int cudnnSetActivationDescriptor(void *, int, int, double);
int cudnnSetPoolingNdDescriptor(void *, int, int, int, const int *, const int *, const int *);
int cudnnGetConvolutionForwardAlgorithm_v7(void *, const void *, const void *, const void *, const void *, int, int *, void *);
int cudnnGetConvolutionForwardWorkspaceSize(void *, const void *, const void *, const void *, const void *, int, size_t *);
int cudnnConvolutionBiasActivationForward(
    void *, const float *, const void *, const void *, const void *, const void *, const void *, int, void *, size_t, const float *, const void *,
    const void *, const void *, const void *, const void *, const void *, void *);
int cudnnPoolingForward(void *, const void *, const float *, const void *, const void *, const float *, const void *, void *);
int cudnnActivationForward(void *, const void *, const float *, const void *, const void *, const float *, const void *, void *);
int cudnnTransformTensor(void *, const float *, const void *, const void *, const float *, const void *, void *);
}

namespace {

constexpr float ONE = 1, NONE = 0;
enum { BAD_PARAMETER = 2000, MISALIGNED_POINTER = 2003, STREAM_MISMATCH = 2007, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };
enum { F32 = 0, F16 = 2 };

const char *control;
int next_gpu = 0, wrong = 0;
const char *of_case = "";

void expect(long found, long expected, const char *what)
{
    if (found == expected)
        return;
    std::fprintf(stderr, "%s: %s gives %ld and not %ld\n", of_case, what, found, expected);
    wrong++;
}

#define EXPECT(call, expected) expect(call, expected, #call)

// A GPU that nothing has happened to, with a stream and cuDNN, and its context bound.
struct Gpu {
    CUcontext context;
    CUstream stream;
    void *cudnn, *cublas;

    Gpu()
    {
        EXPECT(cuDevicePrimaryCtxRetain(&context, next_gpu++), 0);
        bind();
        EXPECT(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), 0);
        EXPECT(cudnnCreate(&cudnn), 0);
        EXPECT(cudnnSetStream(cudnn, stream), 0);
        EXPECT(cublasCreate_v2(&cublas), 0);
        EXPECT(cublasSetStream_v2(cublas, stream), 0);
    }

    void bind() const { EXPECT(cuCtxSetCurrent(context), 0); }

    // Zeros.
    CUdeviceptr memory(size_t bytes) const
    {
        CUdeviceptr at = 0;
        EXPECT(cuMemAllocAsync(&at, bytes, stream), 0);
        EXPECT(cuMemsetD8Async(at, 0, bytes, stream), 0);
        return at;
    }

    long wait() const { return cuStreamSynchronize(stream); }

    // Whatever is asked of it from now on fails.
    void is_broken(CUresult error = CUDA_ERROR_ILLEGAL_ADDRESS) const
    {
        EXPECT(wait(), error);
        CUdeviceptr at;
        EXPECT(cuMemAllocAsync(&at, 4, stream), error);
        void *other;
        EXPECT(cudnnCreate(&other), 1001);
        EXPECT(cublasCreate_v2(&other), 1);
    }

    void is_well() const { EXPECT(wait(), 0); }
};

void *tensor(int kind, int n, int c, int h, int w, int format = 0)
{
    void *made;
    cudnnCreateTensorDescriptor(&made);
    EXPECT(cudnnSetTensor4dDescriptor(made, format, kind, n, c, h, w), 0);
    return made;
}

void *pooling(int window, int padding, int stride)
{
    void *made;
    cudnnCreatePoolingDescriptor(&made);
    int windows[] = {window, window}, paddings[] = {padding, padding}, strides[] = {stride, stride};
    EXPECT(cudnnSetPoolingNdDescriptor(made, 0, 1, 2, windows, paddings, strides), 0);
    return made;
}

void *activation(int mode, int nan)
{
    void *made;
    cudnnCreateActivationDescriptor(&made);
    EXPECT(cudnnSetActivationDescriptor(made, mode, nan, 0), 0);
    return made;
}

void *at(CUdeviceptr address, size_t bytes = 0) { return reinterpret_cast<void *>(address + bytes); }

// A convolution of 4 pictures of 8 channels of 6 x 6, and all it needs.
struct Convolving {
    static constexpr size_t VALUES = 4 * 8 * 6 * 6;
    void *x, *w, *how, *y, *bias_of, *follows;
    CUdeviceptr from, to, filters, bias, room;
    size_t room_bytes = 32 << 20;

    Convolving(const Gpu &gpu, int kind, int math)
    {
        size_t size = kind == F32 ? 4 : 2;
        x = y = tensor(kind, 4, 8, 6, 6);
        bias_of = tensor(kind, 1, 8, 1, 1);
        cudnnCreateFilterDescriptor(&w);
        EXPECT(cudnnSetFilter4dDescriptor(w, kind, 0, 8, 8, 3, 3), 0);
        cudnnCreateConvolutionDescriptor(&how);
        EXPECT(cudnnSetConvolution2dDescriptor(how, 1, 1, 1, 1, 1, 1, 1, 0), 0);
        EXPECT(cudnnSetConvolutionMathType(how, math), 0);
        follows = activation(1, 0);
        from = gpu.memory(VALUES * size);
        to = gpu.memory(VALUES * size);
        filters = gpu.memory(8 * 8 * 9 * size);
        bias = gpu.memory(8 * size);
        room = gpu.memory(room_bytes);
    }

    long run(const Gpu &gpu, size_t shift = 0, int algorithm = 1) const
    {
        return cudnnConvolutionBiasActivationForward(
            gpu.cudnn, &ONE, x, at(from, shift), w, at(filters), how, algorithm, at(room), room_bytes, &NONE, y, at(to), bias_of, at(bias), follows, y, at(to));
    }
};

long product(const Gpu &gpu, CUdeviceptr a, CUdeviceptr b, CUdeviceptr c, int m, int n, int k, int leading, long long stride = 0, int batches = 1)
{
    return cublasGemmStridedBatchedEx(
        gpu.cublas, 0, 0, m, n, k, &ONE, at(a), 0, leading, stride, at(b), 0, k, 0, &NONE, at(c), 0, m, m * n, batches, 0, 0);
}

void copies_end_with_memory()
{
    std::vector<char> here(64);
    std::vector<std::function<void(const Gpu &, CUdeviceptr, CUdeviceptr)>> all = {
        [&](const Gpu &gpu, CUdeviceptr to, CUdeviceptr) { EXPECT(cuMemcpyHtoDAsync(to, here.data(), 33, gpu.stream), 0); },
        [&](const Gpu &gpu, CUdeviceptr from, CUdeviceptr) { cuMemcpyDtoHAsync(here.data(), from + 1, 32, gpu.stream); },
        [&](const Gpu &gpu, CUdeviceptr to, CUdeviceptr large) { EXPECT(cuMemcpyDtoDAsync(to, large, 33, gpu.stream), 0); },
        [&](const Gpu &gpu, CUdeviceptr from, CUdeviceptr large) { EXPECT(cuMemcpyDtoDAsync(large, from, 33, gpu.stream), 0); },
        [&](const Gpu &gpu, CUdeviceptr to, CUdeviceptr) { EXPECT(cuMemsetD8Async(to + 32, 0, 1, gpu.stream), 0); },
        [&](const Gpu &gpu, CUdeviceptr to, CUdeviceptr) {
            EXPECT(cuMemFreeAsync(to, gpu.stream), 0);
            EXPECT(cuMemsetD8Async(to, 0, 1, gpu.stream), 0);
        },
    };
    for (auto &one : all) {
        Gpu gpu;
        one(gpu, gpu.memory(32), gpu.memory(64));
        gpu.is_broken();
    }
    Gpu gpu;
    CUdeviceptr memory = gpu.memory(32);
    EXPECT(cuMemcpyHtoDAsync(memory, here.data(), 32, gpu.stream), 0);
    EXPECT(cuMemsetD8Async(memory + 32, 0, 0, gpu.stream), 0);
    void *pinned;
    EXPECT(cuMemHostAlloc(&pinned, 16, 0), 0);
    EXPECT(cuMemcpyHtoDAsync(memory, pinned, 17, gpu.stream), CUDA_ERROR_INVALID_VALUE);
    EXPECT(cuMemcpyDtoHAsync(pinned, memory, 17, gpu.stream), CUDA_ERROR_INVALID_VALUE);
    gpu.is_well();
}

void products_end_with_memory()
{
    for (int wrong : {0, 1, 2, 3, 4}) {
        Gpu gpu;
        // 4 x 3 by 3 x 2 is 4 x 2; the left one in columns of five, of which the last has four.
        CUdeviceptr a = gpu.memory(wrong == 0 ? 52 : 56), b = gpu.memory(wrong == 1 ? 20 : 24), c = gpu.memory(wrong == 2 ? 28 : 32);
        EXPECT(product(gpu, a, b, wrong == 3 ? c + 32 : c, 4, 2, 3, 5, 0, wrong == 4 ? 2 : 1), 0);
        gpu.is_broken();
        EXPECT(product(gpu, a, b, c, 4, 2, 3, 5), 13);
    }
    Gpu gpu;
    CUdeviceptr a = gpu.memory(56 + 4), b = gpu.memory(24), c = gpu.memory(64);
    EXPECT(product(gpu, a, b, c, 4, 2, 3, 5), 0);
    EXPECT(product(gpu, a, b, c, 4, 2, 3, 5, 1, 2), 0);
    EXPECT(product(gpu, a, b, c, 4, 0, 3, 5), 0);
    gpu.is_well();
    EXPECT(product(gpu, a + 2, b, c, 4, 2, 3, 5), 0);
    gpu.is_broken(CUDA_ERROR_MISALIGNED_ADDRESS);
}

void networks_end_with_memory()
{
    for (int shift : {0, 16}) {
        Gpu gpu;
        Convolving what(gpu, F32, 3);
        EXPECT(what.run(gpu, shift), 0);
        shift ? gpu.is_broken() : gpu.is_well();
        EXPECT(what.run(gpu), shift ? EXECUTION_FAILED : 0);
    }
    void *large = tensor(F32, 2, 3, 4, 4), *small = tensor(F32, 2, 3, 2, 2), *last = tensor(F32, 2, 3, 4, 4, 1);
    std::vector<std::function<int(const Gpu &, void *, void *)>> all = {
        [=](const Gpu &gpu, void *from, void *to) { return cudnnPoolingForward(gpu.cudnn, pooling(2, 0, 2), &ONE, large, from, &NONE, small, to); },
        [=](const Gpu &gpu, void *from, void *to) { return cudnnActivationForward(gpu.cudnn, activation(1, 1), &ONE, large, from, &NONE, large, to); },
        [=](const Gpu &gpu, void *from, void *to) { return cudnnTransformTensor(gpu.cudnn, &ONE, large, from, &NONE, last, to); },
    };
    for (auto &one : all) {
        for (int shift : {-4, 0, 4}) {
            Gpu gpu;
            CUdeviceptr memory = gpu.memory(384), to = gpu.memory(384);
            EXPECT(one(gpu, at(memory, shift < 0 ? 4 : 0), at(to, shift > 0 ? 384 : 0)), 0);
            shift ? gpu.is_broken() : gpu.is_well();
            if (!shift)
                EXPECT(one(gpu, at(memory, 2), at(to)), MISALIGNED_POINTER);
        }
        // In a graph that outlives what it points to.
        Gpu gpu;
        CUdeviceptr memory = gpu.memory(384), to = gpu.memory(384);
        CUgraph graph;
        CUgraphExec launched;
        EXPECT(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
        EXPECT(one(gpu, at(memory), at(to)), 0);
        EXPECT(cuStreamEndCapture(gpu.stream, &graph), 0);
        EXPECT(cuGraphInstantiateWithFlags(&launched, graph, 0), 0);
        EXPECT(cuGraphLaunch(launched, gpu.stream), 0);
        gpu.is_well();
        EXPECT(cuMemFreeAsync(memory, gpu.stream), 0);
        EXPECT(cuGraphLaunch(launched, gpu.stream), 0);
        gpu.is_broken();
    }
}

void poolings_are_of_one_kind_and_of_windows_with_something_in_them()
{
    Gpu gpu;
    void *four = at(gpu.memory(64)), *there = at(gpu.memory(64)), *four_by_four = tensor(F32, 1, 1, 4, 4), *half = tensor(F16, 1, 1, 2, 2);
    void *two_by_two = tensor(F32, 1, 1, 2, 2), *three_by_three = tensor(F32, 1, 1, 3, 3);
    EXPECT(cudnnPoolingForward(gpu.cudnn, pooling(2, 0, 2), &ONE, four_by_four, four, &NONE, half, there), BAD_PARAMETER);
    EXPECT(cudnnPoolingForward(gpu.cudnn, pooling(2, 0, 2), &ONE, four_by_four, four, &NONE, two_by_two, four), BAD_PARAMETER);
    EXPECT(cudnnPoolingForward(gpu.cudnn, pooling(2, 2, 2), &ONE, two_by_two, four, &NONE, three_by_three, there), NOT_SUPPORTED);
    EXPECT(cudnnPoolingForward(gpu.cudnn, pooling(2, 0, 2), &ONE, four_by_four, four, &NONE, two_by_two, there), 0);
    gpu.is_well();
}

void convolutions_read_aligned_values()
{
    Gpu gpu;
    Convolving single(gpu, F32, 3), half(gpu, F16, 1);
    EXPECT(single.run(gpu, 2), MISALIGNED_POINTER);
    EXPECT(half.run(gpu, 1), MISALIGNED_POINTER);
    EXPECT(half.run(gpu, 2), MISALIGNED_POINTER);
    EXPECT(half.run(gpu), 0);
    gpu.is_well();
}

void algorithms_come_once_for_each_arithmetic()
{
    struct Choice {
        int algorithm, status;
        float time;
        size_t memory;
        int determinism, math, reserved[3];
    } choices[16];
    for (auto [kind, math] : {std::pair(F32, 3), std::pair(F32, 0), std::pair(F16, 1)}) {
        Gpu gpu;
        Convolving what(gpu, kind, math);
        int found = 0, refused = 0, of_all = 0;
        EXPECT(cudnnGetConvolutionForwardAlgorithm_v7(gpu.cudnn, what.x, what.w, what.how, what.y, 16, &found, choices), 0);
        for (int index = 0; index < found; index++) {
            refused += choices[index].status != 0;
            if (choices[index].algorithm != 1 || choices[index].status)
                continue;
            of_all++;
            size_t bytes;
            EXPECT(cudnnSetConvolutionMathType(what.how, choices[index].math), 0);
            EXPECT(cudnnGetConvolutionForwardWorkspaceSize(gpu.cudnn, what.x, what.w, what.how, what.y, 1, &bytes), 0);
            EXPECT(choices[index].memory == bytes, true);
            what.room_bytes = bytes - 4;
            EXPECT(what.run(gpu), BAD_PARAMETER);
            what.room_bytes = bytes;
            EXPECT(what.run(gpu), 0);
        }
        EXPECT(of_all, 2);
        EXPECT(refused > 0, true);
        EXPECT(cudnnGetConvolutionForwardAlgorithm_v7(gpu.cudnn, what.x, what.w, what.how, what.y, 1, &found, choices), 0);
        EXPECT(found, 1);
        gpu.is_well();
    }
}

void events_say_when_they_were_if_they_may()
{
    Gpu gpu;
    CUevent first, last, silent;
    float ms;
    EXPECT(cuEventCreate(&first, CU_EVENT_DEFAULT), 0);
    EXPECT(cuEventCreate(&last, CU_EVENT_DEFAULT), 0);
    EXPECT(cuEventCreate(&silent, CU_EVENT_DISABLE_TIMING), 0);
    EXPECT(cuEventQuery(first), 0);
    EXPECT(cuEventSynchronize(first), 0);
    EXPECT(cuEventRecord(first, gpu.stream), 0);
    EXPECT(cuEventRecord(silent, gpu.stream), 0);
    gpu.is_well();
    EXPECT(cuEventElapsedTime(&ms, first, last), CUDA_ERROR_INVALID_HANDLE);
    EXPECT(cuEventElapsedTime(&ms, first, silent), CUDA_ERROR_INVALID_HANDLE);
    EXPECT(cuEventRecord(last, gpu.stream), 0);
    gpu.is_well();
    EXPECT(cuEventElapsedTime(&ms, first, last), 0);
    Gpu other;
    EXPECT(cuEventRecord(first, other.stream), CUDA_ERROR_INVALID_HANDLE);
}

void handles_are_of_one_gpu()
{
    Gpu one, other;
    void *alike = tensor(F32, 1, 1, 2, 2), *here = at(other.memory(16));
    CUdeviceptr matrix = other.memory(16);
    EXPECT(cudnnSetStream(other.cudnn, one.stream), STREAM_MISMATCH);
    EXPECT(cudnnActivationForward(one.cudnn, activation(1, 1), &ONE, alike, here, &NONE, alike, here), BAD_PARAMETER);
    EXPECT(product(one, matrix, matrix, matrix, 1, 1, 1, 1), 13);
    Gpu elsewhere = one;
    one.bind();
    EXPECT(cublasCreate_v2(&elsewhere.cublas), 0);
    other.bind();
    // On whatever stream is the current GPU's.
    EXPECT(product(elsewhere, matrix, matrix, matrix, 1, 1, 1, 1), 13);
    EXPECT(cublasSetStream_v2(other.cublas, one.stream), 0);
    EXPECT(product(other, matrix, matrix, matrix, 1, 1, 1, 1), 13);
    other.is_well();
    one.bind();
    one.is_well();
}

// Candle's own kernel of that name: fills with a number.
CUresult fill(const Gpu &gpu, CUstream stream, CUdeviceptr to, size_t count, unsigned grid_y, unsigned block_y, unsigned block_z, unsigned shared)
{
    CUmodule module;
    CUfunction function;
    EXPECT(cuModuleLoadData(&module, nullptr), 0);
    EXPECT(cuModuleGetFunction(&function, module, "fill_f32"), 0);
    float value = 1;
    void *parameters[] = {&to, &value, &count};
    gpu.bind();
    return cuLaunchKernel(function, 1, grid_y, 1, 1, block_y, block_z, shared, stream, parameters, nullptr);
}

void launches_have_limits()
{
    Gpu gpu;
    CUdeviceptr to = gpu.memory(64);
    EXPECT(fill(gpu, gpu.stream, to, 16, 1, 1, 65, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT(fill(gpu, gpu.stream, to, 16, 1, 1025, 1, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT(fill(gpu, gpu.stream, to, 16, 1, 32, 64, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT(fill(gpu, gpu.stream, to, 16, 65536, 1, 1, 0), CUDA_ERROR_INVALID_VALUE);
    EXPECT(fill(gpu, gpu.stream, to, 16, 1, 1, 1, 48 * 1024 + 1), CUDA_ERROR_INVALID_VALUE);
    EXPECT(fill(gpu, gpu.stream, to, 16, 65535, 1, 1, 48 * 1024), 0);
    EXPECT(fill(gpu, gpu.stream, to, 16, 1, 1, 64, 0), 0);
    gpu.is_well();
    Gpu other;
    EXPECT(fill(gpu, other.stream, to, 16, 1, 1, 1, 0), CUDA_ERROR_INVALID_HANDLE);
}

void kernels_end_with_memory()
{
    // Whoever frees it sees what was written behind it.
    Gpu beside;
    CUdeviceptr to = beside.memory(64);
    EXPECT(fill(beside, beside.stream, to, 17, 1, 1, 1, 0), 0);
    EXPECT(cuMemFreeAsync(to, beside.stream), 0);
    beside.is_broken();
    Gpu gone;
    to = gone.memory(64);
    EXPECT(cuMemFreeAsync(to, gone.stream), 0);
    EXPECT(fill(gone, gone.stream, to, 16, 1, 1, 1, 0), 0);
    gone.is_broken();
    Gpu between;
    to = between.memory(64);
    EXPECT(fill(between, between.stream, to + 2, 8, 1, 1, 1, 0), 0);
    between.is_broken(CUDA_ERROR_MISALIGNED_ADDRESS);
}

void an_old_driver_starts_nothing_of_a_newer_cuda()
{
    Gpu gpu;
    int version;
    void *handle;
    CUmodule module;
    std::ofstream(control) << "0.driver=12080\n";
    EXPECT(cuDriverGetVersion(&version), 0);
    EXPECT(version, 12080);
    EXPECT(cublasCreate_v2(&handle), 1);
    EXPECT(curandCreateGenerator(&handle, 100), 203);
    EXPECT(cudnnCreate(&handle), 1001);
    EXPECT(cuModuleLoadData(&module, nullptr), CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    std::ofstream(control) << "";
    EXPECT(cuDriverGetVersion(&version), 0);
    EXPECT(version, 13000);
    EXPECT(cublasCreate_v2(&handle), 0);
}

} // namespace

#define CASE(name)                                                                                                     \
    of_case = #name;                                                                                                   \
    name();

int main(int count, char **arguments)
{
    if (count != 2) {
        std::fprintf(stderr, "a file to write to, please\n");
        return 2;
    }
    control = arguments[1];
    std::ofstream(control) << "";
    setenv("CUDA_EMULATOR_GPUS", "64", 1);
    setenv("CUDA_EMULATOR_CONTROL", control, 1);
    // What is wrong here is meant.
    unsetenv("CUDA_EMULATOR_FAULTS");
    EXPECT(cuInit(0), 0);
    CASE(copies_end_with_memory)
    CASE(products_end_with_memory)
    CASE(networks_end_with_memory)
    CASE(poolings_are_of_one_kind_and_of_windows_with_something_in_them)
    CASE(convolutions_read_aligned_values)
    CASE(algorithms_come_once_for_each_arithmetic)
    CASE(events_say_when_they_were_if_they_may)
    CASE(handles_are_of_one_gpu)
    CASE(launches_have_limits)
    CASE(kernels_end_with_memory)
    CASE(an_old_driver_starts_nothing_of_a_newer_cuda)
    std::fprintf(stderr, wrong ? "%d answers are wrong\n" : "a GPU would refuse the same\n", wrong);
    std::fflush(stderr);
    // Threads of streams go on.
    std::_Exit(wrong != 0);
}

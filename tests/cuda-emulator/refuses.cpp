// What a real GPU refuses, and its libraries do, the emulator must: else nobody finds that a program does it. `scripts/check-cuda` runs this.
//
// Each case has a GPU of its own, since most break it.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <cuda.h>

#include "values.h"

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
int cudnnCreateActivationDescriptor(void **);
int cudnnCreatePoolingDescriptor(void **);
int cudnnSetTensor4dDescriptor(void *, int, int, int, int, int, int);
int cudnnSetActivationDescriptor(void *, int, int, double);
int cudnnSetPoolingNdDescriptor(void *, int, int, int, const int *, const int *, const int *);
int cudnnBackendCreateDescriptor(int, void **);
int cudnnBackendDestroyDescriptor(void *);
int cudnnBackendSetAttribute(void *, int, int, int64_t, const void *);
int cudnnBackendGetAttribute(const void *, int, int, int64_t, int64_t *, void *);
int cudnnBackendFinalize(void *);
int cudnnBackendExecute(void *, const void *, const void *);
int cudnnPoolingForward(void *, const void *, const float *, const void *, const void *, const float *, const void *, void *);
int cudnnActivationForward(void *, const void *, const float *, const void *, const void *, const float *, const void *, void *);
int cudnnTransformTensor(void *, const float *, const void *, const void *, const float *, const void *, void *);
}

namespace {

constexpr float ONE = 1, NONE = 0;
enum {
    NOT_INITIALIZED = 1001,
    BAD_PARAMETER = 2000,
    NULL_POINTER = 2002,
    MISALIGNED_POINTER = 2003,
    NOT_FINALIZED = 2004,
    STREAM_MISMATCH = 2007,
    DUPLICATED_ENTRIES = 2009,
    WRONG_TYPE = 2010,
    NOT_SUPPORTED = 3000,
    EXECUTION_FAILED = 5000
};
enum { F32 = 0, F16 = 2 };
// Of graphs: kinds of descriptors, types of values, ways to guess, and engines.
enum { POINTWISE = 0, CONVOLUTION = 1, ENGINE = 2, CONFIG = 3, HEURISTICS = 4, PLAN = 5, FORWARD = 10, FOLLOWING = 13, GRAPH = 15, PACK = 16, TENSOR = 17 };
enum { HANDLE = 0, TYPE = 1, BOOLEAN = 2, INT64 = 3, FLOAT = 4, DOUBLE = 5, POINTER = 6, DIRECTION = 7, GUESS = 8, MODE = 14, DESCRIPTOR = 15 };
enum { NUMERICAL = 11, BEHAVIOUR = 19 };
enum { FALLBACK = 2, FASTEST = 3 };
enum { LAST_RESORT = 0, UNABLE = 4, WINOGRAD = 6, EXACT = 11, WITHOUT_ORDER = 13, TENSOR_CORES = 41 };

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

void *made(int kind)
{
    void *descriptor = nullptr;
    EXPECT(cudnnBackendCreateDescriptor(kind, &descriptor), 0);
    return descriptor;
}

template <class T> int set(void *descriptor, int name, int type, std::vector<T> values)
{
    return cudnnBackendSetAttribute(descriptor, name, type, int64_t(values.size()), values.data());
}

int set_part(void *descriptor, int name, void *part) { return set<void *>(descriptor, name, DESCRIPTOR, {part}); }

// What is needed of a descriptor, but for one attribute, if that is left out; -1 is none.
struct Setting {
    int name, type;
    std::vector<int64_t> values;
};

void *described(int kind, const std::vector<Setting> &settings, int without = -1)
{
    void *descriptor = made(kind);
    for (const Setting &setting : settings) {
        if (setting.name == without)
            continue;
        if (setting.type == INT64)
            EXPECT(set<int64_t>(descriptor, setting.name, INT64, setting.values), 0);
        else if (setting.type == BOOLEAN)
            EXPECT(set<char>(descriptor, setting.name, BOOLEAN, {char(setting.values[0])}), 0);
        else if (setting.type == DESCRIPTOR)
            EXPECT(set_part(descriptor, setting.name, reinterpret_cast<void *>(setting.values[0])), 0);
        else if (setting.type == FLOAT)
            EXPECT(set<float>(descriptor, setting.name, FLOAT, {float(setting.values[0])}), 0);
        else
            EXPECT(set<int>(descriptor, setting.name, setting.type, {int(setting.values[0])}), 0);
    }
    return descriptor;
}

void *finalized(void *descriptor)
{
    EXPECT(cudnnBackendFinalize(descriptor), 0);
    return descriptor;
}

using Sides = std::vector<int64_t>;

std::vector<int64_t> strides_of(const Sides &sides, bool is_last)
{
    int64_t c = sides[1], h = sides[2], w = sides[3];
    return is_last ? Sides{h * w * c, 1, w * c, c} : Sides{c * h * w, h * w, w, 1};
}

std::vector<Setting> tensor_settings(int64_t id, int kind, const Sides &sides, const Sides &strides, bool is_virtual, int64_t alignment)
{
    return {{901, TYPE, {kind}}, {902, INT64, sides}, {903, INT64, strides}, {906, INT64, {id}}, {900, INT64, {alignment}}, {907, BOOLEAN, {is_virtual}}};
}

std::vector<Setting> convolution_settings(int64_t padding = 1, int64_t stride = 1)
{
    return {{100, TYPE, {F32}},
            {101, DIRECTION, {1}},
            {102, INT64, {1, 1}},
            {103, INT64, {stride, stride}},
            {104, INT64, {padding, padding}},
            {105, INT64, {padding, padding}},
            {106, INT64, {2}}};
}

int64_t number_of(void *descriptor) { return reinterpret_cast<int64_t>(descriptor); }

std::vector<Setting> forward_settings(void *how, void *w, void *x, void *y)
{
    return {{700, FLOAT, {1}},
            {701, FLOAT, {0}},
            {702, DESCRIPTOR, {number_of(how)}},
            {703, DESCRIPTOR, {number_of(w)}},
            {704, DESCRIPTOR, {number_of(x)}},
            {705, DESCRIPTOR, {number_of(y)}}};
}

std::vector<Setting> following_settings(void *how, void *x, void *b, void *y)
{
    std::vector<Setting> settings = {{750, DESCRIPTOR, {number_of(how)}}, {751, DESCRIPTOR, {number_of(x)}}, {753, DESCRIPTOR, {number_of(y)}}};
    if (b)
        settings.push_back({752, DESCRIPTOR, {number_of(b)}});
    return settings;
}

void *pointwise(int mode, int precision = F32) { return finalized(described(POINTWISE, {{0, MODE, {mode}}, {1, TYPE, {precision}}})); }

// A convolution of 4 pictures of 8 channels of 6 x 6 with what follows it, as a graph, and what may be wrong with it.
struct Asked {
    int kind = F32;
    bool is_last = false, adds = false, rectifies = true;
    int64_t alignment = 16;
    // Of x, w, added, bias, y: which lies in the other order, is of another kind, or has the number of another one.
    int otherwise_lying = -1, of_another_kind = -1, numbered_as_x = -1;
    bool keeps_between = false, ends_virtual = false, has_gaps = false, biases_first = false, is_half_between = false;
    int64_t factor = 1;
};

enum { X, W, ADDED, BIAS, Y };
const Sides PICTURES = {4, 8, 6, 6}, FILTERS = {8, 8, 3, 3}, BIASES = {1, 8, 1, 1};

const Sides &sides_of(int which) { return which == W ? FILTERS : which == BIAS ? BIASES : PICTURES; }

void *end(const Asked &asked, int which)
{
    const Sides &sides = sides_of(which);
    int kind = which == asked.of_another_kind ? F16 - asked.kind : asked.kind;
    Sides strides = strides_of(sides, asked.is_last != (which == asked.otherwise_lying));
    if (which == X && asked.has_gaps)
        strides[0] += 1;
    int64_t id = which == asked.numbered_as_x ? X : which;
    return finalized(described(TENSOR, tensor_settings(id, kind, sides, strides, which == Y && asked.ends_virtual, asked.alignment)));
}

void *between(const Asked &asked, int64_t id)
{
    Sides strides = strides_of(PICTURES, asked.is_last);
    return finalized(described(TENSOR, tensor_settings(100 + id, asked.is_half_between ? F16 : F32, PICTURES, strides, !asked.keeps_between, 16)));
}

std::vector<void *> operations(const Asked &asked)
{
    void *y = end(asked, Y), *made = between(asked, 0);
    auto settings = forward_settings(finalized(described(CONVOLUTION, convolution_settings())), end(asked, W), end(asked, X), made);
    settings[0].values = {asked.factor};
    std::vector<void *> all = {finalized(described(FORWARD, settings))};
    std::vector<int> added = asked.adds ? std::vector<int>{ADDED, BIAS} : std::vector<int>{BIAS};
    if (asked.biases_first)
        std::swap(added[0], added[1]);
    for (size_t index = 0; index < added.size(); index++) {
        bool is_end = index + 1 == added.size() && !asked.rectifies;
        void *next = is_end ? y : between(asked, 1 + int64_t(index));
        all.push_back(finalized(described(FOLLOWING, following_settings(pointwise(0), made, end(asked, added[index]), next))));
        made = next;
    }
    if (asked.rectifies)
        all.push_back(finalized(described(FOLLOWING, following_settings(pointwise(100), made, nullptr, y))));
    return all;
}

void *graph_of(const Gpu &gpu, const std::vector<void *> &operations)
{
    void *graph = made(GRAPH);
    EXPECT(set<void *>(graph, 800, HANDLE, {gpu.cudnn}), 0);
    EXPECT(set(graph, 801, DESCRIPTOR, operations), 0);
    return graph;
}

std::vector<void *> configs_of(void *graph, int how)
{
    void *guess = finalized(described(HEURISTICS, {{201, DESCRIPTOR, {number_of(graph)}}, {200, GUESS, {how}}}));
    int64_t count = -1;
    EXPECT(cudnnBackendGetAttribute(guess, 202, DESCRIPTOR, 0, &count, nullptr), 0);
    std::vector<void *> configs;
    for (int64_t index = 0; index < count; index++)
        configs.push_back(made(CONFIG));
    EXPECT(cudnnBackendGetAttribute(guess, 202, DESCRIPTOR, count, &count, configs.data()), 0);
    EXPECT(count, long(configs.size()));
    return configs;
}

std::vector<void *> configs_of(const Gpu &gpu, const Asked &asked, int how) { return configs_of(finalized(graph_of(gpu, operations(asked))), how); }

void *engine_of(void *config)
{
    void *engine = made(ENGINE);
    int64_t count;
    EXPECT(cudnnBackendGetAttribute(config, 300, DESCRIPTOR, 1, &count, &engine), 0);
    EXPECT(count, 1);
    return engine;
}

int64_t index_of(void *config)
{
    int64_t index = -1, count;
    EXPECT(cudnnBackendGetAttribute(engine_of(config), 1301, INT64, 1, &count, &index), 0);
    return index;
}

// By which engine, the first that comes.
void *config_of(const Gpu &gpu, const Asked &asked, int64_t engine)
{
    for (void *config : configs_of(gpu, asked, engine == LAST_RESORT ? FALLBACK : FASTEST))
        if (index_of(config) == engine)
            return config;
    return nullptr;
}

void *plan_of(const Gpu &gpu, void *config)
{
    void *plan = made(PLAN);
    EXPECT(set<void *>(plan, 400, HANDLE, {gpu.cudnn}), 0);
    EXPECT(set_part(plan, 401, config), 0);
    return plan;
}

void *plan_of(const Gpu &gpu, const Asked &asked, int64_t engine) { return finalized(plan_of(gpu, config_of(gpu, asked, engine))); }

int64_t workspace_of(void *plan)
{
    int64_t bytes = -1, count;
    EXPECT(cudnnBackendGetAttribute(plan, 402, INT64, 1, &count, &bytes), 0);
    return bytes;
}

// Memory for all of it, of values that are the same in all kinds.
struct Convolving {
    Asked asked;
    emulator::Kind kind;
    std::map<int, std::vector<float>> values;
    std::map<int, CUdeviceptr> places;
    CUdeviceptr room;

    Convolving(const Gpu &gpu, Asked asked) : asked(asked), kind(asked.kind == F32 ? emulator::Kind::F32 : emulator::Kind::F16)
    {
        for (int which : {X, W, ADDED, BIAS, Y}) {
            const Sides &sides = sides_of(which);
            long count = sides[0] * sides[1] * sides[2] * sides[3];
            for (long index = 0; index < count; index++)
                values[which].push_back(float((index * 7 + which) % 5 - 2));
            places[which] = gpu.memory(count * size());
            std::vector<char> bytes(count * size());
            for (long index = 0; index < count; index++)
                emulator::store(bytes.data(), kind, position(which, index), values[which][index]);
            EXPECT(cuMemcpyHtoDAsync(places[which], bytes.data(), bytes.size(), gpu.stream), 0);
            gpu.is_well();
        }
        room = gpu.memory(32 << 20);
    }

    long size() const { return emulator::size_of(kind); }

    // Where the value lies that is so far behind the first one channels first.
    long position(int which, long index) const
    {
        const Sides &sides = sides_of(which);
        Sides strides = strides_of(sides, asked.is_last != (which == asked.otherwise_lying));
        long place = 0;
        for (int side = 3; side >= 0; side--) {
            place += index % sides[side] * strides[side];
            index /= sides[side];
        }
        return place;
    }

    float expected(long n, long k, long top, long left) const
    {
        float sum = values.at(BIAS)[k] + (asked.adds ? values.at(ADDED)[((n * 8 + k) * 6 + top) * 6 + left] : 0);
        for (long c = 0; c < 8; c++)
            for (long dy = 0; dy < 3; dy++)
                for (long dx = 0; dx < 3; dx++) {
                    long y = top + dy - 1, x = left + dx - 1;
                    if (y >= 0 && y < 6 && x >= 0 && x < 6)
                        sum += values.at(X)[((n * 8 + c) * 6 + y) * 6 + x] * values.at(W)[((k * 8 + c) * 3 + dy) * 3 + dx];
                }
        return asked.rectifies ? std::fmax(sum, 0.0f) : sum;
    }

    // How many values are not what they should be.
    long wrong(const Gpu &gpu) const
    {
        long count = 4 * 8 * 6 * 6, found = 0;
        std::vector<char> bytes(count * size());
        EXPECT(cuMemcpyDtoHAsync(bytes.data(), places.at(Y), bytes.size(), gpu.stream), 0);
        gpu.is_well();
        for (long index = 0; index < count; index++)
            found += emulator::value(bytes.data(), kind, position(Y, index)) != expected(index / 288, index / 36 % 8, index / 6 % 6, index % 6);
        return found;
    }

    void *pack(int moved = -1, size_t by = 0) const
    {
        std::vector<int64_t> ids;
        std::vector<void *> pointers;
        for (auto [which, place] : places) {
            ids.push_back(which);
            pointers.push_back(at(place, which == moved ? by : 0));
        }
        return packed(ids, pointers, at(room));
    }

    static void *packed(const std::vector<int64_t> &ids, const std::vector<void *> &pointers, void *room)
    {
        void *pack = made(PACK);
        EXPECT(set(pack, 1000, INT64, ids), 0);
        EXPECT(set(pack, 1001, POINTER, pointers), 0);
        EXPECT(set<void *>(pack, 1003, POINTER, {room}), 0);
        return finalized(pack);
    }

    long run(const Gpu &gpu, int64_t engine = EXACT, int moved = -1, size_t by = 0) const
    {
        return cudnnBackendExecute(gpu.cudnn, plan_of(gpu, asked, engine), pack(moved, by));
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
        Convolving what(gpu, {});
        EXPECT(what.run(gpu, EXACT, X, shift), 0);
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

void convolutions_give_the_values_that_were_asked_for()
{
    for (int kind : {F32, F16})
        for (bool is_last : {false, true})
            for (bool adds : {false, true})
                for (bool rectifies : {false, true}) {
                    Gpu gpu;
                    next_gpu--;
                    Convolving what(gpu, {kind, is_last, adds, rectifies});
                    for (int64_t engine : {int(LAST_RESORT), int(EXACT), int(TENSOR_CORES), int(WITHOUT_ORDER)}) {
                        EXPECT(cuMemsetD8Async(what.places[Y], 0xff, 4 * 8 * 6 * 6 * what.size(), gpu.stream), 0);
                        EXPECT(what.run(gpu, engine), 0);
                        EXPECT(what.wrong(gpu), 0);
                    }
                }
    next_gpu++;
    // Filters may lie in the other order, and operations come in any.
    Gpu gpu;
    Asked asked;
    asked.otherwise_lying = W;
    Convolving what(gpu, asked);
    auto all = operations(asked);
    std::swap(all[0], all[2]);
    void *plan = finalized(plan_of(gpu, configs_of(finalized(graph_of(gpu, all)), FALLBACK).at(0)));
    EXPECT(cudnnBackendExecute(gpu.cudnn, plan, what.pack()), 0);
    EXPECT(what.wrong(gpu), 0);
}

void tensor_cores_round_single_precision()
{
    Gpu gpu;
    Convolving what(gpu, {});
    float fine = 1 + 1 / 8192.0f;
    EXPECT(cuMemsetD8Async(what.places[X], 0, 4 * 8 * 6 * 6 * 4, gpu.stream), 0);
    EXPECT(cuMemsetD8Async(what.places[BIAS], 0, 8 * 4, gpu.stream), 0);
    EXPECT(cuMemsetD8Async(what.places[W], 0, 8 * 8 * 9 * 4, gpu.stream), 0);
    EXPECT(cuMemcpyHtoDAsync(what.places[X], &fine, 4, gpu.stream), 0);
    // The middle of the first filter.
    EXPECT(cuMemcpyHtoDAsync(what.places[W] + 4 * 4, &ONE, 4, gpu.stream), 0);
    for (auto [engine, expected] : {std::pair(int(EXACT), fine), std::pair(int(TENSOR_CORES), 1.0f)}) {
        float found = 0;
        EXPECT(what.run(gpu, engine), 0);
        EXPECT(cuMemcpyDtoHAsync(&found, what.places[Y], 4, gpu.stream), 0);
        gpu.is_well();
        EXPECT(found == expected, true);
    }
}

std::vector<int> notes_of(void *config, int name, int type)
{
    int notes[16];
    int64_t count = -1;
    EXPECT(cudnnBackendGetAttribute(engine_of(config), name, type, 16, &count, notes), 0);
    return {notes, notes + count};
}

void engines_come_the_fastest_first()
{
    Gpu gpu;
    auto indices = [&](const Asked &asked, int how) {
        std::vector<int64_t> found;
        for (void *config : configs_of(gpu, asked, how))
            found.push_back(index_of(config));
        return found;
    };
    const std::vector<int64_t> all = {WINOGRAD, UNABLE, TENSOR_CORES, TENSOR_CORES, EXACT, WITHOUT_ORDER};
    Asked first, last;
    last.is_last = true;
    EXPECT(indices(first, FASTEST) == all, true);
    EXPECT(indices(last, FASTEST) == std::vector<int64_t>(all.begin() + 1, all.end()), true);
    EXPECT(indices(first, FALLBACK) == std::vector<int64_t>{LAST_RESORT}, true);
    std::map<int64_t, std::vector<int>> notes = {{WINOGRAD, {5}}, {UNABLE, {}}, {TENSOR_CORES, {0}}, {EXACT, {}}, {WITHOUT_ORDER, {4}}};
    for (void *config : configs_of(gpu, first, FASTEST)) {
        EXPECT(notes_of(config, 1303, NUMERICAL) == notes.at(index_of(config)), true);
        EXPECT(notes_of(config, 1305, BEHAVIOUR).size() <= 1, true);
    }
    Asked adding;
    adding.adds = true;
    EXPECT(cudnnBackendFinalize(plan_of(gpu, config_of(gpu, adding, WINOGRAD))), NOT_SUPPORTED);
    Convolving what(gpu, first);
    EXPECT(what.run(gpu, WINOGRAD), 0);
    EXPECT(what.run(gpu, UNABLE), NOT_SUPPORTED);
    EXPECT(what.wrong(gpu), 0);
    std::map<int64_t, int64_t> bytes = {{WINOGRAD, 10 << 20}, {UNABLE, 0}, {TENSOR_CORES, 5 << 19}, {EXACT, 15 << 19}, {WITHOUT_ORDER, 0}, {LAST_RESORT, 0}};
    for (auto [engine, expected] : bytes)
        EXPECT(workspace_of(plan_of(gpu, first, engine)), expected);
}

void descriptors_take_what_they_are_for()
{
    auto tensor = tensor_settings(1, F32, PICTURES, strides_of(PICTURES, false), false, 16);
    void *one = made(TENSOR);
    EXPECT(cudnnBackendCreateDescriptor(999, &one), NOT_SUPPORTED);
    EXPECT(cudnnBackendDestroyDescriptor(nullptr), NULL_POINTER);
    EXPECT(cudnnBackendFinalize(nullptr), NULL_POINTER);
    EXPECT(set<int>(nullptr, 901, TYPE, {0}), NULL_POINTER);
    EXPECT(set<int64_t>(one, 901, INT64, {0}), WRONG_TYPE);
    EXPECT(set<int>(one, 901, TYPE, {0, 0}), BAD_PARAMETER);
    EXPECT(set<int>(one, 901, TYPE, {}), BAD_PARAMETER);
    EXPECT(cudnnBackendSetAttribute(one, 901, TYPE, 1, nullptr), BAD_PARAMETER);
    EXPECT(set<int>(one, 100, TYPE, {0}), BAD_PARAMETER);
    EXPECT(set<int64_t>(made(POINTWISE), 0, INT64, {0}), BAD_PARAMETER);
    EXPECT(set<int64_t>(made(CONVOLUTION), 101, INT64, {1}), WRONG_TYPE);
    EXPECT(set<int64_t>(made(FORWARD), 700, INT64, {1}), BAD_PARAMETER);
    EXPECT(set<double>(made(FORWARD), 700, DOUBLE, {1}), 0);
    EXPECT(set<int64_t>(made(FORWARD), 704, INT64, {1}), BAD_PARAMETER);
    EXPECT(set<int64_t>(made(HEURISTICS), 200, INT64, {3}), WRONG_TYPE);
    EXPECT(set_part(made(HEURISTICS), 202, made(CONFIG)), BAD_PARAMETER);
    EXPECT(set<int64_t>(made(PLAN), 401, INT64, {3}), WRONG_TYPE);
    EXPECT(set<int64_t>(made(PLAN), 400, INT64, {3}), NOT_INITIALIZED);
    EXPECT(set<int64_t>(made(PLAN), 402, INT64, {3}), NOT_SUPPORTED);
    EXPECT(set<int64_t>(made(PACK), 1001, INT64, {3}), NOT_SUPPORTED);
    EXPECT(set<void *>(made(PACK), 1003, POINTER, {nullptr, nullptr}), BAD_PARAMETER);
    int64_t number, count;
    EXPECT(cudnnBackendGetAttribute(described(TENSOR, tensor), 906, INT64, 1, &count, &number), NOT_INITIALIZED);
    one = finalized(described(TENSOR, tensor));
    EXPECT(cudnnBackendGetAttribute(one, 906, INT64, 1, &count, &number), 0);
    EXPECT(number, 1);
    EXPECT(cudnnBackendGetAttribute(one, 906, TYPE, 1, &count, &number), WRONG_TYPE);
    EXPECT(cudnnBackendGetAttribute(one, 100, TYPE, 1, &count, &number), BAD_PARAMETER);
    EXPECT(cudnnBackendGetAttribute(one, 902, INT64, 0, &count, nullptr), 0);
    EXPECT(count, 4);
    EXPECT(set<int64_t>(one, 906, INT64, {2}), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(one), BAD_PARAMETER);
}

void descriptors_want_all_that_they_need()
{
    auto tensor = tensor_settings(1, F32, PICTURES, strides_of(PICTURES, false), false, 16);
    for (int name : {900, 901, 902, 903, 906})
        EXPECT(cudnnBackendFinalize(described(TENSOR, tensor, name)), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(described(TENSOR, tensor, 907)), 0);
    EXPECT(cudnnBackendFinalize(described(TENSOR, tensor_settings(1, F32, PICTURES, {6, 3, 1}, false, 16))), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(described(TENSOR, tensor_settings(1, F32, PICTURES, {0, 36, 6, 1}, false, 16))), BAD_PARAMETER);
    for (int64_t alignment : {0, 2, 6})
        EXPECT(cudnnBackendFinalize(described(TENSOR, tensor_settings(1, F32, PICTURES, PICTURES, false, alignment))), BAD_PARAMETER);
    for (int name = 100; name <= 106; name++)
        EXPECT(cudnnBackendFinalize(described(CONVOLUTION, convolution_settings(), name)), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(described(CONVOLUTION, convolution_settings(-1))), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(described(CONVOLUTION, convolution_settings(1, 0))), BAD_PARAMETER);
    auto short_one = convolution_settings();
    short_one[3].values = {1};
    EXPECT(cudnnBackendFinalize(described(CONVOLUTION, short_one)), BAD_PARAMETER);
    void *x = finalized(described(TENSOR, tensor)), *how = finalized(described(CONVOLUTION, convolution_settings()));
    void *w = finalized(described(TENSOR, tensor_settings(2, F32, FILTERS, strides_of(FILTERS, false), false, 16)));
    auto forward = forward_settings(how, w, x, x);
    for (int name = 700; name <= 705; name++)
        EXPECT(cudnnBackendFinalize(described(FORWARD, forward, name)), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(described(FORWARD, forward)), 0);
    // What is finalized later is too late.
    void *late = described(TENSOR, tensor);
    void *operation = described(FORWARD, forward_settings(how, w, late, x));
    EXPECT(cudnnBackendFinalize(late), 0);
    EXPECT(cudnnBackendFinalize(operation), BAD_PARAMETER);
    for (void *y : {w, finalized(described(TENSOR, tensor_settings(3, F32, {4, 8, 5, 6}, {240, 30, 6, 1}, false, 16)))})
        EXPECT(cudnnBackendFinalize(described(FORWARD, forward_settings(how, w, x, y))), BAD_PARAMETER);
    void *of_five = finalized(described(TENSOR, tensor_settings(2, F32, {8, 5, 3, 3}, {45, 9, 3, 1}, false, 16)));
    EXPECT(cudnnBackendFinalize(described(FORWARD, forward_settings(how, of_five, x, x))), BAD_PARAMETER);
    EXPECT(set_part(made(FORWARD), 704, how), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(described(POINTWISE, {{1, TYPE, {F32}}})), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(described(FOLLOWING, following_settings(pointwise(0), x, nullptr, x))), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(described(FOLLOWING, following_settings(pointwise(0), x, w, x), 751)), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(described(PACK, {{1000, INT64, {1}}})), BAD_PARAMETER);
}

void graphs_are_made_of_what_goes_together()
{
    Gpu gpu;
    Asked asked;
    auto all = operations(asked);
    EXPECT(set_part(made(GRAPH), 801, made(FORWARD)), NOT_FINALIZED);
    EXPECT(set_part(made(GRAPH), 801, pointwise(0)), BAD_PARAMETER);
    void *graph = made(GRAPH);
    EXPECT(set(graph, 801, DESCRIPTOR, all), 0);
    EXPECT(cudnnBackendFinalize(graph), BAD_PARAMETER);
    all.push_back(all[0]);
    EXPECT(cudnnBackendFinalize(graph_of(gpu, all)), BAD_PARAMETER);
    for (int which : {W, BIAS, Y}) {
        Asked wrong;
        wrong.numbered_as_x = which;
        EXPECT(cudnnBackendFinalize(graph_of(gpu, operations(wrong))), BAD_PARAMETER);
    }
    void *unfinished = described(HEURISTICS, {{201, DESCRIPTOR, {number_of(graph_of(gpu, operations(asked)))}}, {200, GUESS, {FASTEST}}});
    EXPECT(cudnnBackendFinalize(unfinished), NOT_FINALIZED);
    EXPECT(cudnnBackendFinalize(described(HEURISTICS, {{200, GUESS, {FASTEST}}})), BAD_PARAMETER);
}

void nothing_is_offered_for_other_graphs()
{
    Gpu gpu;
    auto is_nothing = [&](std::function<void(Asked &)> change) {
        Asked asked;
        asked.adds = true;
        change(asked);
        for (int how : {FALLBACK, FASTEST})
            EXPECT(configs_of(gpu, asked, how).size(), 0);
    };
    is_nothing([](Asked &asked) { asked.keeps_between = true; });
    is_nothing([](Asked &asked) { asked.ends_virtual = true; });
    is_nothing([](Asked &asked) { asked.is_half_between = true; });
    is_nothing([](Asked &asked) { asked.biases_first = true; });
    is_nothing([](Asked &asked) { asked.factor = 2; });
    is_nothing([](Asked &asked) { asked.has_gaps = true; });
    for (int which : {X, ADDED, Y})
        is_nothing([=](Asked &asked) { asked.otherwise_lying = which; });
    for (int which : {X, W, ADDED, BIAS, Y})
        is_nothing([=](Asked &asked) { asked.of_another_kind = which; });
    auto part = operations({});
    part.erase(part.begin() + 1);
    EXPECT(configs_of(finalized(graph_of(gpu, part)), FASTEST).size(), 0);
    part = operations({});
    part.erase(part.begin());
    EXPECT(configs_of(finalized(graph_of(gpu, part)), FASTEST).size(), 0);
}

void configurations_are_filled_in_once()
{
    Gpu gpu;
    void *guess = finalized(described(HEURISTICS, {{201, DESCRIPTOR, {number_of(finalized(graph_of(gpu, operations({}))))}}, {200, GUESS, {FASTEST}}}));
    int64_t count = -1;
    std::vector<void *> some = {made(CONFIG), made(ENGINE), made(CONFIG)};
    EXPECT(cudnnBackendGetAttribute(guess, 202, INT64, 3, &count, some.data()), WRONG_TYPE);
    EXPECT(cudnnBackendGetAttribute(guess, 202, DESCRIPTOR, 3, &count, some.data()), 0);
    EXPECT(count, 1);
    EXPECT(cudnnBackendGetAttribute(guess, 202, DESCRIPTOR, 3, &count, some.data()), 0);
    EXPECT(count, 0);
    EXPECT(cudnnBackendGetAttribute(some[2], 300, DESCRIPTOR, 1, &count, &some[1]), NOT_INITIALIZED);
    EXPECT(cudnnBackendGetAttribute(some[0], 300, DESCRIPTOR, 1, &count, &some[2]), BAD_PARAMETER);
    EXPECT(cudnnBackendGetAttribute(some[0], 300, DESCRIPTOR, 0, &count, nullptr), NOT_SUPPORTED);
    EXPECT(cudnnBackendFinalize(some[0]), BAD_PARAMETER);
    int64_t numbers[2];
    EXPECT(cudnnBackendGetAttribute(engine_of(some[0]), 1301, INT64, 2, &count, numbers), BAD_PARAMETER);
    EXPECT(cudnnBackendGetAttribute(engine_of(some[0]), 1303, BEHAVIOUR, 1, &count, numbers), WRONG_TYPE);
    EXPECT(cudnnBackendFinalize(plan_of(gpu, made(CONFIG))), BAD_PARAMETER);
    EXPECT(cudnnBackendFinalize(made(PLAN)), BAD_PARAMETER);
    void *plan = plan_of(gpu, some[0]);
    EXPECT(cudnnBackendGetAttribute(plan, 402, INT64, 1, &count, numbers), NOT_INITIALIZED);
    EXPECT(cudnnBackendFinalize(plan), 0);
    EXPECT(set_part(plan, 401, some[0]), BAD_PARAMETER);
    Gpu other;
    EXPECT(cudnnBackendFinalize(plan_of(other, some[0])), BAD_PARAMETER);
}

void plans_run_on_what_they_were_made_for()
{
    Gpu gpu;
    Convolving what(gpu, {}), half(gpu, {F16});
    void *plan = plan_of(gpu, {}, EXACT);
    auto run = [&](const std::vector<int64_t> &ids, const std::vector<void *> &pointers, void *room) {
        return cudnnBackendExecute(gpu.cudnn, plan, Convolving::packed(ids, pointers, room));
    };
    void *x = at(what.places[X]), *w = at(what.places[W]), *bias = at(what.places[BIAS]), *y = at(what.places[Y]), *room = at(what.room);
    EXPECT(run({X, W, BIAS, Y}, {x, w, bias, y}, room), 0);
    EXPECT(run({X, W, Y}, {x, w, y}, room), BAD_PARAMETER);
    EXPECT(run({X, W, BIAS, Y}, {x, w, nullptr, y}, room), NULL_POINTER);
    EXPECT(run({X, W, BIAS, Y}, {x, w, bias, x}, room), BAD_PARAMETER);
    EXPECT(run({X, W, BIAS, Y, Y}, {x, w, bias, y, y}, room), DUPLICATED_ENTRIES);
    EXPECT(run({X, W, BIAS, Y}, {x, w, bias, y}, nullptr), NULL_POINTER);
    for (int which : {X, W, BIAS, Y}) {
        EXPECT(what.run(gpu, EXACT, which, 8), MISALIGNED_POINTER);
        EXPECT(half.run(gpu, LAST_RESORT, which, 2), MISALIGNED_POINTER);
    }
    // What may lie anywhere is not for engines that read much at once.
    Asked anywhere;
    anywhere.alignment = 4;
    EXPECT(cudnnBackendFinalize(plan_of(gpu, config_of(gpu, anywhere, TENSOR_CORES))), NOT_SUPPORTED);
    plan = plan_of(gpu, {}, TENSOR_CORES);
    EXPECT(run({X, W, BIAS, Y}, {x, w, bias, y}, at(what.room, 8)), MISALIGNED_POINTER);
    void *pack = what.pack();
    EXPECT(cudnnBackendExecute(nullptr, plan, pack), BAD_PARAMETER);
    EXPECT(cudnnBackendExecute(gpu.cudnn, pack, plan), BAD_PARAMETER);
    EXPECT(cudnnBackendExecute(gpu.cudnn, made(PLAN), pack), NOT_FINALIZED);
    EXPECT(cudnnBackendExecute(gpu.cudnn, plan, made(PACK)), NOT_FINALIZED);
    Gpu other;
    EXPECT(cudnnBackendExecute(gpu.cudnn, plan, pack), BAD_PARAMETER);
    EXPECT(cudnnBackendExecute(other.cudnn, plan, pack), BAD_PARAMETER);
    gpu.bind();
    gpu.is_well();
}

void workspaces_are_as_large_as_plans_say()
{
    for (int64_t missing : {0, 4}) {
        Gpu gpu;
        Convolving what(gpu, {});
        void *plan = plan_of(gpu, {}, EXACT);
        what.room = gpu.memory(workspace_of(plan) - missing);
        EXPECT(cudnnBackendExecute(gpu.cudnn, plan, what.pack()), 0);
        missing ? gpu.is_broken() : gpu.is_well();
        EXPECT(cudnnBackendExecute(gpu.cudnn, plan, what.pack()), missing ? EXECUTION_FAILED : 0);
    }
}

void captured_convolutions_outlive_their_plans()
{
    Gpu gpu;
    Convolving what(gpu, {});
    void *plan = plan_of(gpu, {}, EXACT), *pack = what.pack();
    CUgraph graph;
    CUgraphExec launched;
    EXPECT(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    EXPECT(cudnnBackendExecute(gpu.cudnn, plan, pack), 0);
    EXPECT(cuStreamEndCapture(gpu.stream, &graph), 0);
    EXPECT(cuGraphInstantiateWithFlags(&launched, graph, 0), 0);
    EXPECT(cudnnBackendDestroyDescriptor(plan), 0);
    EXPECT(cudnnBackendDestroyDescriptor(pack), 0);
    EXPECT(cuGraphLaunch(launched, gpu.stream), 0);
    EXPECT(what.wrong(gpu), 0);
    EXPECT(cuMemFreeAsync(what.places[W], gpu.stream), 0);
    EXPECT(cuGraphLaunch(launched, gpu.stream), 0);
    gpu.is_broken();
}

void the_control_file_takes_engines_away()
{
    Gpu gpu;
    auto says = [](const std::string &what) { std::ofstream(control) << (what.empty() ? "" : std::to_string(next_gpu - 1) + "." + what + "\n"); };
    Asked first, last;
    last.is_last = true;
    Convolving what(gpu, first), lying_last(gpu, last);
    void *config = config_of(gpu, first, EXACT), *plan = plan_of(gpu, first, EXACT);
    says("cudnn=0");
    EXPECT(configs_of(gpu, first, FASTEST).size(), 0);
    EXPECT(configs_of(gpu, first, FALLBACK).size(), 0);
    EXPECT(cudnnBackendFinalize(plan_of(gpu, config)), NOT_SUPPORTED);
    EXPECT(cudnnBackendExecute(gpu.cudnn, plan, what.pack()), NOT_SUPPORTED);
    says("guesses=0");
    for (void *one : configs_of(gpu, last, FASTEST))
        EXPECT(workspace_of(finalized(plan_of(gpu, one))), 1L << 40);
    EXPECT(workspace_of(plan_of(gpu, first, LAST_RESORT)), 0);
    says("channels_last=0");
    EXPECT(cudnnBackendFinalize(plan_of(gpu, config_of(gpu, last, EXACT))), NOT_SUPPORTED);
    EXPECT(cudnnBackendFinalize(plan_of(gpu, config_of(gpu, last, LAST_RESORT))), NOT_SUPPORTED);
    EXPECT(what.run(gpu), 0);
    says("mixed=1");
    EXPECT(what.run(gpu), 0);
    EXPECT(lying_last.run(gpu), 0);
    EXPECT(what.wrong(gpu), 0);
    EXPECT(lying_last.wrong(gpu) > 0, true);
    says("");
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
    CASE(convolutions_give_the_values_that_were_asked_for)
    CASE(tensor_cores_round_single_precision)
    CASE(engines_come_the_fastest_first)
    CASE(descriptors_take_what_they_are_for)
    CASE(descriptors_want_all_that_they_need)
    CASE(graphs_are_made_of_what_goes_together)
    CASE(nothing_is_offered_for_other_graphs)
    CASE(configurations_are_filled_in_once)
    CASE(plans_run_on_what_they_were_made_for)
    CASE(workspaces_are_as_large_as_plans_say)
    CASE(captured_convolutions_outlive_their_plans)
    CASE(the_control_file_takes_engines_away)
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

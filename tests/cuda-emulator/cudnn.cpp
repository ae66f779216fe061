// cuDNN, as far as parityd calls it: convolutions with what follows them, and poolings, value by value.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "emulator.h"
#include "values.h"

using namespace emulator;

namespace {

constexpr int BFLOAT16 = 9;

// NVIDIA's numbers: of outcomes, of algorithms, of arithmetic (with tensor cores where they are faster, with them, and without), and of what follows a
// convolution or pools.
enum { WELL = 0, NOT_INITIALIZED = 1001, BAD_PARAMETER = 2000, MISALIGNED_POINTER = 2003, STREAM_MISMATCH = 2007, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };
enum { IMPLICIT_GEMM = 0, IMPLICIT_PRECOMP_GEMM = 1, FFT = 4, WINOGRAD = 6 };
enum { DEFAULT_MATH = 0, TENSOR_OP_MATH = 1, FMA_MATH = 3 };
enum { RELU = 1, IDENTITY = 5 };
enum { MAX = 0, AVERAGE_EXCLUDE_PADDING = 2 };

// Bytes that an algorithm works in: the more, the fewer rows there are, and so much that what is there for large ones may not do; and more without tensor cores.
size_t room_of(int algorithm, int math, long rows)
{
    size_t least = algorithm == WINOGRAD ? 8 << 20 : algorithm == IMPLICIT_PRECOMP_GEMM ? 2 << 20 : 0;
    if (math == FMA_MATH)
        least *= 3;
    return least + least / rows / 4 * 4;
}

struct Handle {
    Device *device = current;
    CUstream stream = nullptr;
};

// On a broken GPU, and where no context is bound, nothing is done; nor with a handle of another GPU.
#define NEEDS_A_WELL_GPU_OF(handle)                                                                                    \
    if (state())                                                                                                       \
        return EXECUTION_FAILED;                                                                                       \
    if (handle->device != current)                                                                                     \
        return BAD_PARAMETER;

struct Tensor {
    Kind kind;
    long sides[4];
    // Whether it lies in memory position by position, and not channel by channel.
    bool is_last = false;

    long count() const { return sides[0] * sides[1] * sides[2] * sides[3]; }

    Range at(const void *start) const { return {start, size_t(count() * size_of(kind))}; }

    // Where the value lies that would be at `index` if it lay channel by channel.
    long place(long index) const
    {
        if (!is_last)
            return index;
        long positions = sides[2] * sides[3], picture = index / (sides[1] * positions), channel = index / positions % sides[1];
        return (picture * positions + index % positions) * sides[1] + channel;
    }
};

struct Convolution {
    long padding[2], stride[2], dilation[2];
    int math = 0;
};

struct Activation {
    int mode = -1;
    bool keeps_nan = false;
};

struct Pooling {
    int mode;
    long window[2], padding[2], stride[2];
};

struct Choice {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

// With 10 bits behind the point, as tensor cores take single precision.
float rounded(float value)
{
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = (bits + 0x1000) & 0xffffe000;
    std::memcpy(&value, &bits, 4);
    return value;
}

std::vector<float> values_of(const Tensor &tensor, const void *from, bool is_rounded)
{
    std::vector<float> values(tensor.count());
    for (size_t index = 0; index < values.size(); index++) {
        values[index] = value(from, tensor.kind, tensor.place(long(index)));
        if (is_rounded)
            values[index] = rounded(values[index]);
    }
    return values;
}

// One output picture of one row, without what follows.
std::vector<float> convolved(const Tensor &x, const float *row, const Tensor &w, const float *filter, const Convolution &how, const Tensor &y)
{
    std::vector<float> sums(y.sides[2] * y.sides[3]);
    for (long c = 0; c < x.sides[1]; c++)
        for (long dy = 0; dy < w.sides[2]; dy++)
            for (long dx = 0; dx < w.sides[3]; dx++) {
                float factor = *filter++;
                for (long top = 0; top < y.sides[2]; top++) {
                    long from_top = top * how.stride[0] - how.padding[0] + dy * how.dilation[0];
                    if (from_top < 0 || from_top >= x.sides[2])
                        continue;
                    const float *line = row + (c * x.sides[2] + from_top) * x.sides[3];
                    long first = dx * how.dilation[1] - how.padding[1], stride = how.stride[1];
                    long begin = first < 0 ? (-first + stride - 1) / stride : 0;
                    long end = std::min(y.sides[3], first >= x.sides[3] ? 0 : (x.sides[3] - first + stride - 1) / stride);
                    float *to = &sums[top * y.sides[3]];
                    for (long column = begin; column < end; column++)
                        to[column] += factor * line[first + column * stride];
                }
            }
    return sums;
}

// Whether these are the sides that such a convolution makes.
bool fits(const Tensor &x, const Tensor &w, const Convolution &how, const Tensor &y)
{
    for (int side = 0; side < 2; side++) {
        long reach = how.dilation[side] * (w.sides[2 + side] - 1) + 1;
        if (y.sides[2 + side] != (x.sides[2 + side] + 2 * how.padding[side] - reach) / how.stride[side] + 1)
            return false;
    }
    return y.sides[0] == x.sides[0] && y.sides[1] == w.sides[0] && x.sides[1] == w.sides[1];
}

// Whether values of this kind are where such values may be.
bool are_aligned(Kind kind, std::initializer_list<const void *> places)
{
    return std::all_of(places.begin(), places.end(), [kind](const void *at) { return is_aligned(at, size_of(kind)); });
}

// Whether tensor cores multiply that, which read 16 bytes at once.
bool is_of_tensor_cores(Kind kind, int math) { return kind == Kind::F32 ? math != FMA_MATH : math == TENSOR_OP_MATH; }

// Whether an algorithm, with what follows it or without, does such a convolution.
bool does(int algorithm, const Tensor &x, const Tensor &w, const Convolution &how)
{
    if (algorithm == WINOGRAD)
        return !x.is_last && w.sides[2] == 3 && w.sides[3] == 3 && how.stride[0] == 1 && how.dilation[0] == 1;
    return algorithm != FFT;
}

template <class T> int make(T **made)
{
    *made = new T();
    return WELL;
}

template <class T> int end(T *made)
{
    delete made;
    return WELL;
}

} // namespace

EXPORT size_t cudnnGetVersion()
{
    called(__func__);
    return 91200;
}

EXPORT int cudnnCreate(Handle **handle)
{
    called(__func__);
    if (state() || is_too_old())
        return NOT_INITIALIZED;
    if (long code = current->told("cudnn", 0))
        return static_cast<int>(code);
    return make(handle);
}

EXPORT int cudnnDestroy(Handle *handle)
{
    called(__func__);
    // It waits for the device.
    return !state() && settle(*handle->device) ? end(handle) : EXECUTION_FAILED;
}

EXPORT int cudnnCreateTensorDescriptor(Tensor **tensor)
{
    called(__func__);
    return make(tensor);
}

EXPORT int cudnnDestroyTensorDescriptor(Tensor *tensor)
{
    called(__func__);
    return end(tensor);
}

EXPORT int cudnnCreateFilterDescriptor(Tensor **filter)
{
    called(__func__);
    return make(filter);
}

EXPORT int cudnnDestroyFilterDescriptor(Tensor *filter)
{
    called(__func__);
    return end(filter);
}

EXPORT int cudnnCreateConvolutionDescriptor(Convolution **convolution)
{
    called(__func__);
    return make(convolution);
}

EXPORT int cudnnDestroyConvolutionDescriptor(Convolution *convolution)
{
    called(__func__);
    return end(convolution);
}

EXPORT int cudnnCreateActivationDescriptor(Activation **activation)
{
    called(__func__);
    return make(activation);
}

EXPORT int cudnnDestroyActivationDescriptor(Activation *activation)
{
    called(__func__);
    return end(activation);
}

EXPORT int cudnnCreatePoolingDescriptor(Pooling **pooling)
{
    called(__func__);
    return make(pooling);
}

EXPORT int cudnnDestroyPoolingDescriptor(Pooling *pooling)
{
    called(__func__);
    return end(pooling);
}

EXPORT int cudnnSetStream(Handle *handle, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_GPU_OF(handle)
    if (&stream_of(stream).device != handle->device)
        return STREAM_MISMATCH;
    handle->stream = stream;
    return WELL;
}

// Of formats, channels first (0) and last (1).
EXPORT int cudnnSetTensor4dDescriptor(Tensor *tensor, int format, int kind, int n, int c, int h, int w)
{
    called(__func__);
    *tensor = {kind_of(kind, BFLOAT16), {n, c, h, w}, format == 1};
    return format == 0 || format == 1 ? WELL : BAD_PARAMETER;
}

EXPORT int cudnnSetFilter4dDescriptor(Tensor *filter, int kind, int format, int k, int c, int h, int w)
{
    called(__func__);
    *filter = {kind_of(kind, BFLOAT16), {k, c, h, w}, format == 1};
    return format == 0 || format == 1 ? WELL : BAD_PARAMETER;
}

// Mode 1 is a correlation, as networks mean it; sums of kind 0 are of single precision.
EXPORT int cudnnSetConvolution2dDescriptor(
    Convolution *convolution, int padding_h, int padding_w, int stride_h, int stride_w, int dilation_h, int dilation_w, int mode, int sums)
{
    called(__func__);
    *convolution = {{padding_h, padding_w}, {stride_h, stride_w}, {dilation_h, dilation_w}};
    return mode == 1 && sums == 0 ? WELL : BAD_PARAMETER;
}

EXPORT int cudnnSetConvolutionMathType(Convolution *convolution, int math)
{
    called(__func__);
    convolution->math = math;
    return WELL;
}

EXPORT int cudnnSetActivationDescriptor(Activation *activation, int mode, int keeps_nan, double)
{
    called(__func__);
    *activation = {mode, keeps_nan == 1};
    return mode == RELU || mode == IDENTITY ? WELL : BAD_PARAMETER;
}

EXPORT int cudnnSetPoolingNdDescriptor(Pooling *pooling, int mode, int, int count, const int *window, const int *padding, const int *stride)
{
    called(__func__);
    if (count != 2 || (mode != MAX && mode != AVERAGE_EXCLUDE_PADDING))
        return BAD_PARAMETER;
    *pooling = {mode, {window[0], window[1]}, {padding[0], padding[1]}, {stride[0], stride[1]}};
    return WELL;
}

// Which are guessed to be the fastest: each algorithm with the arithmetic of the description and with the default one, as there are kernels for both. One takes most but
// not all that follows a convolution, one takes all, and of the others none is of use here, which for one of them its call says.
EXPORT int cudnnGetConvolutionForwardAlgorithm_v7(
    Handle *handle, const Tensor *x, const Tensor *w, const Convolution *how, const Tensor *y, int room, int *found, Choice *choices)
{
    called(__func__);
    if (room < 1 || !fits(*x, *w, *how, *y))
        return BAD_PARAMETER;
    // Without tensor cores it is the slower one.
    bool is_first = how->math == TENSOR_OP_MATH;
    std::vector<int> maths = {is_first ? how->math : int(DEFAULT_MATH), is_first ? int(DEFAULT_MATH) : how->math};
    if (how->math == DEFAULT_MATH)
        maths[1] = FMA_MATH;
    *found = 0;
    for (int algorithm : {int(WINOGRAD), int(IMPLICIT_PRECOMP_GEMM), int(IMPLICIT_GEMM), int(FFT)})
        for (int math : maths) {
            if (*found == room)
                return WELL;
            bool is_usable = does(algorithm, *x, *w, *how);
            // `guesses=0`: each would take more than anybody wants to give.
            size_t bytes = handle->device->told("guesses", 1) ? room_of(algorithm, math, x->sides[0]) : size_t(1) << 40;
            choices[*found] = {algorithm, is_usable ? WELL : NOT_SUPPORTED, is_usable ? float(*found) : -1, is_usable ? bytes : 0, 1, math, {}};
            ++*found;
        }
    return WELL;
}

// With the arithmetic of the description.
EXPORT int cudnnGetConvolutionForwardWorkspaceSize(
    Handle *, const Tensor *x, const Tensor *w, const Convolution *how, const Tensor *y, int algorithm, size_t *bytes)
{
    called(__func__);
    if (!fits(*x, *w, *how, *y))
        return BAD_PARAMETER;
    if (!does(algorithm, *x, *w, *how))
        return NOT_SUPPORTED;
    *bytes = room_of(algorithm, how->math, x->sides[0]);
    return WELL;
}

EXPORT int cudnnConvolutionBiasActivationForward(
    Handle *handle, const float *alpha_at, const Tensor *x_at, const void *from, const Tensor *w_at, const void *filters, const Convolution *how_at,
    int algorithm, void *workspace, size_t workspace_bytes, const float *share_at, const Tensor *z_at, const void *added, const Tensor *bias_at,
    const void *bias, const Activation *activation, const Tensor *y_at, void *to)
{
    called(__func__);
    NEEDS_A_WELL_GPU_OF(handle)
    Stream &stream = stream_of(handle->stream);
    bool has_bias = bias && bias_at->sides[1] == y_at->sides[1] && bias_at->count() == y_at->sides[1] && bias_at->kind == y_at->kind;
    bool has_added = added && std::equal(z_at->sides, z_at->sides + 4, y_at->sides) && z_at->kind == y_at->kind && z_at->is_last == y_at->is_last;
    if (!has_bias || !has_added || from == to || !fits(*x_at, *w_at, *how_at, *y_at) || *alpha_at != 1 || x_at->kind != y_at->kind)
        return BAD_PARAMETER;
    bool adds = *share_at != 0;
    if (activation->mode == IDENTITY ? algorithm != IMPLICIT_PRECOMP_GEMM : algorithm == WINOGRAD && adds)
        return NOT_SUPPORTED;
    // NVIDIA's documents want it so.
    if (activation->keeps_nan)
        return NOT_SUPPORTED;
    if (algorithm == IMPLICIT_GEMM || !does(algorithm, *x_at, *w_at, *how_at) || stream.device.told("cudnn", 1) == 0)
        return NOT_SUPPORTED;
    // All of it lies in one way; `channels_last=0`: not in that one.
    bool is_last = x_at->is_last;
    if (w_at->is_last != is_last || y_at->is_last != is_last || (is_last && (algorithm == WINOGRAD || stream.device.told("channels_last", 1) == 0)))
        return NOT_SUPPORTED;
    // `first_ms`, `last_ms`: how long each convolution takes in that way at least.
    std::chrono::milliseconds least(stream.device.told(is_last ? "last_ms" : "first_ms", 0));
    // `mixed=1`: it does not do what it is told.
    bool is_mixed = is_last && stream.device.told("mixed", 0);
    if (size_t least = room_of(algorithm, how_at->math, x_at->sides[0]); workspace_bytes < least || (least && !workspace))
        return BAD_PARAMETER;
    bool are_read_at_once = is_of_tensor_cores(x_at->kind, how_at->math);
    for (const void *at : {from, filters, static_cast<const void *>(workspace), added, bias, static_cast<const void *>(to)}) {
        if (!are_aligned(x_at->kind, {at}) || (are_read_at_once && !is_aligned(at, 16)))
            return MISALIGNED_POINTER;
        use(at, stream);
    }
    // What describes it may be gone when its turn comes.
    Tensor x = *x_at, w = *w_at, y = *y_at, of_bias = *bias_at;
    Convolution how = *how_at;
    float share = *share_at;
    bool is_rectified = activation->mode == RELU, is_rounded = x.kind == Kind::F32 && how.math != FMA_MATH;
    std::vector<Range> ranges = {x.at(from), w.at(filters), of_bias.at(bias), y.at(to)};
    if (adds)
        ranges.push_back(y.at(added));
    if (workspace_bytes)
        ranges.push_back({workspace, workspace_bytes});
    push_kernel(stream, __func__, std::move(ranges), [=] {
        std::this_thread::sleep_for(least);
        std::vector<float> rows = values_of(x, from, is_rounded), all = values_of(w, filters, is_rounded), shift = values_of(of_bias, bias, false);
        long index = 0, of_row = x.count() / x.sides[0], of_filter = w.count() / w.sides[0];
        for (long n = 0; n < y.sides[0]; n++)
            for (long filter = 0; filter < y.sides[1]; filter++)
                for (float sum : convolved(x, &rows[n * of_row], w, &all[filter * of_filter], how, y)) {
                    sum += shift[filter];
                    // Times zero, it is not read.
                    if (adds)
                        sum += share * value(added, y.kind, y.place(index));
                    // What is no number is lost.
                    store(to, y.kind, is_mixed ? index : y.place(index), is_rectified ? std::fmax(sum, 0.0f) : sum);
                    index++;
                }
        return CUDA_SUCCESS;
    });
    return WELL;
}

EXPORT int cudnnPoolingForward(
    Handle *handle, const Pooling *pooling, const float *alpha_at, const Tensor *x_at, const void *from, const float *beta_at, const Tensor *y_at,
    void *to)
{
    called(__func__);
    NEEDS_A_WELL_GPU_OF(handle)
    Stream &stream = stream_of(handle->stream);
    Tensor x = *x_at, y = *y_at;
    Pooling how = *pooling;
    bool is_well = *alpha_at == 1 && *beta_at == 0 && x.sides[0] == y.sides[0] && x.sides[1] == y.sides[1] && x.is_last == y.is_last;
    is_well &= x.kind == y.kind && from != to;
    for (int side = 0; side < 2; side++)
        is_well &= y.sides[2 + side] == (x.sides[2 + side] + 2 * how.padding[side] - how.window[side]) / how.stride[side] + 1;
    if (!is_well)
        return BAD_PARAMETER;
    // A window of nothing but padding has no largest value, and no mean.
    if (how.padding[0] >= how.window[0] || how.padding[1] >= how.window[1])
        return NOT_SUPPORTED;
    if (!are_aligned(x.kind, {from, to}))
        return MISALIGNED_POINTER;
    use(from, stream);
    use(to, stream);
    push_kernel(stream, __func__, {x.at(from), y.at(to)}, [=] {
        long index = 0;
        for (long picture = 0; picture < y.sides[0] * y.sides[1]; picture++)
            for (long row = 0; row < y.sides[2]; row++)
                for (long column = 0; column < y.sides[3]; column++) {
                    float most = -INFINITY, sum = 0;
                    long count = 0;
                    for (long dy = 0; dy < how.window[0]; dy++)
                        for (long dx = 0; dx < how.window[1]; dx++) {
                            long top = row * how.stride[0] - how.padding[0] + dy, left = column * how.stride[1] - how.padding[1] + dx;
                            if (top < 0 || top >= x.sides[2] || left < 0 || left >= x.sides[3])
                                continue;
                            float found = value(from, x.kind, x.place((picture * x.sides[2] + top) * x.sides[3] + left));
                            most = !(found <= most) ? found : most;
                            sum += found;
                            count++;
                        }
                    store(to, y.kind, y.place(index++), how.mode == MAX ? most : sum / float(count));
                }
        return CUDA_SUCCESS;
    });
    return WELL;
}

EXPORT int cudnnActivationForward(
    Handle *handle, const Activation *activation, const float *alpha_at, const Tensor *x_at, const void *from, const float *beta_at, const Tensor *y_at,
    void *to)
{
    called(__func__);
    NEEDS_A_WELL_GPU_OF(handle)
    Tensor x = *x_at;
    bool keeps_nan = activation->keeps_nan;
    if (*alpha_at != 1 || *beta_at != 0 || !std::equal(x.sides, x.sides + 4, y_at->sides) || x.kind != y_at->kind || x.is_last != y_at->is_last || activation->mode != RELU)
        return BAD_PARAMETER;
    if (!are_aligned(x.kind, {from, to}))
        return MISALIGNED_POINTER;
    Stream &stream = stream_of(handle->stream);
    use(from, stream);
    use(to, stream);
    push_kernel(stream, __func__, {x.at(from), y_at->at(to)}, [=] {
        for (long index = 0; index < x.count(); index++) {
            float found = value(from, x.kind, index);
            store(to, x.kind, index, keeps_nan && found != found ? found : std::fmax(found, 0.0f));
        }
        return CUDA_SUCCESS;
    });
    return WELL;
}

// The same values in another order.
EXPORT int cudnnTransformTensor(Handle *handle, const float *alpha_at, const Tensor *x_at, const void *from, const float *beta_at, const Tensor *y_at, void *to)
{
    called(__func__);
    NEEDS_A_WELL_GPU_OF(handle)
    Tensor x = *x_at, y = *y_at;
    if (*alpha_at != 1 || *beta_at != 0 || !std::equal(x.sides, x.sides + 4, y.sides) || x.kind != y.kind || from == to)
        return BAD_PARAMETER;
    if (!are_aligned(x.kind, {from, to}))
        return MISALIGNED_POINTER;
    Stream &stream = stream_of(handle->stream);
    use(from, stream);
    use(to, stream);
    push_kernel(stream, __func__, {x.at(from), y_at->at(to)}, [=] {
        for (long index = 0; index < x.count(); index++)
            store(to, y.kind, y.place(index), value(from, x.kind, x.place(index)));
        return CUDA_SUCCESS;
    });
    return WELL;
}

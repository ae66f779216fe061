// cuDNN, as far as candle calls it: convolutions forward, value by value.
#include "emulator.h"
#include "values.h"

using namespace emulator;

namespace {

constexpr int BFLOAT16 = 9;

// NVIDIA's numbers for outcomes: all is well, and an argument that it does not take.
enum { WELL = 0, BAD_PARAMETER = 2000 };

struct Handle {
    CUstream stream = nullptr;
};

struct Tensor {
    Kind kind;
    long sides[4], strides[4];
};

struct Convolution {
    long padding[2], stride[2], dilation[2];
};

struct Choice {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

long at(const Tensor &tensor, long n, long c, long h, long w)
{
    return n * tensor.strides[0] + c * tensor.strides[1] + h * tensor.strides[2] + w * tensor.strides[3];
}

void set(Tensor *tensor, int kind, long n, long c, long h, long w)
{
    *tensor = {kind_of(kind, BFLOAT16), {n, c, h, w}, {c * h * w, h * w, w, 1}};
}

float dot(const Tensor &x, const void *from, const Tensor &w, const void *filters, const Convolution &how, long n, long filter, long top, long left)
{
    float sum = 0;
    for (long c = 0; c < x.sides[1]; c++)
        for (long dy = 0; dy < w.sides[2]; dy++)
            for (long dx = 0; dx < w.sides[3]; dx++) {
                long row = top + dy * how.dilation[0], column = left + dx * how.dilation[1];
                if (row >= 0 && row < x.sides[2] && column >= 0 && column < x.sides[3])
                    sum += value(from, x.kind, at(x, n, c, row, column)) * value(filters, w.kind, at(w, filter, c, dy, dx));
            }
    return sum;
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

EXPORT int cudnnCreate(Handle **handle)
{
    called(__func__);
    return make(handle);
}

EXPORT int cudnnDestroy(Handle *handle)
{
    called(__func__);
    return end(handle);
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

EXPORT int cudnnSetStream(Handle *handle, CUstream stream)
{
    called(__func__);
    handle->stream = stream;
    return WELL;
}

// Only the format in which rows of channels follow each other.
EXPORT int cudnnSetTensor4dDescriptor(Tensor *tensor, int format, int kind, int n, int c, int h, int w)
{
    called(__func__);
    set(tensor, kind, n, c, h, w);
    return format == 0 ? WELL : BAD_PARAMETER;
}

EXPORT int cudnnSetTensor4dDescriptorEx(Tensor *tensor, int kind, int n, int c, int h, int w, int of_n, int of_c, int of_h, int of_w)
{
    called(__func__);
    *tensor = {kind_of(kind, BFLOAT16), {n, c, h, w}, {of_n, of_c, of_h, of_w}};
    return WELL;
}

EXPORT int cudnnSetFilter4dDescriptor(Tensor *filter, int kind, int format, int k, int c, int h, int w)
{
    called(__func__);
    set(filter, kind, k, c, h, w);
    return format == 0 ? WELL : BAD_PARAMETER;
}

// Mode 1 is a correlation, as networks mean it.
EXPORT int cudnnSetConvolution2dDescriptor(
    Convolution *convolution, int padding_h, int padding_w, int stride_h, int stride_w, int dilation_h, int dilation_w, int mode, int)
{
    called(__func__);
    *convolution = {{padding_h, padding_w}, {stride_h, stride_w}, {dilation_h, dilation_w}};
    return mode == 1 ? WELL : BAD_PARAMETER;
}

EXPORT int cudnnGetConvolutionForwardAlgorithm_v7(
    Handle *, const Tensor *x, const Tensor *w, const Convolution *how, const Tensor *y, int room, int *found, Choice *choices)
{
    called(__func__);
    if (room < 1 || !fits(*x, *w, *how, *y))
        return BAD_PARAMETER;
    *found = 1;
    choices[0] = {};
    return WELL;
}

// Some, so that it is asked for and handed over.
EXPORT int cudnnGetConvolutionForwardWorkspaceSize(Handle *, const Tensor *, const Tensor *, const Convolution *, const Tensor *, int, size_t *bytes)
{
    called(__func__);
    *bytes = 64;
    return WELL;
}

EXPORT int cudnnConvolutionForward(
    Handle *handle, const float *alpha_at, const Tensor *x_at, const void *from, const Tensor *w_at, const void *filters, const Convolution *how_at, int,
    void *workspace, size_t workspace_bytes, const float *beta_at, const Tensor *y_at, void *to)
{
    called(__func__);
    if (!workspace || workspace_bytes < 64 || *beta_at != 0 || !fits(*x_at, *w_at, *how_at, *y_at))
        return BAD_PARAMETER;
    for (const void *at : {from, filters, static_cast<const void *>(workspace), static_cast<const void *>(to)})
        use(reinterpret_cast<CUdeviceptr>(at), stream_of(handle->stream));
    // What describes it may be gone when its turn comes.
    Tensor x = *x_at, w = *w_at, y = *y_at;
    Convolution how = *how_at;
    float alpha = *alpha_at;
    stream_of(handle->stream).push([=] {
        for (long n = 0; n < y.sides[0]; n++)
            for (long filter = 0; filter < y.sides[1]; filter++)
                for (long row = 0; row < y.sides[2]; row++)
                    for (long column = 0; column < y.sides[3]; column++) {
                        long top = row * how.stride[0] - how.padding[0], left = column * how.stride[1] - how.padding[1];
                        store(to, y.kind, at(y, n, filter, row, column), alpha * dot(x, from, w, filters, how, n, filter, top, left));
                    }
    });
    return WELL;
}

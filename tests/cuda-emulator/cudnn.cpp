// cuDNN, as far as parityd calls it without a graph: poolings, activations and reorderings, value by value. Convolutions are plans.
#include <cmath>

#include "pictures.h"

using namespace emulator;

namespace {

// NVIDIA's numbers of what rectifies, or pools.
enum { RELU = 1 };
enum { MAX = 0, AVERAGE_EXCLUDE_PADDING = 2 };

struct Activation {
    int mode = -1;
    bool keeps_nan = false;
};

struct Pooling {
    int mode;
    long window[2], padding[2], stride[2];
};

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

EXPORT int cudnnSetActivationDescriptor(Activation *activation, int mode, int keeps_nan, double)
{
    called(__func__);
    *activation = {mode, keeps_nan == 1};
    return mode == RELU ? WELL : BAD_PARAMETER;
}

EXPORT int cudnnSetPoolingNdDescriptor(Pooling *pooling, int mode, int, int count, const int *window, const int *padding, const int *stride)
{
    called(__func__);
    if (count != 2 || (mode != MAX && mode != AVERAGE_EXCLUDE_PADDING))
        return BAD_PARAMETER;
    *pooling = {mode, {window[0], window[1]}, {padding[0], padding[1]}, {stride[0], stride[1]}};
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

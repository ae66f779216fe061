// cuBLAS and cuRAND, as far as candle calls them: matrix products on a stream, and generators that nobody asks for numbers.
#include <vector>

#include "emulator.h"
#include "values.h"

using namespace emulator;

namespace {

struct Handle {
    CUstream stream = nullptr;
};

constexpr int BFLOAT16 = 14;

struct Matrix {
    const void *at;
    Kind kind;
    bool is_transposed;
    long leading, stride;

    float value(long batch, long row, long column) const
    {
        long index = batch * stride + (is_transposed ? column + row * leading : row + column * leading);
        return emulator::value(at, kind, index);
    }
};

} // namespace

EXPORT int cublasCreate_v2(Handle **handle)
{
    called(__func__);
    *handle = new Handle;
    return 0;
}

EXPORT int cublasDestroy_v2(Handle *handle)
{
    called(__func__);
    // It waits for the device.
    if (current)
        settle(*current);
    delete handle;
    return 0;
}

EXPORT int cublasSetStream_v2(Handle *handle, CUstream stream)
{
    called(__func__);
    handle->stream = stream;
    return 0;
}

// C = alpha op(A) op(B) + beta C, columns one after the other; sums in single precision.
EXPORT int cublasGemmStridedBatchedEx(
    Handle *handle, int transposes_a, int transposes_b, int m, int n, int k, const float *alpha_at, const void *a, int kind_a, int leading_a,
    long long stride_a, const void *b, int kind_b, int leading_b, long long stride_b, const float *beta_at, void *c, int kind_c, int leading_c,
    long long stride_c, int batches, int, int)
{
    called(__func__);
    // 7: an argument that it does not take; the program would have read another matrix than it meant.
    if (m < 0 || n < 0 || k < 0 || leading_c < m || leading_a < (transposes_a ? k : m) || leading_b < (transposes_b ? n : k))
        return 7;
    Matrix left{a, kind_of(kind_a, BFLOAT16), transposes_a != 0, leading_a, long(stride_a)}, right{b, kind_of(kind_b, BFLOAT16), transposes_b != 0, leading_b, long(stride_b)};
    for (const void *at : {a, b, static_cast<const void *>(c)})
        use(reinterpret_cast<CUdeviceptr>(at), stream_of(handle->stream));
    float alpha = *alpha_at, beta = *beta_at;
    push_kernel(stream_of(handle->stream), [=] {
        std::vector<float> rows(size_t(m) * k), column(k);
        for (long batch = 0; batch < batches; batch++) {
            for (long row = 0; row < m; row++)
                for (long inner = 0; inner < k; inner++)
                    rows[row * k + inner] = left.value(batch, row, inner);
            for (long to = 0; to < n; to++) {
                for (long inner = 0; inner < k; inner++)
                    column[inner] = right.value(batch, inner, to);
                for (long row = 0; row < m; row++) {
                    const float *of = &rows[row * k];
                    float sum = 0;
                    for (long inner = 0; inner < k; inner++)
                        sum += of[inner] * column[inner];
                    long index = batch * stride_c + row + to * long(leading_c);
                    float before = 0;
                    if (beta != 0)
                        before = beta * Matrix{c, kind_of(kind_c, BFLOAT16), false, leading_c, long(stride_c)}.value(batch, row, to);
                    store(c, kind_of(kind_c, BFLOAT16), index, alpha * sum + before);
                }
            }
        }
        return true;
    });
    return 0;
}

EXPORT int curandCreateGenerator(Handle **generator, int)
{
    called(__func__);
    *generator = new Handle;
    return 0;
}

EXPORT int curandDestroyGenerator(Handle *generator)
{
    called(__func__);
    delete generator;
    return 0;
}

EXPORT int curandSetStream(Handle *, CUstream)
{
    called(__func__);
    return 0;
}

EXPORT int curandSetPseudoRandomGeneratorSeed(Handle *, unsigned long long)
{
    called(__func__);
    return 0;
}


// cuBLAS and cuRAND, as far as candle calls them: matrix products on a stream, and generators that nobody asks for numbers.
#include <utility>
#include <vector>

#include "emulator.h"
#include "values.h"

using namespace emulator;

namespace {

// Outcomes of cuBLAS, and one of cuRAND.
enum { WELL = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, RANDOM_NOT_INITIALIZED = 203 };

struct Handle {
    Device *device = current;
    CUstream stream = nullptr;
};

// Neither starts on a broken GPU, or a driver of before it.
bool can_start() { return !state() && !is_too_old(); }

constexpr int BFLOAT16 = 14;

struct Matrix {
    const void *at;
    Kind kind;
    bool is_transposed;
    long leading, stride;

    // From its first value to its last.
    Range all(long batches, long rows, long columns) const
    {
        if (is_transposed)
            std::swap(rows, columns);
        long values = batches && rows && columns ? (batches - 1) * stride + (columns - 1) * leading + rows : 0;
        return {at, size_t(values * size_of(kind))};
    }

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
    if (!can_start())
        return NOT_INITIALIZED;
    *handle = new Handle;
    return WELL;
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
    // On a broken GPU, and with a handle or a stream of another one, no kernel is launched.
    if (state() || handle->device != current || &stream_of(handle->stream).device != current)
        return EXECUTION_FAILED;
    // The program would have read another matrix than it meant.
    if (m < 0 || n < 0 || k < 0 || leading_c < m || leading_a < (transposes_a ? k : m) || leading_b < (transposes_b ? n : k))
        return INVALID_VALUE;
    Matrix left{a, kind_of(kind_a, BFLOAT16), transposes_a != 0, leading_a, long(stride_a)}, right{b, kind_of(kind_b, BFLOAT16), transposes_b != 0, leading_b, long(stride_b)};
    Matrix made{c, kind_of(kind_c, BFLOAT16), false, leading_c, long(stride_c)};
    bool are_aligned = true;
    for (const Matrix &matrix : {left, right, made}) {
        use(matrix.at, stream_of(handle->stream));
        are_aligned &= is_aligned(matrix.at, size_of(matrix.kind));
    }
    std::vector<Range> ranges;
    for (Range range : {left.all(m && n ? batches : 0, m, k), right.all(m && n ? batches : 0, k, n), made.all(batches, m, n)})
        if (range.bytes)
            ranges.push_back(range);
    float alpha = *alpha_at, beta = *beta_at;
    push_kernel(stream_of(handle->stream), __func__, std::move(ranges), [=] {
        if (!are_aligned)
            return fault(CUDA_ERROR_MISALIGNED_ADDRESS, "cublasGemmStridedBatchedEx", "reads or writes values that lie between two");
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
                        before = beta * made.value(batch, row, to);
                    store(c, made.kind, index, alpha * sum + before);
                }
            }
        }
        return CUDA_SUCCESS;
    });
    return WELL;
}

EXPORT int curandCreateGenerator(Handle **generator, int)
{
    called(__func__);
    if (!can_start())
        return RANDOM_NOT_INITIALIZED;
    *generator = new Handle;
    return WELL;
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


// A convolution with what follows it, value by value.
#include <cmath>
#include <cstring>

#include "convolution.h"

namespace emulator {
namespace {

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
std::vector<float> convolved(const Convolution &how, const float *row, const float *filter)
{
    const Tensor &x = how.x, &w = how.w, &y = how.y;
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

} // namespace

void convolve(const Convolution &what, const Operands &at, bool is_rounded, bool is_mixed)
{
    const Tensor &y = what.y;
    std::vector<float> rows = values_of(what.x, at.x, is_rounded), all = values_of(what.w, at.w, is_rounded), shift = values_of(what.bias, at.bias, false);
    long index = 0, of_row = what.x.count() / what.x.sides[0], of_filter = what.w.count() / what.w.sides[0];
    for (long n = 0; n < y.sides[0]; n++)
        for (long filter = 0; filter < y.sides[1]; filter++)
            for (float sum : convolved(what, &rows[n * of_row], &all[filter * of_filter])) {
                if (what.adds)
                    sum += value(at.added, y.kind, y.place(index));
                sum += shift[filter];
                // What is no number is lost.
                store(at.y, y.kind, is_mixed ? index : y.place(index), what.rectifies ? std::fmax(sum, 0.0f) : sum);
                index++;
            }
}

} // namespace emulator

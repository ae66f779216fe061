// A convolution with what follows it, value by value.
#pragma once

#include "pictures.h"

namespace emulator {

struct Convolution {
    // What is added to it, if anything is, is of the sides and the order of what is written.
    Tensor x, w, bias, y;
    // Of both sides; padding is what comes before the first value.
    long padding[2], stride[2], dilation[2];
    bool adds, rectifies;
};

struct Operands {
    const void *x, *w, *bias, *added;
    void *y;
};

// Does it here and now; if `is_rounded`, of factors as tensor cores take single precision. `is_mixed`: what it writes is in the wrong order.
void convolve(const Convolution &what, const Operands &at, bool is_rounded, bool is_mixed);

} // namespace emulator

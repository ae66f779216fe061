// What the parts of cuDNN share: outcomes, handles, and how pictures lie in memory.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "emulator.h"
#include "values.h"

namespace emulator {

// cuDNN's own number for it.
constexpr int BFLOAT16 = 9;

enum {
    WELL = 0,
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

struct Handle {
    Device *device = current;
    CUstream stream = nullptr;
};

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

// Whether values of this kind are where such values may be.
inline bool are_aligned(Kind kind, std::initializer_list<const void *> places)
{
    return std::all_of(places.begin(), places.end(), [kind](const void *at) { return is_aligned(at, size_of(kind)); });
}

} // namespace emulator

// On a broken GPU, and where no context is bound, nothing is done; nor with a handle of another GPU.
#define NEEDS_A_WELL_GPU_OF(handle)                                                                                    \
    if (state())                                                                                                       \
        return EXECUTION_FAILED;                                                                                       \
    if (handle->device != current)                                                                                     \
        return BAD_PARAMETER;

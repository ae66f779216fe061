// Numbers of three kinds in memory, read and written as f32.
#pragma once

#include <cstdio>
#include <cstdlib>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace emulator {

enum class Kind { F32, F16, BF16 };

// The kind behind a library's number for it; each has numbers of its own for bfloat16.
inline Kind kind_of(int number, int bfloat)
{
    if (number != 0 && number != 2 && number != bfloat) {
        std::fprintf(stderr, "cuda-emulator: knows no values of kind %d\n", number);
        std::abort();
    }
    return number == 0 ? Kind::F32 : number == 2 ? Kind::F16 : Kind::BF16;
}

// Bytes of one.
inline long size_of(Kind kind) { return kind == Kind::F32 ? 4 : 2; }

inline float value(const void *at, Kind kind, long index)
{
    switch (kind) {
    case Kind::F32: return static_cast<const float *>(at)[index];
    case Kind::F16: return __half2float(static_cast<const __half *>(at)[index]);
    case Kind::BF16: return __bfloat162float(static_cast<const __nv_bfloat16 *>(at)[index]);
    }
    return 0;
}

inline void store(void *at, Kind kind, long index, float value)
{
    switch (kind) {
    case Kind::F32: static_cast<float *>(at)[index] = value; break;
    case Kind::F16: static_cast<__half *>(at)[index] = __float2half(value); break;
    case Kind::BF16: static_cast<__nv_bfloat16 *>(at)[index] = __float2bfloat16(value); break;
    }
}

} // namespace emulator

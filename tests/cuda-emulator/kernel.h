// What candle's kernels expect of NVIDIA's compiler, for g++: included before each of them.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

#include <vector_types.h>
#include <vector_functions.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

// As compiled for a GPU of compute capability 8.0; after NVIDIA's headers, which would take the compiler for theirs.
#define __CUDA_ARCH__ 800

#undef __global__
#undef __device__
#undef __forceinline__
#undef __shared__
#define __global__
// Each source defines the same helpers anew.
#define __device__ inline
#define __forceinline__
// A block runs on one thread of the CPU, and no other block with it.
#define __shared__ static thread_local

extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

using std::isnan;
using std::max;
using std::min;
using std::signbit;

namespace emulator {
void wait_for_block();
void wait_for_warp();
extern thread_local unsigned char (*exchange)[16];
unsigned thread_number();

template <class T> T shuffle_xor(T value, int mask)
{
    static_assert(sizeof(T) <= 16, "more than the largest register");
    unsigned self = thread_number();
    __builtin_memcpy(exchange[self], &value, sizeof(T));
    wait_for_warp();
    T other;
    __builtin_memcpy(&other, exchange[self ^ mask], sizeof(T));
    wait_for_warp();
    return other;
}
} // namespace emulator

#define __syncthreads() emulator::wait_for_block()
#define __shfl_xor_sync(members, value, mask, ...) emulator::shuffle_xor(value, mask)

inline float __uint_as_float(unsigned value) { float to; __builtin_memcpy(&to, &value, 4); return to; }
inline float __int_as_float(int value) { float to; __builtin_memcpy(&to, &value, 4); return to; }
inline unsigned __float_as_uint(float value) { unsigned to; __builtin_memcpy(&to, &value, 4); return to; }
inline int __float_as_int(float value) { int to; __builtin_memcpy(&to, &value, 4); return to; }
inline double __longlong_as_double(long long value) { double to; __builtin_memcpy(&to, &value, 8); return to; }
inline long long __double_as_longlong(double value) { long long to; __builtin_memcpy(&to, &value, 8); return to; }
inline float normcdff(float value) { return 0.5f * erfcf(-value * 0.70710678f); }
inline double normcdf(double value) { return 0.5 * erfc(-value * 0.7071067811865476); }
inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }

// Threads of a block take turns, and blocks of several streams never share memory.
template <class T, class U> T atomicAdd(T *at, U value) { T before = *at; *at = before + T(value); return before; }
template <class T, class U> T atomicMin(T *at, U value) { T before = *at; *at = std::min(before, T(value)); return before; }
template <class T, class U> T atomicMax(T *at, U value) { T before = *at; *at = std::max(before, T(value)); return before; }
template <class T, class U, class V> T atomicCAS(T *at, U compare, V value)
{
    T before = *at;
    if (before == T(compare))
        *at = T(value);
    return before;
}

#define EMULATED_HALF(name, function)                                                                                  \
    inline __half name(__half value) { return __float2half(function(__half2float(value))); }                           \
    inline __nv_bfloat16 name(__nv_bfloat16 value) { return __float2bfloat16(function(__bfloat162float(value))); }
EMULATED_HALF(hsqrt, sqrtf)
EMULATED_HALF(hcos, cosf)
EMULATED_HALF(hsin, sinf)
EMULATED_HALF(hlog, logf)
EMULATED_HALF(hexp, expf)

#include "emulator.h"

namespace emulator {
// How a kernel is called with its parameters behind pointers, as the driver hands them over.
template <class... Types> struct Signature {
    static constexpr size_t sizes[] = {sizeof(Types)...};
    template <class T> static constexpr size_t alignment()
    {
        if constexpr (std::is_pointer_v<T>)
            return alignof(std::remove_pointer_t<T>);
        return 0;
    }
    static constexpr size_t alignments[] = {alignment<std::remove_const_t<Types>>()...};
    template <void (*kernel)(Types...), size_t... Index> static void spread(void **at, std::index_sequence<Index...>)
    {
        kernel(*static_cast<std::remove_const_t<Types> *>(at[Index])...);
    }
    template <void (*kernel)(Types...)> static void call(void **at)
    {
        spread<kernel>(at, std::index_sequence_for<Types...>());
    }
};
template <class... Types> Signature<Types...> signature_of(void (*)(Types...));
} // namespace emulator

#define EMULATED_KERNEL(name, is_cooperative)                                                                          \
    {                                                                                                                  \
        using Of = decltype(emulator::signature_of(name));                                                             \
        static emulator::Kernel kernel = {                                                                             \
            #name, sizeof(Of::sizes) / sizeof(size_t), Of::sizes, Of::alignments, Of::call<name>, is_cooperative, nullptr};            \
        emulator::enlist(&kernel);                                                                                     \
    }

// What the kernels need of the machine, by name: half pairs, tensor-core products, vector atomics, exact arithmetic.
//
// No CUDA header is included: run-time compilation on a user's machine has none, and the few instructions wanted are
// written as inline PTX. Tests compile the kernels for the host instead, where `cuda_on_host.h` supplies the same names.
#pragma once

#define ALL_LANES 0xffffffffu

#ifdef CUDA_ON_HOST
#include "cuda_on_host.h"
#else

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef unsigned short u16;

#define GRID_CONSTANT __grid_constant__
#define DYNAMIC_SHARED(name) extern __shared__ uint4 name[]

// ---- half pairs: two halves in one word, the first in the low bits

__device__ __forceinline__ u32 round_pair(float low, float high) {
    u32 pair;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
    asm("{.reg .b16 low, high; cvt.rn.f16.f32 low, %1; cvt.rn.f16.f32 high, %2; mov.b32 %0, {low, high};}"
        : "=r"(pair) : "f"(low), "f"(high));
#endif
    return pair;
}

// Rounds to the nearest half; beyond its range to the largest, so that no infinity meets a zero in a later product.
__device__ __forceinline__ u32 pack_pair(float low, float high) {
#if __CUDA_ARCH__ >= 800
    u32 pair = round_pair(low, high);
    asm("min.f16x2 %0, %0, %1;" : "+r"(pair) : "r"(0x7bff7bffu));
    asm("max.f16x2 %0, %0, %1;" : "+r"(pair) : "r"(0xfbfffbffu));
    return pair;
#else
    return round_pair(fmaxf(fminf(low, 65504.f), -65504.f), fmaxf(fminf(high, 65504.f), -65504.f));
#endif
}

__device__ __forceinline__ u32 pack_relu(float low, float high) {
#if __CUDA_ARCH__ >= 800
    u32 pair = round_pair(low, high);
    asm("max.f16x2 %0, %0, %1;" : "+r"(pair) : "r"(0u));
    asm("min.f16x2 %0, %0, %1;" : "+r"(pair) : "r"(0x7bff7bffu));
    return pair;
#else
    return round_pair(fminf(fmaxf(low, 0.f), 65504.f), fminf(fmaxf(high, 0.f), 65504.f));
#endif
}

__device__ __forceinline__ float low_of(u32 pair) {
    float value;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}" : "=f"(value) : "r"(pair));
    return value;
}

__device__ __forceinline__ float high_of(u32 pair) {
    float value;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high;}" : "=f"(value) : "r"(pair));
    return value;
}

// ---- tensor cores: 16 x 16 times 16 x 8, half inputs, float sums; fragments as PTX lays them out

__device__ __forceinline__ void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// Loads of 8 x 8 blocks of halves from shared memory; lane i names the start of row i % 8 of block i / 8.
__device__ __forceinline__ void load_blocks(u32 (&a)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
}

__device__ __forceinline__ void load_blocks_transposed(u32 (&a)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
}

// Only the rows named by lanes 0 to 15 count.
__device__ __forceinline__ void load_two_blocks_transposed(u32 &b0, u32 &b1, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(b0), "=r"(b1) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
}

// ---- sums in global memory, as wide as the machine has them

__device__ __forceinline__ void add_to_2(float *at, float a, float b) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(at), "f"(a), "f"(b) : "memory");
#else
    atomicAdd(at, a);
    atomicAdd(at + 1, b);
#endif
}

__device__ __forceinline__ void add_to_4(float *at, float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
#else
    add_to_2(at, a, b);
    add_to_2(at + 2, c, d);
#endif
}

// ---- numbers

// Rounded after every operation: the lattice of samples is the same number for number on all back ends.
__device__ __forceinline__ float exact_add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float exact_multiply(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float exact_divide(float a, float b) { return __fdiv_rn(a, b); }

__device__ __forceinline__ float fast_exp(float x) { return __expf(x); }
__device__ __forceinline__ float fast_divide(float a, float b) { return __fdividef(a, b); }

// ---- warps

__device__ __forceinline__ u32 lanes_where(bool vote) { return __ballot_sync(ALL_LANES, vote); }
template <typename T> __device__ __forceinline__ T from_lane(T value, u32 lane) {
    return __shfl_sync(ALL_LANES, value, lane);
}
template <typename T> __device__ __forceinline__ T from_below(T value, u32 distance) {
    return __shfl_up_sync(ALL_LANES, value, distance);
}
template <typename T> __device__ __forceinline__ T across(T value, u32 mask) {
    return __shfl_xor_sync(ALL_LANES, value, mask);
}
__device__ __forceinline__ void sync_warp() { __syncwarp(); }
__device__ __forceinline__ void sync_block() { __syncthreads(); }
__device__ __forceinline__ u32 read_changing(const u32 *value) { return *(const volatile u32 *)value; }

#endif  // CUDA_ON_HOST

#define KERNEL extern "C" __global__ void

__device__ __forceinline__ u32 lane_number() { return threadIdx.x & 31u; }
__device__ __forceinline__ u32 warp_number() { return threadIdx.x >> 5; }

__device__ __forceinline__ float warp_sum(float value) {
    for (u32 mask = 16; mask > 0; mask >>= 1) value += across(value, mask);
    return value;
}

// Sum over this lane and those below it.
__device__ __forceinline__ float inclusive_sum(float value) {
    for (u32 distance = 1; distance < 32; distance <<= 1) {
        const float below = from_below(value, distance);
        if (lane_number() >= distance) value += below;
    }
    return value;
}

// CUDA on one CPU thread: blocks run one after another, the threads of a block as fibers that meet at collectives.
//
// A fiber runs until a collective and waits there for the rest of its warp (or block); everything in between is atomic,
// so atomics are plain. Shows errors of logic, indexing and rounding, also missing lanes at a collective (reported as
// an error); not races between warps or blocks, and not speed. Products of the tensor cores multiply exact halves and
// add in float, in the order of the inner index.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long i64;
typedef uint16_t u16;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define GRID_CONSTANT
#define DYNAMIC_SHARED(name) uint4 *name = (uint4 *)host::dynamic_shared

struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { u32 x = 1, y = 1, z = 1; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace host {
extern unsigned char *dynamic_shared;
struct Slot { u32 words[12]; };
// Deposits a lane's slot, waits for the warp and returns the 32 slots, which stay valid until its next collective.
const Slot *meet_warp(const Slot &mine);
void meet_block();
float half_to_float(u16 half);
u16 float_to_half(float value);
}  // namespace host

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

template <typename T> inline T min(T a, T b) { return a < b ? a : b; }
template <typename T> inline T max(T a, T b) { return a > b ? a : b; }
template <typename T> inline T __ldg(const T *at) { return *at; }
inline float __int_as_float(int bits) { float f; memcpy(&f, &bits, 4); return f; }
inline int __float_as_int(float f) { int bits; memcpy(&bits, &f, 4); return bits; }
inline u32 __float_as_uint(float f) { u32 bits; memcpy(&bits, &f, 4); return bits; }
inline int __popc(u32 x) { return __builtin_popcount(x); }
inline int __popcll(u64 x) { return __builtin_popcountll(x); }
inline int __ffs(u32 x) { return __builtin_ffs((int)x); }
inline int __clz(u32 x) { return x ? __builtin_clz(x) : 32; }
template <typename T> inline T atomicAdd(T *at, T value) { T old = *at; *at = old + value; return old; }
template <typename T> inline T atomicMax(T *at, T value) { T old = *at; if (value > old) *at = value; return old; }
template <typename T> inline T atomicMin(T *at, T value) { T old = *at; if (value < old) *at = value; return old; }

// ---- the names of primitives.cuh

inline u32 round_pair(float low, float high) {
    return host::float_to_half(low) | (u32)host::float_to_half(high) << 16;
}
inline float clamp_half(float x) { return fminf(fmaxf(x, -65504.f), 65504.f); }
inline u32 pack_pair(float low, float high) { return round_pair(clamp_half(low), clamp_half(high)); }
inline u32 pack_relu(float low, float high) { return pack_pair(fmaxf(low, 0.f), fmaxf(high, 0.f)); }
inline float low_of(u32 pair) { return host::half_to_float((u16)pair); }
inline float high_of(u32 pair) { return host::half_to_float((u16)(pair >> 16)); }

inline void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const host::Slot *slots = host::meet_warp({{a[0], a[1], a[2], a[3], b0, b1}});
    const u32 lane = threadIdx.x & 31, row = lane >> 2, column = (lane & 3) * 2;
    for (u32 part = 0; part < 2; part++) {      // inner indices 0 .. 7, then 8 .. 15
        for (u32 pair = 0; pair < 4; pair++) {  // two inner indices of one word
            const u32 *left = slots[column * 4 + pair].words;
            const u32 *right = slots[(column + 1) * 4 + pair].words;
            const u32 *rows = slots[row * 4 + pair].words;
            for (u32 i = 0; i < 4; i++) {
                const u32 x = rows[part * 2 + i / 2], w = (i & 1 ? right : left)[4 + part];
                c[i] += low_of(x) * low_of(w);
                c[i] += high_of(x) * high_of(w);
            }
        }
    }
}

// The words of 8 x 8 blocks; a second meeting keeps fast lanes from overwriting what slow ones still read.
inline void read_blocks(u32 *out, const void *row, int n_blocks, bool is_transposed) {
    host::Slot mine = {};
    memcpy(mine.words, &row, sizeof row);
    const host::Slot *slots = host::meet_warp(mine);
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = (lane & 3) * 2;
    for (int block = 0; block < n_blocks; block++) {
        const auto at = [&](u32 r, u32 c) {
            const u16 *start;
            memcpy(&start, slots[block * 8 + r].words, sizeof start);
            return (u32)start[c];
        };
        out[block] = is_transposed ? at(t, g) | at(t + 1, g) << 16 : at(g, t) | at(g, t + 1) << 16;
    }
    host::meet_warp({});
}
inline void load_blocks(u32 (&a)[4], const void *row) { read_blocks(a, row, 4, false); }
inline void load_blocks_transposed(u32 (&a)[4], const void *row) { read_blocks(a, row, 4, true); }
inline void load_two_blocks_transposed(u32 &b0, u32 &b1, const void *row) {
    u32 blocks[2];
    read_blocks(blocks, row, 2, true);
    b0 = blocks[0], b1 = blocks[1];
}

inline void add_to_2(float *at, float a, float b) { at[0] += a, at[1] += b; }
inline void add_to_4(float *at, float a, float b, float c, float d) { add_to_2(at, a, b), add_to_2(at + 2, c, d); }

// Compiled without contraction: each is rounded on its own.
inline float exact_add(float a, float b) { return a + b; }
inline float exact_multiply(float a, float b) { return a * b; }
inline float exact_divide(float a, float b) { return a / b; }
inline float fast_exp(float x) { return expf(x); }
inline float fast_divide(float a, float b) { return a / b; }

inline u32 lanes_where(bool vote) {
    const host::Slot *slots = host::meet_warp({{vote}});
    u32 votes = 0;
    for (u32 lane = 0; lane < 32; lane++) votes |= slots[lane].words[0] << lane;
    return votes;
}
template <typename T> inline T value_of(const host::Slot &slot) {
    T value;
    memcpy(&value, slot.words, sizeof value);
    return value;
}
template <typename T> inline T from_lane(T value, u32 lane) {
    host::Slot mine = {};
    memcpy(mine.words, &value, sizeof value);
    return value_of<T>(host::meet_warp(mine)[lane & 31]);
}
template <typename T> inline T from_below(T value, u32 distance) {
    const u32 lane = threadIdx.x & 31;
    return from_lane(value, lane >= distance ? lane - distance : lane);
}
template <typename T> inline T across(T value, u32 mask) { return from_lane(value, (threadIdx.x & 31) ^ mask); }
inline void sync_warp() { host::meet_warp({}); }
inline void sync_block() { host::meet_block(); }
inline u32 read_changing(const u32 *value) { return *value; }

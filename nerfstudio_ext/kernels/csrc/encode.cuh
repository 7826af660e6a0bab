// The multiresolution hash grid: one lane encodes one position. Also the harmonics of directions.
#pragma once

#include "params.cuh"

#ifndef LEVELS
#define LEVELS 16
#endif
#ifndef FEATURES
#define FEATURES 2
#endif

constexpr int FEATURE_WIDTH = (LEVELS * FEATURES + 15) / 16 * 16;  // whole tiles of the tensor cores
constexpr int STAGE_STRIDE = FEATURE_WIDTH / 2 + 4;                // words; an odd number of 16 bytes: no bank conflicts
constexpr int STAGE_WORDS = 32 * STAGE_STRIDE;                     // features of a warp's samples
constexpr u32 PRIME_Y = 2654435761u, PRIME_Z = 805459861u;
static_assert(FEATURE_WIDTH <= 64, "more features than the networks have room for");
static_assert(FEATURES == 1 || FEATURES == 2 || FEATURES == 4 || FEATURES == 8, "features per level");

__device__ __forceinline__ float to_unit(float x, float unit_scale) {
    return fminf(fmaxf(exact_add(exact_multiply(x, unit_scale), 0.5f), 0.f), 1.f);
}

// The cell of a level around a position, and the rows of its corners.
struct Cell {
    float fraction[3];
    u32 y, z;    // with row[0] they tell the rows of cells apart
    u32 row[8];  // corner c: bit 0 is x, bit 1 y, bit 2 z
};

__device__ __forceinline__ void find_cell(Cell &cell, const HashGrid &grid, int level, const float (&x_unit)[3]) {
    const float scale = grid.scales[level];
    u32 lower[3];
#pragma unroll
    for (int axis = 0; axis < 3; axis++) {
        const float at = exact_add(exact_multiply(x_unit[axis], scale), 0.5f);
        lower[axis] = (u32)at;
        cell.fraction[axis] = at - (float)lower[axis];
    }
    cell.y = lower[1], cell.z = lower[2];
    const u32 first = grid.offsets[level];
    if (grid.dense_levels >> level & 1u) {
        const u32 extent = grid.extents[level];
        const u32 base = first + lower[0] + extent * (lower[1] + extent * lower[2]);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            cell.row[c] = base + (c & 1) + (c & 2 ? extent : 0) + (c & 4 ? extent * extent : 0);
        }
    } else {
        const u32 y0 = lower[1] * PRIME_Y, z0 = lower[2] * PRIME_Z;
        const u32 y1 = y0 + PRIME_Y, z1 = z0 + PRIME_Z;
#pragma unroll
        for (int c = 0; c < 8; c++) {
            cell.row[c] = first + (((lower[0] + (c & 1)) ^ (c & 2 ? y1 : y0) ^ (c & 4 ? z1 : z0)) & grid.mask);
        }
    }
}

__device__ __forceinline__ float corner_weight(const Cell &cell, int c) {
    const float x = c & 1 ? cell.fraction[0] : 1.f - cell.fraction[0];
    const float y = c & 2 ? cell.fraction[1] : 1.f - cell.fraction[1];
    const float z = c & 4 ? cell.fraction[2] : 1.f - cell.fraction[2];
    return x * y * z;
}

// Slope, per cell, of the interpolation of `values` at the corners.
__device__ __forceinline__ void slope_of(float (&slope)[3], const Cell &cell, const float (&values)[8]) {
    slope[0] = slope[1] = slope[2] = 0.f;
#pragma unroll
    for (int c = 0; c < 8; c++) {
        const float x = c & 1 ? cell.fraction[0] : 1.f - cell.fraction[0];
        const float y = c & 2 ? cell.fraction[1] : 1.f - cell.fraction[1];
        const float z = c & 4 ? cell.fraction[2] : 1.f - cell.fraction[2];
        slope[0] += (c & 1 ? values[c] : -values[c]) * y * z;
        slope[1] += (c & 2 ? values[c] : -values[c]) * x * z;
        slope[2] += (c & 4 ? values[c] : -values[c]) * x * y;
    }
}

__device__ __forceinline__ void unpack(float *value, u32 pair) { value[0] = low_of(pair), value[1] = high_of(pair); }

// Features of two rows of the half-precision table that are neighbours in x. Half of all such rows are the two of an aligned
// pair, dense or hashed (x enters the hash with the factor one), and one access then brings both.
template <int N> __device__ __forceinline__ void load_rows(
    float (&first)[N], float (&second)[N], const void *table, u32 row0, u32 row1
) {
    const bool is_pair = (row0 ^ row1) == 1u, is_upper = row0 & 1u;
    if constexpr (N == 1) {
        first[0] = low_of(__ldg((const u16 *)table + row0)), second[0] = low_of(__ldg((const u16 *)table + row1));
    } else if constexpr (N == 2) {
        const uint2 both = __ldg((const uint2 *)table + (row0 >> 1));
        u32 other = is_upper ? both.x : both.y;
        if (!is_pair) other = __ldg((const u32 *)table + row1);
        unpack(first, is_upper ? both.y : both.x);
        unpack(second, other);
    } else if constexpr (N == 4) {
        const uint4 both = __ldg((const uint4 *)table + (row0 >> 1));
        uint2 other = is_upper ? make_uint2(both.x, both.y) : make_uint2(both.z, both.w);
        if (!is_pair) other = __ldg((const uint2 *)table + row1);
        unpack(first, is_upper ? both.z : both.x), unpack(first + 2, is_upper ? both.w : both.y);
        unpack(second, other.x), unpack(second + 2, other.y);
    } else {
        const uint4 a = __ldg((const uint4 *)table + row0), b = __ldg((const uint4 *)table + row1);
        unpack(first, a.x), unpack(first + 2, a.y), unpack(first + 4, a.z), unpack(first + 6, a.w);
        unpack(second, b.x), unpack(second + 2, b.y), unpack(second + 4, b.z), unpack(second + 6, b.w);
    }
}

__device__ __forceinline__ void encode_level(
    float (&value)[FEATURES], const HashGrid &grid, int level, const float (&x_unit)[3]
) {
    Cell cell;
    find_cell(cell, grid, level, x_unit);
    float rows[8][FEATURES];  // all loads before their first use: eight in flight
#pragma unroll
    for (int c = 0; c < 8; c += 2) load_rows(rows[c], rows[c + 1], grid.table, cell.row[c], cell.row[c + 1]);
#pragma unroll
    for (int f = 0; f < FEATURES; f++) value[f] = 0.f;
#pragma unroll
    for (int c = 0; c < 8; c++) {
        const float weight = corner_weight(cell, c);
#pragma unroll
        for (int f = 0; f < FEATURES; f++) value[f] += weight * rows[c][f];
    }
}

// Writes the features of a position as halves into its row of the stage, 16 bytes at a time.
__device__ __forceinline__ void encode(u32 *stage_row, const HashGrid &grid, const float (&x_unit)[3]) {
    constexpr int LEVELS_AT_ONCE = 8 / FEATURES;
#pragma unroll 1
    for (int group = 0; group < FEATURE_WIDTH / 8; group++) {
        float values[LEVELS_AT_ONCE][FEATURES];
#pragma unroll
        for (int i = 0; i < LEVELS_AT_ONCE; i++) {
            const int level = group * LEVELS_AT_ONCE + i;
            if (LEVELS * FEATURES == FEATURE_WIDTH || level < LEVELS) {
                encode_level(values[i], grid, level, x_unit);
            } else {
#pragma unroll
                for (int f = 0; f < FEATURES; f++) values[i][f] = 0.f;
            }
        }
        u32 words[4];
#pragma unroll
        for (int w = 0; w < 4; w++) {
            words[w] = pack_pair(
                values[2 * w / FEATURES][2 * w % FEATURES], values[(2 * w + 1) / FEATURES][(2 * w + 1) % FEATURES]
            );
        }
        ((uint4 *)stage_row)[group] = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

// Real spherical harmonics of bands 0 to 3, order and signs as in the reference.
__device__ __forceinline__ void harmonics(float (&out)[16], float x, float y, float z) {
    const float xx = x * x, yy = y * y, zz = z * z;
    out[0] = 0.28209479177387814f;
    out[1] = -0.48860251190291987f * y;
    out[2] = 0.48860251190291987f * z;
    out[3] = -0.48860251190291987f * x;
    out[4] = 1.0925484305920792f * x * y;
    out[5] = -1.0925484305920792f * y * z;
    out[6] = 0.94617469575755997f * zz - 0.31539156525251999f;
    out[7] = -1.0925484305920792f * x * z;
    out[8] = 0.54627421529603959f * (xx - yy);
    out[9] = 0.59004358992664352f * y * (yy - 3.f * xx);
    out[10] = 2.8906114426405538f * x * y * z;
    out[11] = 0.45704579946446572f * y * (1.f - 5.f * zz);
    out[12] = 0.3731763325901154f * z * (5.f * zz - 3.f);
    out[13] = 0.45704579946446572f * x * (1.f - 5.f * zz);
    out[14] = 1.4453057213202769f * z * (xx - yy);
    out[15] = 0.59004358992664352f * x * (3.f * yy - xx);
}

// Gradient in the direction from that of the harmonics.
__device__ __forceinline__ void harmonics_backward(
    float (&gradient)[3], const float (&g)[16], float x, float y, float z
) {
    const float xx = x * x, yy = y * y, zz = z * z;
    const float a = 1.0925484305920792f, b = 0.59004358992664352f, c = 0.45704579946446572f;
    const float d = 2.8906114426405538f, e = 1.4453057213202769f;
    gradient[0] = -0.48860251190291987f * g[3] + a * (y * g[4] - z * g[7] + x * g[8]) - 6.f * b * x * y * g[9] +
                  d * y * z * g[10] + c * (1.f - 5.f * zz) * g[13] + 2.f * e * x * z * g[14] +
                  3.f * b * (yy - xx) * g[15];
    gradient[1] = -0.48860251190291987f * g[1] + a * (x * g[4] - z * g[5] - y * g[8]) + 3.f * b * (yy - xx) * g[9] +
                  d * x * z * g[10] + c * (1.f - 5.f * zz) * g[11] - 2.f * e * y * z * g[14] + 6.f * b * x * y * g[15];
    gradient[2] = 0.48860251190291987f * g[2] - a * (y * g[5] + x * g[7]) + 2.f * 0.94617469575755997f * z * g[6] +
                  d * x * y * g[10] - 10.f * c * z * (y * g[11] + x * g[13]) +
                  0.3731763325901154f * (15.f * zz - 3.f) * g[12] + e * (xx - yy) * g[14];
}

// `hash_encode` as an operation of its own, in float, with gradients in the table and in the positions.
#include "scatter.cuh"

__device__ __forceinline__ void read_unit(float (&x_unit)[3], const HashEncode &p, u32 i) {
#pragma unroll
    for (int axis = 0; axis < 3; axis++) x_unit[axis] = fminf(fmaxf(p.x_unit[3 * i + axis], 0.f), 1.f);
}

// The next share of work of a block: 128 positions on one level, the same for all of its lanes.
struct Share {
    u32 level, first;
};

__device__ __forceinline__ bool take_share(Share &share, u32 number, u32 n) {
    share.level = number % LEVELS;
    share.first = number / LEVELS * blockDim.x;
    return share.first < n;
}

KERNEL __launch_bounds__(128) hash_forward(const GRID_CONSTANT HashEncode p) {
    Share share;
    for (u32 number = blockIdx.x; take_share(share, number, p.n); number += gridDim.x) {
        const u32 i = share.first + threadIdx.x;
        if (i >= p.n) continue;
        float x_unit[3], sums[FEATURES] = {};
        Cell cell;
        read_unit(x_unit, p, i);
        find_cell(cell, p.grid, (int)share.level, x_unit);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const float *row = (const float *)p.grid.table + (u64)cell.row[c] * FEATURES;
            const float weight = corner_weight(cell, c);
#pragma unroll
            for (int f = 0; f < FEATURES; f++) sums[f] += weight * __ldg(row + f);
        }
        float *out = p.features + ((u64)i * LEVELS + share.level) * FEATURES;
#pragma unroll
        for (int f = 0; f < FEATURES; f++) out[f] = sums[f];
    }
}

KERNEL __launch_bounds__(128) hash_backward(const GRID_CONSTANT HashEncode p) {
    Share share;
    for (u32 number = blockIdx.x; take_share(share, number, p.n); number += gridDim.x) {
        const u32 i = share.first + threadIdx.x;
        if (i >= p.n) continue;
        float x_unit[3];
        Cell cell;
        read_unit(x_unit, p, i);
        find_cell(cell, p.grid, (int)share.level, x_unit);
        const float *given = p.d_features + ((u64)i * LEVELS + share.level) * FEATURES;
#pragma unroll
        for (int c = 0; c < 8; c += 2) {
            const float weight = corner_weight(cell, c), next = corner_weight(cell, c + 1);
            float first[FEATURES], second[FEATURES];
#pragma unroll
            for (int f = 0; f < FEATURES; f++) first[f] = weight * given[f], second[f] = next * given[f];
            add_rows(p.table_gradients, cell.row[c], cell.row[c + 1], first, second);
        }
    }
}

// Gradient of the positions: one thread each, all levels. Zero where the position was clamped.
KERNEL __launch_bounds__(128) hash_positions(const GRID_CONSTANT HashEncode p) {
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < p.n; i += gridDim.x * blockDim.x) {
        float x_unit[3], total[3] = {0.f, 0.f, 0.f};
        read_unit(x_unit, p, i);
#pragma unroll 1
        for (int level = 0; level < LEVELS; level++) {
            Cell cell;
            find_cell(cell, p.grid, level, x_unit);
            const float *given = p.d_features + ((u64)i * LEVELS + level) * FEATURES;
            float along[8], slope[3];
#pragma unroll
            for (int c = 0; c < 8; c++) {
                const float *row = (const float *)p.grid.table + (u64)cell.row[c] * FEATURES;
                along[c] = 0.f;
#pragma unroll
                for (int f = 0; f < FEATURES; f++) along[c] += __ldg(row + f) * given[f];
            }
            slope_of(slope, cell, along);
#pragma unroll
            for (int axis = 0; axis < 3; axis++) total[axis] += p.grid.scales[level] * slope[axis];
        }
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            const float x = p.x_unit[3 * i + axis];
            p.position_gradients[3 * i + axis] = x >= 0.f && x <= 1.f ? total[axis] : 0.f;
        }
    }
}

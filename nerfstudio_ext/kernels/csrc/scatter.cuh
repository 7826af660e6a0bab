// Adding to rows of a table of gradients.
#pragma once

#include "encode.cuh"

#ifdef DETERMINISTIC
// Whole numbers add up to the same whatever their order. `table_gradients` is [rows, FEATURES] of 64 bits here, still times
// the loss scale; `table_to_float` makes the gradient of it.
constexpr float FIXED_UNITS = 4294967296.f, FIXED_LIMIT = 2.3e18f;  // 2^32; about 2^61, with room for a sum of four

__device__ __forceinline__ void add_row(float *table, u32 row, const float (&values)[FEATURES]) {
    u64 *at = (u64 *)table + (u64)row * FEATURES;
#pragma unroll
    for (int f = 0; f < FEATURES; f++) {
        const float units = values[f] * FIXED_UNITS;
        // What does not fit, or is no number, is made so large that `table_to_float` tells.
        const i64 fixed = fabsf(units) <= FIXED_LIMIT ? (i64)units : (i64)FIXED_LIMIT;
        if (fixed != 0) atomicAdd(at + f, (u64)fixed);
    }
}
#else
__device__ __forceinline__ void add_row(float *table, u32 row, const float (&values)[FEATURES]) {
    float *at = table + (u64)row * FEATURES;
    if constexpr (FEATURES == 1) {
        atomicAdd(at, values[0]);
    } else if constexpr (FEATURES == 2) {
        add_to_2(at, values[0], values[1]);
    } else {
#pragma unroll
        for (int f = 0; f < FEATURES; f += 4) add_to_4(at + f, values[f], values[f + 1], values[f + 2], values[f + 3]);
    }
}
#endif

// Adds to two rows that are neighbours in x: in one go where they are the two of an aligned pair, as half of them are.
__device__ __forceinline__ void add_rows(
    float *table, u32 row0, u32 row1, const float (&first)[FEATURES], const float (&second)[FEATURES]
) {
#ifndef DETERMINISTIC
    if constexpr (FEATURES == 2) {
        if ((row0 ^ row1) == 1u) {
            const bool is_upper = row0 & 1u;
            add_to_4(
                table + (u64)(row0 & ~1u) * 2, is_upper ? second[0] : first[0], is_upper ? second[1] : first[1],
                is_upper ? first[0] : second[0], is_upper ? first[1] : second[1]
            );
            return;
        }
    }
#endif
    add_row(table, row0, first);
    add_row(table, row1, second);
}

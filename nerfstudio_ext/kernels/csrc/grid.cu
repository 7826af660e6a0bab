// Gradients of the hash grid from those of the features: scattered into the table, or summed to that of the position.
//
// A warp takes 32 samples and 8 features of each (16 bytes of gradient), so that the level is the same in all lanes.
#include "encode.cuh"

constexpr u32 CHUNKS = FEATURE_WIDTH / 8;
constexpr int LEVELS_OF_CHUNK = 8 / FEATURES;

struct GradientRow {
    float values[8];
};

__device__ __forceinline__ GradientRow read_gradients(const GridBackward &p, u32 place, u32 chunk) {
    const uint4 words = __ldg((const uint4 *)p.feature_gradients + (u64)place * CHUNKS + chunk);
    const u32 pairs[4] = {words.x, words.y, words.z, words.w};
    GradientRow row;
#pragma unroll
    for (int i = 0; i < 4; i++) row.values[2 * i] = low_of(pairs[i]), row.values[2 * i + 1] = high_of(pairs[i]);
    return row;
}

__device__ __forceinline__ void find_position(float (&x_unit)[3], const GridBackward &p, u32 sample) {
    const u32 r = (u32)p.samples.rays[sample];
    const float middle = 0.5f * (p.samples.t_starts[sample] + p.samples.t_ends[sample]);
#pragma unroll
    for (int axis = 0; axis < 3; axis++) {
        const float d = p.rays.directions[3 * r + axis];
        x_unit[axis] = to_unit(exact_add(p.rays.origins[3 * r + axis], exact_multiply(middle, d)), p.unit_scale);
    }
}

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

KERNEL __launch_bounds__(256) table_to_float(const GRID_CONSTANT TableToFloat p) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n) return;
    const double units = (double)p.fixed[i];
    const bool is_sound = units < 1e18 && units > -1e18;  // else infinity: the check of the step is to see it
    p.gradients[i] = is_sound ? (float)(units / 4294967296.0) * p.inverse_loss_scale : __int_as_float(0x7f800000);
}

// Sums `value` over runs of lanes; `starts` has a bit where a run begins. Right in the last lane of each run.
__device__ __forceinline__ float run_sum(float value, u32 starts) {
    const u32 lane = lane_number();
    const u32 begin = 31u - (u32)__clz(starts & (0xffffffffu >> (31u - lane)));  // first lane of this lane's run
    for (u32 distance = 1; distance < 32; distance <<= 1) {
        const float below = from_below(value, distance);
        if (lane >= begin + distance) value += below;
    }
    return value;
}

constexpr int FEW_RUNS = 10;  // from so few cells per warp on, adding up in the warp is cheaper than 32 atomics at one place

// Adds one level's gradients of a warp's samples, which are neighbours on rays: on coarse levels many share a cell.
__device__ __forceinline__ void scatter_level(
    const GridBackward &p, int level, const float (&x_unit)[3], const float *gradients, bool is_there
) {
    Cell cell;
    find_cell(cell, p.grid, level, x_unit);
    const u32 row_before = from_below(cell.row[0], 1), last_before = from_below(cell.row[7], 1);
    const bool is_start = lane_number() == 0 || row_before != cell.row[0] || last_before != cell.row[7];
    const u32 starts = lanes_where(is_start);
    const bool is_summed = __popc(starts) <= FEW_RUNS;
    const bool is_last = lane_number() == 31 || (starts >> (lane_number() + 1) & 1u);
    const bool adds = is_summed ? is_last : is_there;
#pragma unroll
    for (int c = 0; c < 8; c += 2) {
        float values[2][FEATURES];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float weight = is_there ? corner_weight(cell, c + i) : 0.f;
#pragma unroll
            for (int f = 0; f < FEATURES; f++) values[i][f] = weight * gradients[f];
        }
        if (is_summed) {
#pragma unroll
            for (int f = 0; f < FEATURES; f++) {
                values[0][f] = run_sum(values[0][f], starts);
                values[1][f] = run_sum(values[1][f], starts);
            }
        }
        if (adds) add_rows(p.table_gradients, cell.row[c], cell.row[c + 1], values[0], values[1]);
    }
}

#ifdef DETERMINISTIC
#define UNSCALED 1.f
#else
#define UNSCALED p.inverse_loss_scale
#endif

KERNEL __launch_bounds__(128, 8) grid_backward(const GRID_CONSTANT GridBackward p) {
    const u32 n_seen = *p.n_seen, n_groups = (n_seen + 31) / 32 * CHUNKS;
    const u32 n_warps = gridDim.x * (blockDim.x / 32);
    for (u32 group = blockIdx.x * (blockDim.x / 32) + warp_number(); group < n_groups; group += n_warps) {
        const u32 chunk = group % CHUNKS, place = group / CHUNKS * 32 + lane_number();
        const bool is_there = place < n_seen;
        const u32 kept = min(place, n_seen - 1);
        float x_unit[3];
        find_position(x_unit, p, p.seen[kept]);
        GradientRow row = read_gradients(p, kept, chunk);
#pragma unroll
        for (int i = 0; i < 8; i++) row.values[i] *= UNSCALED;
#pragma unroll
        for (int i = 0; i < LEVELS_OF_CHUNK; i++) {
            const int level = (int)chunk * LEVELS_OF_CHUNK + i;
            if (level < LEVELS) scatter_level(p, level, x_unit, row.values + i * FEATURES, is_there);
        }
    }
}

// Gradient of the positions, in world units: one thread per sample, all levels. Zero where the position was clamped.
KERNEL __launch_bounds__(128, 8) grid_positions(const GRID_CONSTANT GridBackward p) {
    const u32 n_seen = *p.n_seen;
    for (u32 place = blockIdx.x * blockDim.x + threadIdx.x; place < n_seen; place += gridDim.x * blockDim.x) {
        float x_unit[3], total[3] = {0.f, 0.f, 0.f};
        find_position(x_unit, p, p.seen[place]);
#pragma unroll 1
        for (u32 chunk = 0; chunk < CHUNKS; chunk++) {
            const GradientRow row = read_gradients(p, place, chunk);
#pragma unroll
            for (int i = 0; i < LEVELS_OF_CHUNK; i++) {
                const int level = (int)chunk * LEVELS_OF_CHUNK + i;
                if (level >= LEVELS) continue;
                Cell cell;
                find_cell(cell, p.grid, level, x_unit);
                const float *w = cell.fraction;
                float slope[3] = {0.f, 0.f, 0.f}, rows[8][FEATURES];
#pragma unroll
                for (int c = 0; c < 8; c += 2) {
                    load_rows(rows[c], rows[c + 1], p.grid.table, cell.row[c], cell.row[c + 1]);
                }
#pragma unroll
                for (int c = 0; c < 8; c++) {
                    float along = 0.f;
#pragma unroll
                    for (int f = 0; f < FEATURES; f++) along += rows[c][f] * row.values[i * FEATURES + f];
                    const float x = c & 1 ? w[0] : 1.f - w[0], y = c & 2 ? w[1] : 1.f - w[1];
                    const float z = c & 4 ? w[2] : 1.f - w[2];
                    slope[0] += (c & 1 ? along : -along) * y * z;
                    slope[1] += (c & 2 ? along : -along) * x * z;
                    slope[2] += (c & 4 ? along : -along) * x * y;
                }
#pragma unroll
                for (int axis = 0; axis < 3; axis++) total[axis] += p.grid.scales[level] * slope[axis];
            }
        }
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            const bool is_free = x_unit[axis] > 0.f && x_unit[axis] < 1.f;
            p.position_gradients[3 * place + axis] =
                is_free ? total[axis] * p.unit_scale * p.inverse_loss_scale : 0.f;
        }
    }
}

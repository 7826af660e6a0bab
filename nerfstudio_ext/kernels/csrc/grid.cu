// Gradients of the hash grid from those of the features: scattered into the table, or summed to that of the position.
//
// A warp takes 32 samples and 8 features of each (16 bytes of gradient), so that the level is the same in all lanes.
#include "scatter.cuh"

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

// Adding up in the warp takes some 250 instructions, 0.3 ns of an H200; the 192 atomics of a level 2 to 3 ns (both are
// estimates): worth it until nearly every lane has a cell of its own.
constexpr int FEW_RUNS = 20;

// Adds one level's gradients of a warp's samples, which are neighbours on rays: on coarse levels many share a cell.
__device__ __forceinline__ void scatter_level(
    const GridBackward &p, int level, const float (&x_unit)[3], const float *gradients, bool is_there
) {
    Cell cell;
    find_cell(cell, p.grid, level, x_unit);
    const u32 row_before = from_below(cell.row[0], 1), y_before = from_below(cell.y, 1), z_before = from_below(cell.z, 1);
    const bool is_same = row_before == cell.row[0] && y_before == cell.y && z_before == cell.z;
    const bool is_start = lane_number() == 0 || !is_same;
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
                float slope[3], along[8], rows[8][FEATURES];
#pragma unroll
                for (int c = 0; c < 8; c += 2) {
                    load_rows(rows[c], rows[c + 1], p.grid.table, cell.row[c], cell.row[c + 1]);
                }
#pragma unroll
                for (int c = 0; c < 8; c++) {
                    along[c] = 0.f;
#pragma unroll
                    for (int f = 0; f < FEATURES; f++) along[c] += rows[c][f] * row.values[i * FEATURES + f];
                }
                slope_of(slope, cell, along);
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

// What was summed in whole numbers, as the gradient it stands for.
KERNEL __launch_bounds__(256) table_to_float(const GRID_CONSTANT TableToFloat p) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n) return;
    const double units = (double)p.fixed[i];
    const bool is_sound = units < 1e18 && units > -1e18;  // else infinity: the check of the step is to see it
    p.gradients[i] = is_sound ? (float)(units / 4294967296.0) * p.inverse_loss_scale : __int_as_float(0x7f800000);
}

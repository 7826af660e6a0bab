// Density and colour of the field at samples of rays, and density alone at points. A warp takes 32 of them at a time.
#include "network.cuh"

// Blocks of any number of warps up to ten: large ones share one copy of the matrices and leave the rest of the fast memory
// to the cache of the table.
constexpr int MOST_THREADS = 320;
constexpr int FORWARD_BLOCKS = HIDDEN > 64 || COLOR_HIDDEN > 64 ? 1 : 2;  // per multiprocessor, for the registers
constexpr int FORWARD_WARP_WORDS = STAGE_WORDS + 32 * DIRECTION_STRIDE;

KERNEL __launch_bounds__(MOST_THREADS, FORWARD_BLOCKS) field_forward(const GRID_CONSTANT FieldForward p) {
    DYNAMIC_SHARED(shared);
    u32 *weights = (u32 *)shared;
    u32 *stage = weights + FORWARD_WORDS + warp_number() * FORWARD_WARP_WORDS;
    u32 *directions = stage + STAGE_WORDS;
    float *logits = (float *)stage;  // takes the place of features that have been read
    const u32 lane = lane_number(), count = *p.samples.count;
    copy_weights(weights, p.field.forward);
    const u32 per_block = blockDim.x / 32, n_warps = gridDim.x * per_block;
    for (u32 group = blockIdx.x * per_block + warp_number(); group * 32 < count; group += n_warps) {
        const u32 sample = group * 32 + lane;
        const u32 s = min(sample, count - 1);  // lanes behind the end repeat the last sample and write nothing
        const u32 r = (u32)p.samples.rays[s];
        const float middle = 0.5f * (p.samples.t_starts[s] + p.samples.t_ends[s]);
        float x_unit[3], d[3];
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            d[axis] = p.rays.directions[3 * r + axis];
            const float x = exact_add(p.rays.origins[3 * r + axis], exact_multiply(middle, d[axis]));
            x_unit[axis] = to_unit(x, p.field.unit_scale);
        }
        encode(stage + lane * STAGE_STRIDE, p.field.grid, x_unit);
        write_harmonics(directions + lane * DIRECTION_STRIDE, d[0], d[1], d[2]);
        sync_warp();
        if (p.features) {  // neighbouring lanes write neighbouring words
            const u32 n_here = min(32u, count - group * 32);
            uint4 *rows = (uint4 *)p.features + (u64)group * 32 * (FEATURE_WIDTH / 8);
            for (u32 i = lane; i < n_here * (FEATURE_WIDTH / 8); i += 32) {
                const u32 row = i / (FEATURE_WIDTH / 8), part = i % (FEATURE_WIDTH / 8);
                rows[i] = ((const uint4 *)(stage + row * STAGE_STRIDE))[part];
            }
            sync_warp();
        }
        u32 geo[2][4];
        density_network(logits, geo, stage, weights);
#pragma unroll 1
        for (int tile = 0; tile < 2; tile++) color_network(logits, geo, directions, weights, tile);
        sync_warp();
        const float4 found = ((const float4 *)logits)[lane];
        if (sample < count) {
            ((float4 *)p.colors_sigmas)[sample] =
                make_float4(color_of(found.x), color_of(found.y), color_of(found.z), density_of(found.w));
        }
        sync_warp();
    }
}

KERNEL __launch_bounds__(MOST_THREADS, FORWARD_BLOCKS) field_density(const GRID_CONSTANT FieldDensity p) {
    DYNAMIC_SHARED(shared);
    u32 *weights = (u32 *)shared;
    u32 *stage = weights + FORWARD_WORDS + warp_number() * FORWARD_WARP_WORDS;
    float *logits = (float *)stage;
    const u32 lane = lane_number();
    copy_weights(weights, p.field.forward);
    const u32 per_block = blockDim.x / 32, n_warps = gridDim.x * per_block;
    for (u32 group = blockIdx.x * per_block + warp_number(); group * 32 < p.n; group += n_warps) {
        const u32 point = group * 32 + lane, i = min(point, p.n - 1);
        float x_unit[3];
#pragma unroll
        for (int axis = 0; axis < 3; axis++) x_unit[axis] = to_unit(p.x[3 * i + axis], p.field.unit_scale);
        encode(stage + lane * STAGE_STRIDE, p.field.grid, x_unit);
        sync_warp();
        u32 geo[2][4];
        density_network(logits, geo, stage, weights);
        sync_warp();
        if (point < p.n) p.sigmas[point] = density_of(logits[lane * 4 + 3]);
        sync_warp();
    }
}

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

constexpr u32 GROUP = 4;  // lanes that look at neighbouring samples of one ray
constexpr int FETCH_FROM = 8;  // idle lanes that are worth the wait for the queue
constexpr u32 NO_RAY = 0xffffffffu;

// A ray that a group of lanes follows; the same in all of them.
struct Followed {
    u32 ray;  // NO_RAY: none
    int first, count, at;
    float optical_depth;
};

// Gives groups without a ray one from the queue; false when it is empty. Rays without samples leave their group idle.
__device__ __forceinline__ bool take_rays(const FieldAlong &p, Followed &followed) {
    const u32 idle = lanes_where(followed.ray == NO_RAY), lane = lane_number();
    u32 next = 0;
    if (lane == 0) next = atomicAdd(p.queue, (u32)__popc(idle) / GROUP);
    next = from_lane(next, 0);
    const u32 before = (1u << lane / GROUP * GROUP) - 1u;  // lanes of the groups in front
    const u32 ray = next + (u32)__popc(idle & before) / GROUP;
    if (followed.ray == NO_RAY && ray < p.rays.n_rays) {
        followed.first = p.packed_info[2 * ray];
        followed.count = p.packed_info[2 * ray + 1];
        followed.at = 0;
        followed.optical_depth = 0.f;
        if (followed.count > 0) followed.ray = ray;
    }
    return next < p.rays.n_rays;
}

// As field_forward, but along rays and only until their light is gone: behind surfaces lie most of the samples. Groups of
// few lanes waste few samples behind the end of a ray and still share the cells of the coarse levels.
KERNEL __launch_bounds__(MOST_THREADS, FORWARD_BLOCKS) field_along(const GRID_CONSTANT FieldAlong p) {
    DYNAMIC_SHARED(shared);
    u32 *weights = (u32 *)shared;
    u32 *stage = weights + FORWARD_WORDS + warp_number() * FORWARD_WARP_WORDS;
    u32 *directions = stage + STAGE_WORDS;
    float *logits = (float *)stage;
    const u32 lane = lane_number(), in_group = lane % GROUP;
    copy_weights(weights, p.field.forward);
    Followed followed = {NO_RAY, 0, 0, 0, 0.f};
    bool has_more = true;
    while (true) {
        while (has_more && __popc(lanes_where(followed.ray == NO_RAY)) >= FETCH_FROM) has_more = take_rays(p, followed);
        if (lanes_where(followed.ray != NO_RAY) == 0) break;
        const bool is_there = followed.ray != NO_RAY && followed.at + (int)in_group < followed.count;
        const u32 sample = (u32)(followed.first + followed.at) + in_group;
        float x_unit[3] = {0.f, 0.f, 0.f}, d[3] = {0.f, 0.f, 0.f}, dt = 0.f;
        if (is_there) {
            const float t_start = p.t_starts[sample], t_end = p.t_ends[sample];
            dt = t_end - t_start;
#pragma unroll
            for (int axis = 0; axis < 3; axis++) {
                d[axis] = p.rays.directions[3 * followed.ray + axis];
                const float along = exact_multiply(0.5f * (t_start + t_end), d[axis]);
                x_unit[axis] = to_unit(exact_add(p.rays.origins[3 * followed.ray + axis], along), p.field.unit_scale);
            }
        }
        encode(stage + lane * STAGE_STRIDE, p.field.grid, x_unit);
        write_harmonics(directions + lane * DIRECTION_STRIDE, d[0], d[1], d[2]);
        if (is_there) {
            uint4 *row = (uint4 *)p.features + (u64)sample * (FEATURE_WIDTH / 8);
#pragma unroll
            for (int part = 0; part < FEATURE_WIDTH / 8; part++) row[part] = ((uint4 *)(stage + lane * STAGE_STRIDE))[part];
        }
        sync_warp();
        u32 geo[2][4];
        density_network(logits, geo, stage, weights);
#pragma unroll 1
        for (int tile = 0; tile < 2; tile++) color_network(logits, geo, directions, weights, tile);
        sync_warp();
        const float4 found = ((const float4 *)logits)[lane];
        const float sigma = density_of(found.w);
        if (is_there) {
            ((float4 *)p.colors_sigmas)[sample] =
                make_float4(color_of(found.x), color_of(found.y), color_of(found.z), sigma);
        }
        float sum = is_there ? sigma * dt : 0.f;
#pragma unroll
        for (u32 distance = 1; distance < GROUP; distance <<= 1) sum += across(sum, distance);
        followed.optical_depth += sum;
        followed.at += GROUP;
        if (followed.ray != NO_RAY) {
            const bool is_dark = fast_exp(-followed.optical_depth) < p.stop_transmittance;
            if (is_dark && followed.at < followed.count && in_group == 0) p.packed_info[2 * followed.ray + 1] = followed.at;
            if (is_dark || followed.at >= followed.count) followed.ray = NO_RAY;
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

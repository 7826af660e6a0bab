// `ray_aabb`, `weights_of` and `composite` as operations of their own, in float, with all gradients.
//
// A warp per ray, 32 samples at a time. T is the light that passes the samples in front, own_i = sigma_i dt_i:
// w_i = T_i (1 - exp(-own_i)), and for q = dL/dw: dL/d own_i = T_{i+1} q_i - sum_{j > i} w_j q_j (Max 1995). The way back
// goes from the far end, so that the second sum is built of its own terms instead of a difference of large ones.
#include "params.cuh"

// As in the field's kernels: the series keeps the thin ones.
__device__ __forceinline__ float opacity_of(float depth) {
    return depth < 1e-2f ? depth * (1.f - depth * (0.5f - depth * (1.f / 6.f))) : 1.f - fast_exp(-depth);
}

KERNEL __launch_bounds__(256) ray_box(const GRID_CONSTANT RayBox p) {
    const u32 r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= p.n_rays) return;
    const float infinity = __int_as_float(0x7f800000);
    float near = 0.f, far = infinity;
    bool hits = true;
#pragma unroll
    for (int axis = 0; axis < 3; axis++) {
        const float o = p.origins[3 * r + axis], d = p.directions[3 * r + axis];
        const float low = p.box[axis], high = p.box[3 + axis];
        if (d == 0.f) {
            hits = hits && low <= o && o <= high;
        } else {
            const float a = exact_divide(exact_add(low, -o), d), b = exact_divide(exact_add(high, -o), d);
            near = fmaxf(near, fminf(a, b));
            far = fminf(far, fmaxf(a, b));
        }
    }
    hits = hits && near <= far;
    p.t_min[r] = hits ? near : infinity;
    p.t_max[r] = hits ? far : -infinity;
}

KERNEL __launch_bounds__(128) composite(const GRID_CONSTANT Composite p) {
    const u32 r = blockIdx.x * (blockDim.x / 32) + warp_number(), lane = lane_number();
    if (r >= p.n_rays) return;
    const i64 first = p.packed_info[2 * r], count = p.packed_info[2 * r + 1];
    float depth_before = 0.f, color[3] = {0.f, 0.f, 0.f}, distance = 0.f;
    for (i64 start = 0; start < count; start += 32) {
        const bool is_there = start + lane < count;
        const i64 i = first + start + lane;
        const float t_start = is_there ? p.t_starts[i] : 0.f, t_end = is_there ? p.t_ends[i] : 0.f;
        const float own = is_there ? p.sigmas[i] * (t_end - t_start) : 0.f;
        const float sum = inclusive_sum(own), below = from_below(sum, 1);
        const float weight = fast_exp(-(lane == 0 ? depth_before : depth_before + below)) * opacity_of(own);
        depth_before += from_lane(sum, 31);
        if (is_there && p.weights) p.weights[i] = weight;
        if (is_there && p.rgbs) {
#pragma unroll
            for (int c = 0; c < 3; c++) color[c] += weight * p.rgbs[3 * i + c];
        }
        distance += weight * 0.5f * (t_start + t_end);
    }
    if (!p.rgb) return;
#pragma unroll
    for (int c = 0; c < 3; c++) color[c] = warp_sum(color[c]);
    distance = warp_sum(distance);
    if (lane != 0) return;
#pragma unroll
    for (int c = 0; c < 3; c++) p.rgb[3 * r + c] = color[c];
    p.depth[r] = distance;
    p.alpha[r] = opacity_of(depth_before);
}

KERNEL __launch_bounds__(128) composite_backward(const GRID_CONSTANT CompositeBackward p) {
    const u32 r = blockIdx.x * (blockDim.x / 32) + warp_number(), lane = lane_number();
    if (r >= p.n_rays) return;
    const i64 first = p.packed_info[2 * r], count = p.packed_info[2 * r + 1];
    float depth_before = 0.f;
    for (i64 start = 0; start < count; start += 32) {  // what passes before each sample, kept where its gradient will be
        const bool is_there = start + lane < count;
        const i64 i = first + start + lane;
        const float own = is_there ? p.sigmas[i] * (p.t_ends[i] - p.t_starts[i]) : 0.f;
        const float sum = inclusive_sum(own), below = from_below(sum, 1);
        if (is_there) p.d_sigmas[i] = fast_exp(-(lane == 0 ? depth_before : depth_before + below));
        depth_before += from_lane(sum, 31);
    }
    sync_warp();
    float g[3] = {0.f, 0.f, 0.f}, g_depth = 0.f, g_clear = 0.f, behind = 0.f;
    if (p.d_rgb) {
#pragma unroll
        for (int c = 0; c < 3; c++) g[c] = p.d_rgb[3 * r + c];
        g_depth = p.d_depth[r];
        g_clear = p.d_alpha[r] * fast_exp(-depth_before);
    }
    for (i64 start = 0; start < count; start += 32) {  // from the far end; the lowest lane is the farthest
        const bool is_there = start + lane < count;
        const i64 i = first + count - 1 - start - lane;
        float t_start = 0.f, t_end = 0.f, sigma = 0.f, before = 0.f, q = 0.f;
        if (is_there) {
            t_start = p.t_starts[i], t_end = p.t_ends[i], sigma = p.sigmas[i], before = p.d_sigmas[i];
            if (p.d_weights) q += p.d_weights[i];
            if (p.d_rgb) q += g_depth * 0.5f * (t_start + t_end);
            if (p.rgbs) q += g[0] * p.rgbs[3 * i] + g[1] * p.rgbs[3 * i + 1] + g[2] * p.rgbs[3 * i + 2];
        }
        const float own = sigma * (t_end - t_start), weight = before * opacity_of(own);
        const float sum = inclusive_sum(weight * q), below = from_below(sum, 1);
        const float after_it = lane == 0 ? behind : behind + below;
        behind += from_lane(sum, 31);
        if (!is_there) continue;
        const float d_own = before * fast_exp(-own) * q - after_it + g_clear;
        p.d_sigmas[i] = (t_end - t_start) * d_own;
        if (p.d_rgbs) {
#pragma unroll
            for (int c = 0; c < 3; c++) p.d_rgbs[3 * i + c] = weight * g[c];
        }
        const float middle = 0.5f * weight * g_depth;
        if (p.d_starts) p.d_starts[i] = middle - sigma * d_own;
        if (p.d_ends) p.d_ends[i] = middle + sigma * d_own;
    }
}

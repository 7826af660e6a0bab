// Compositing of a training batch with its loss and the gradients of all logits: a warp per ray, 32 samples at a time.
//
// Two passes over the samples of a ray: the first sums colour, opacity and distortion, which give the loss and its
// gradient in them; the second turns that into gradients of the samples. With q = dL/dw, the gradient in sigma_i is
// dt_i (T_{i+1} q_i - sum_{j > i} w_j q_j) (Max 1995). The second sum is the total minus a running sum, and the total is
// known after the first pass: the colours are linear in w, the distortion is homogeneous of degree two.
#include "network.cuh"

// One sample as the compositing sees it; all zero in lanes without one.
struct Seen {
    bool is_seen;
    float sigma, dt, weight, after;  // after: transmittance behind the sample
    float color[3];
    float t_start, middle;         // scene units
    float squeezed, squeezed_length;  // t / (1 + t): the measure of the distortion
};

__device__ __forceinline__ float squeeze(float t) { return exact_divide(t, 1.f + t); }

// Sample `at` of the ray if `is_there`; `depth` is the optical depth in front of these 32, moved behind them.
__device__ __forceinline__ Seen look_at(const StepLoss &p, int at, bool is_there, float &depth) {
    Seen s = {};
    float4 found = make_float4(0.f, 0.f, 0.f, 0.f);
    float t_end = 0.f;
    if (is_there) {
        found = ((const float4 *)p.colors_sigmas)[at];
        s.t_start = p.t_starts[at];
        t_end = p.t_ends[at];
    }
    const float own = found.w * (t_end - s.t_start);
    const float sum = inclusive_sum(own), below = from_below(sum, 1);
    // Not sum - own: behind an opaque sample the difference would have no digits left.
    const float before = fast_exp(-(lane_number() == 0 ? depth : depth + below));
    const float behind = depth + sum;
    s.is_seen = is_there && before >= p.stop_transmittance;
    depth = from_lane(behind, 31);
    if (!s.is_seen) return s;
    s.sigma = found.w;
    s.dt = t_end - s.t_start;
    s.after = fast_exp(-behind);
    s.weight = before * opacity_of(own);
    s.color[0] = found.x, s.color[1] = found.y, s.color[2] = found.z;
    s.middle = 0.5f * (s.t_start + t_end);
    s.squeezed = squeeze(s.middle);
    s.squeezed_length = squeeze(t_end) - squeeze(s.t_start);
    return s;
}

__device__ __forceinline__ float huber_loss(float difference, float delta, float &slope) {
    const float size = fabsf(difference);
    if (delta == 0.f) {
        slope = 2.f * difference;
        return difference * difference;
    }
    if (size <= delta) {
        slope = difference;
        return 0.5f * difference * difference;
    }
    slope = difference > 0.f ? delta : -delta;
    return delta * (size - 0.5f * delta);
}

struct RaySums {
    float color[3], opacity, depth;  // depth: sum of weighted midpoints
    float optical_depth;
    float distortion;
    u32 n_seen;
};

__device__ __forceinline__ RaySums sum_ray(const StepLoss &p, int first, int count) {
    RaySums sums = {};
    float depth = 0.f, weight_before = 0.f, moment_before = 0.f;
    for (int start = 0; start < count; start += 32) {
        const int i = start + (int)lane_number();
        const Seen s = look_at(p, first + i, i < count, depth);
        const u32 seen = lanes_where(s.is_seen);
        sums.n_seen += (u32)__popc(seen);
        sums.optical_depth += s.sigma * s.dt;
        sums.opacity += s.weight;
        sums.depth += s.weight * s.middle;
#pragma unroll
        for (int c = 0; c < 3; c++) sums.color[c] += s.weight * s.color[c];
        if (p.distortion > 0.f) {
            const float moment = s.weight * s.squeezed;
            const float weights = weight_before + inclusive_sum(s.weight);
            const float moments = moment_before + inclusive_sum(moment);
            const float between = 2.f * (s.squeezed * (weights - s.weight) - (moments - moment));
            sums.distortion += s.weight * (between + s.weight * s.squeezed_length * (1.f / 3.f));
            weight_before = from_lane(weights, 31);
            moment_before = from_lane(moments, 31);
        }
        if (seen != ALL_LANES) break;  // the seen samples are the first ones of the ray
    }
#pragma unroll
    for (int c = 0; c < 3; c++) sums.color[c] = warp_sum(sums.color[c]);
    sums.opacity = warp_sum(sums.opacity);
    sums.depth = warp_sum(sums.depth);
    sums.optical_depth = warp_sum(sums.optical_depth);
    if (p.distortion > 0.f) sums.distortion = warp_sum(sums.distortion);
    return sums;
}

// Gradients of the logits of a ray's seen samples; `slope` = dL/d(r, g, b, opacity).
__device__ __forceinline__ void write_gradients(
    const StepLoss &p, int first, int count, const RaySums &sums, const float (&slope)[4], float distortion_weight
) {
    float total = 2.f * distortion_weight * sums.distortion + slope[3] * sums.opacity;
#pragma unroll
    for (int c = 0; c < 3; c++) total += slope[c] * sums.color[c];
    float moment_total = 0.f;
    if (distortion_weight > 0.f) {
        float depth = 0.f;
        for (int start = 0; start < (int)sums.n_seen; start += 32) {
            const int i = start + (int)lane_number();
            const Seen s = look_at(p, first + i, i < count, depth);
            moment_total += s.weight * s.squeezed;
        }
        moment_total = warp_sum(moment_total);
    }
    const float thinnest = fast_exp(-DENSITY_LOGIT_MAX), densest = fast_exp(DENSITY_LOGIT_MAX);
    float depth = 0.f, passed = 0.f, weight_before = 0.f, moment_before = 0.f;
    for (int start = 0; start < (int)sums.n_seen; start += 32) {
        const int i = start + (int)lane_number();
        const Seen s = look_at(p, first + i, i < count, depth);
        float q = slope[3];
#pragma unroll
        for (int c = 0; c < 3; c++) q += slope[c] * s.color[c];
        if (distortion_weight > 0.f) {
            const float moment = s.weight * s.squeezed;
            const float weights = weight_before + inclusive_sum(s.weight);
            const float moments = moment_before + inclusive_sum(moment);
            const float spread = s.squeezed * (weights - s.weight) - (moments - moment) + (moment_total - moments) -
                                 s.squeezed * (sums.opacity - weights);
            q += distortion_weight * (2.f * spread + (2.f / 3.f) * s.weight * s.squeezed_length);
            weight_before = from_lane(weights, 31);
            moment_before = from_lane(moments, 31);
        }
        const float up_to_here = passed + inclusive_sum(s.weight * q);
        passed = from_lane(up_to_here, 31);
        if (!s.is_seen) continue;
        float factor = p.loss_scale;
        if (p.near_fade > 0.f) {
            const float share = s.t_start / p.near_fade;
            factor *= fminf(share * share, 1.f);
        }
        const float d_sigma = s.dt * (s.after * q - (total - up_to_here));
        const bool is_free = s.sigma > thinnest && s.sigma < densest;  // else the clamp of the logit holds it
        float4 gradient;
        gradient.x = factor * slope[0] * s.weight * s.color[0] * (1.f - s.color[0]);
        gradient.y = factor * slope[1] * s.weight * s.color[1] * (1.f - s.color[1]);
        gradient.z = factor * slope[2] * s.weight * s.color[2] * (1.f - s.color[2]);
        gradient.w = is_free ? factor * d_sigma * s.sigma : 0.f;
        ((float4 *)p.logit_gradients)[first + i] = gradient;
    }
}

KERNEL __launch_bounds__(128) step_loss(const GRID_CONSTANT StepLoss p) {
    const u32 r = blockIdx.x * (blockDim.x / 32) + warp_number();
    if (r >= p.n_rays) return;
    const int first = p.packed_info[2 * r], count = p.packed_info[2 * r + 1];
    const RaySums sums = sum_ray(p, first, count);
    const float opacity = opacity_of(sums.optical_depth);
    float color_loss = 0.f, squared = 0.f, slope[4] = {0.f, 0.f, 0.f, 0.f};
    const float share = 1.f / (float)p.n_rays;
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const float behind = p.background[3 * r + c];
        const float difference = sums.color[c] + (1.f - opacity) * behind - p.target[3 * r + c];
        float d;
        color_loss += huber_loss(difference, p.huber, d);
        squared += difference * difference;
        slope[c] = d * share * (1.f / 3.f);
        slope[3] -= slope[c] * behind;
    }
    const bool counts = count >= 0;
    if (counts) write_gradients(p, first, count, sums, slope, p.distortion * share);
    if (lane_number() != 0) return;
    p.ray_losses[3 * r] = counts ? color_loss : 0.f;
    p.ray_losses[3 * r + 1] = counts ? squared : 0.f;
    p.ray_losses[3 * r + 2] = counts ? sums.distortion : 0.f;
    p.seen_counts[r] = sums.n_seen;
    if (p.outputs) {
#pragma unroll
        for (int c = 0; c < 3; c++) p.outputs[5 * r + c] = sums.color[c];
        p.outputs[5 * r + 3] = sums.depth;
        p.outputs[5 * r + 4] = opacity;
    }
}

// The numbers of the seen samples, ray after ray.
KERNEL __launch_bounds__(128) list_seen(const GRID_CONSTANT ListSeen p) {
    const u32 r = blockIdx.x * (blockDim.x / 32) + warp_number();
    if (r >= p.n_rays) return;
    const int from = p.packed_info[2 * r], to = p.seen_info[2 * r], count = p.seen_info[2 * r + 1];
    for (int i = (int)lane_number(); i < count; i += 32) p.seen[to + i] = (u32)(from + i);
}

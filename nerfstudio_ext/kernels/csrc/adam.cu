// What happens to parameters: rounding to halves, the check of gradients, Adam with master weights in float.
#include "params.cuh"

KERNEL __launch_bounds__(256) cast_table(const GRID_CONSTANT CastTable p) {
    const u32 pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= p.n / 2) return;
    const float2 values = ((const float2 *)p.table)[pair];
    p.half_pairs[pair] = pack_pair(values.x, values.y);
}

// Counts numbers that are infinite or none.
KERNEL __launch_bounds__(256) count_bad(const GRID_CONSTANT CountBad p) {
    u32 bad = 0;
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < p.n; i += gridDim.x * blockDim.x) {
        bad += !(fabsf(p.values[i]) <= 3.402823466e38f);
    }
    const u32 lanes = lanes_where(bad != 0);
    if (lane_number() == 0 && lanes) atomicAdd(p.n_bad, (u32)__popc(lanes));
}

// Counts the step and works out what all parameters share. A step with bad gradients does not count.
KERNEL __launch_bounds__(32) adam_clock(const GRID_CONSTANT AdamClock p) {
    if (threadIdx.x != 0 || *p.n_bad != 0) return;
    const float steps = p.clock[0] + 1.f;
    p.clock[0] = steps;
    p.clock[1] = *p.rate / (float)(1.0 - pow((double)p.beta1, (double)steps));
    p.clock[2] = (float)(1.0 / sqrt(1.0 - pow((double)p.beta2, (double)steps)));
}

// Kingma and Ba 2015. Two parameters per thread: one word of the half copy.
KERNEL __launch_bounds__(256) adam(const GRID_CONSTANT Adam p) {
    const u32 pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= p.n / 2) return;
    const float2 given = ((const float2 *)p.gradient)[pair];
    const bool is_touched = given.x != 0.f || given.y != 0.f;
    if (!is_touched && p.skip_untouched) return;
    if (is_touched) ((float2 *)p.gradient)[pair] = make_float2(0.f, 0.f);
    if (*p.n_bad != 0) return;
    const float2 master = ((const float2 *)p.master)[pair];
    const float2 first = ((const float2 *)p.first)[pair], second = ((const float2 *)p.second)[pair];
    const float rate = p.clock[1], inverse_root = p.clock[2];
    const float g[2] = {given.x, given.y};
    float value[2] = {master.x, master.y}, m[2] = {first.x, first.y}, v[2] = {second.x, second.y};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (g[i] == 0.f && p.skip_untouched) continue;
        m[i] = p.beta1 * m[i] + (1.f - p.beta1) * g[i];
        v[i] = p.beta2 * v[i] + (1.f - p.beta2) * g[i] * g[i];
        value[i] -= rate * m[i] / (sqrtf(v[i]) * inverse_root + p.eps);
    }
    ((float2 *)p.master)[pair] = make_float2(value[0], value[1]);
    ((float2 *)p.first)[pair] = make_float2(m[0], m[1]);
    ((float2 *)p.second)[pair] = make_float2(v[0], v[1]);
    if (p.half_pairs) p.half_pairs[pair] = pack_pair(value[0], value[1]);
}

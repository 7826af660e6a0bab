// The training sampler: counts the samples of every ray, finds their places, writes them.
//
// Two walks instead of one with reserved places: the order is that of the rays, so everything after it is the same in
// every run, and the walk costs little beside the field.
#include "lattice.cuh"

KERNEL __launch_bounds__(128) march_count(const GRID_CONSTANT MarchCount p) {
    const u32 r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= p.rays.n_rays) return;
    Ray ray;
    Block block;
    u32 count = 0;
    if (start_ray(ray, p.rays, r, p.bits, p.lattice, p.jitter[r])) {
        while (count < p.max_samples) {
            const float dt = next_interval(ray, block, p.bits, p.lattice);
            if (dt == 0.f) break;
            count++;
            ray.t = exact_add(ray.t, dt);
        }
    }
    p.counts[r] = count;
}

KERNEL __launch_bounds__(128) march_write(const GRID_CONSTANT MarchWrite p) {
    const u32 r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= p.rays.n_rays) return;
    const int first = p.packed_info[2 * r], count = p.packed_info[2 * r + 1];
    if (count <= 0) return;
    Ray ray;
    Block block;
    start_ray(ray, p.rays, r, p.bits, p.lattice, p.jitter[r]);
    for (int i = first; i < first + count; i++) {
        const float dt = next_interval(ray, block, p.bits, p.lattice);
        p.t_starts[i] = ray.t;
        ray.t = exact_add(ray.t, dt);
        p.t_ends[i] = ray.t;
        p.ray_indices[i] = (int)r;
    }
}

// Sum of `value` over the threads before this one; `total` is that of all 1024.
__device__ __forceinline__ u32 exclusive_block_sum(u32 value, u32 *warp_sums, u32 &total) {
    u32 sum = value;
    for (u32 distance = 1; distance < 32; distance <<= 1) {
        const u32 below = from_below(sum, distance);
        if (lane_number() >= distance) sum += below;
    }
    if (lane_number() == 31) warp_sums[warp_number()] = sum;
    sync_block();
    u32 before = 0;
    total = 0;
    for (u32 w = 0; w < 32; w++) {
        if (w < warp_number()) before += warp_sums[w];
        total += warp_sums[w];
    }
    sync_block();
    return before + sum - value;
}

// Places for runs of samples, in order, as long as they fit. One block: a batch has some ten thousand rays.
KERNEL __launch_bounds__(1024) scan_counts(const GRID_CONSTANT ScanCounts p) {
    __shared__ u32 warp_sums[32];
    u32 used = 0, wanted = 0, dropped = 0;
    for (u32 start = 0; start < p.n; start += 1024) {
        const u32 i = start + threadIdx.x;
        const u32 count = i < p.n ? p.counts[i] : 0;
        u32 total;
        const u32 first = used + exclusive_block_sum(count, warp_sums, total);
        // `first` counts the dropped runs too, so behind one of them only empty runs fit: no gaps.
        const bool fits = count == 0 || first + count <= p.capacity;
        if (i < p.n) {
            p.packed_info[2 * i] = fits ? (int)first : 0;
            p.packed_info[2 * i + 1] = fits ? (int)count : -1;
        }
        u32 kept, lost;
        exclusive_block_sum(fits ? count : 0, warp_sums, kept);
        exclusive_block_sum(fits || i >= p.n ? 0 : 1, warp_sums, lost);
        used = lost || dropped ? p.capacity + 1 : used + kept;
        wanted += total;
        dropped += lost;
        if (threadIdx.x == 0) p.totals[0] = start == 0 ? kept : p.totals[0] + kept;
    }
    if (threadIdx.x == 0) {
        if (p.n == 0) p.totals[0] = 0;
        p.totals[1] = dropped;
        p.totals[2] = wanted;
    }
}

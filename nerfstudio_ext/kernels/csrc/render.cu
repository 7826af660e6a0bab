// A whole picture in one launch: every lane follows a ray, the warp evaluates the field for its 32 samples together.
//
// Lanes whose ray has ended take the next one from a queue, so that the tiles of the tensor cores stay full; nothing but
// weights, table and the finished pixels touches global memory. The march is that of `march` with jitter 0.5, and a ray
// ends where less than `stop_transmittance` of the light passes, as in `render_field`.
#include "lattice.cuh"
#include "network.cuh"

constexpr int MOST_THREADS = 320;  // as in field.cu
// Blocks per multiprocessor that registers must leave room for; most machines have shared memory for one only.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 800 && __CUDA_ARCH__ != 900 && __CUDA_ARCH__ != 1000
constexpr int RENDER_BLOCKS = 1;
#else
constexpr int RENDER_BLOCKS = HIDDEN > 64 || COLOR_HIDDEN > 64 ? 1 : 2;
#endif
constexpr int KEPT_WORDS = 13;
constexpr int RENDER_WARP_WORDS = STAGE_WORDS + 32 * DIRECTION_STRIDE + 32 * KEPT_WORDS;
constexpr u32 FETCH_FROM = 8;  // idle lanes that are worth a look into the queue
constexpr u32 LOOK_EVERY = 1024;  // rays between two looks at the flag of cancelling
constexpr u32 NO_RAY = 0xffffffffu;
constexpr float FAINT = 1e-5f;  // a sample that adds less to a pixel needs no colour

// What a lane needs of its ray between the samples. It lives in shared memory: in registers it would stand by while the
// networks run and take their room. An odd number of words, so that lanes use different banks.
struct Kept {
    Ray ray;
    float color[3], depth;
    u32 gap;
};
static_assert(sizeof(Kept) == KEPT_WORDS * 4, "room for rays");

struct Pixel {
    Kept &kept;
    u32 *harmonics_row;
    float optical_depth;
    u32 index;  // NO_RAY in an idle lane
};

// Number of the ray at place `at` of the queue: neighbouring lanes take neighbouring pixels, whose samples share cells.
__device__ __forceinline__ u32 ray_at(const RenderFused &p, u32 at) {
    if (p.image_width == 0) return at;
    const u32 band = at / (p.image_width * 4), top = band * 4, in_band = at - band * (p.image_width * 4);
    const u32 height = min(4u, p.image_height - top);  // the last band may be lower, and tiles at the right narrower
    const u32 tile = in_band / (8 * height), left = tile * 8, in_tile = in_band - tile * (8 * height);
    const u32 width = min(8u, p.image_width - left);
    return (top + in_tile / width) * p.image_width + left + in_tile % width;
}

__device__ __forceinline__ void finish(const RenderFused &p, Pixel &pixel) {
    const float opacity = opacity_of(pixel.optical_depth);
#pragma unroll
    for (int c = 0; c < 3; c++) p.rgb[3 * pixel.index + c] = pixel.kept.color[c] + (1.f - opacity) * p.background[c];
    p.depth[pixel.index] = pixel.kept.depth;
    p.alpha[pixel.index] = opacity;
    pixel.index = NO_RAY;
}

// Gives idle lanes rays from the queue. False when it is empty or the picture is no longer wanted.
__device__ __forceinline__ bool fetch(const RenderFused &p, Pixel &pixel) {
    const u32 idle = lanes_where(pixel.index == NO_RAY);
    u32 first = 0;
    if (lane_number() == 0) {
        first = atomicAdd(p.queue, (u32)__popc(idle));
        // The flag may lie in the host's memory, microseconds away: who passes a thousand rays looks, and empties the
        // queue for all.
        const bool looks = first == 0 || first / LOOK_EVERY != (first + (u32)__popc(idle)) / LOOK_EVERY;
        if (p.cancel && looks && read_changing(p.cancel) != 0) {
            atomicMax(p.queue, p.rays.n_rays);
            first = p.rays.n_rays;
        }
    }
    first = from_lane(first, 0);
    if (first >= p.rays.n_rays) return false;
    const u32 at = first + (u32)__popc(idle & ((1u << lane_number()) - 1u));
    if (pixel.index == NO_RAY && at < p.rays.n_rays) {
        pixel.index = ray_at(p, at);
        pixel.optical_depth = 0.f;
        Kept fresh = {};
        const bool sees = start_ray(fresh.ray, p.rays, pixel.index, p.bits, p.lattice, 0.5f);
        pixel.kept = fresh;
        if (sees) {
            const float *d = fresh.ray.direction;
            write_harmonics(pixel.harmonics_row, d[0], d[1], d[2]);
        } else {
            finish(p, pixel);
        }
    }
    return true;
}

// Moves every lane to its next sample; rays that end on the way make room for others. Returns the interval's length,
// 0 in an idle lane.
__device__ __forceinline__ float advance(const RenderFused &p, Pixel &pixel, bool &has_more) {
    float dt = 0.f;
    while (true) {
        if (pixel.index != NO_RAY && dt == 0.f) {
            Ray ray = pixel.kept.ray;
            Block block;
            dt = next_interval(ray, block, p.bits, p.lattice);
            pixel.kept.ray.t = ray.t;
            if (dt == 0.f) finish(p, pixel);
        }
        const u32 n_idle = (u32)__popc(lanes_where(pixel.index == NO_RAY));
        if (!has_more || n_idle < FETCH_FROM) return dt;
        has_more = fetch(p, pixel);
    }
}

KERNEL __launch_bounds__(MOST_THREADS, RENDER_BLOCKS) render_fused(const GRID_CONSTANT RenderFused p) {
    DYNAMIC_SHARED(shared);
    u32 *weights = (u32 *)shared;
    u32 *stage = weights + FORWARD_WORDS + warp_number() * RENDER_WARP_WORDS;
    u32 *directions = stage + STAGE_WORDS;
    const u32 lane = lane_number();
    float *logits = (float *)stage;  // takes the place of features that have been read
    copy_weights(weights, p.field.forward);
    Kept *kept = (Kept *)(directions + 32 * DIRECTION_STRIDE) + lane;
    Pixel pixel = {*kept, directions + lane * DIRECTION_STRIDE, 0.f, NO_RAY};
    write_harmonics(pixel.harmonics_row, 0.f, 0.f, 0.f);  // idle lanes compute too: with numbers, not with what was there
    bool has_more = true;
    while (true) {
        const float dt = advance(p, pixel, has_more);
        const bool is_live = pixel.index != NO_RAY;
        if (lanes_where(is_live) == 0) break;
        float x_unit[3] = {0.f, 0.f, 0.f};
        if (is_live) {
            const float middle = exact_add(kept->ray.t, 0.5f * dt);
#pragma unroll
            for (int axis = 0; axis < 3; axis++) {
                x_unit[axis] = to_unit(
                    exact_add(kept->ray.origin[axis], exact_multiply(middle, kept->ray.direction[axis])),
                    p.field.unit_scale
                );
            }
        }
        encode(stage + lane * STAGE_STRIDE, p.field.grid, x_unit);
        sync_warp();
        u32 geo[2][4];
        density_network(logits, geo, stage, weights);
        sync_warp();
        const float sigma = density_of(logits[lane * 4 + 3]);
        const float weight = is_live ? fast_exp(-pixel.optical_depth) * opacity_of(sigma * dt) : 0.f;
        const u32 visible = lanes_where(weight > FAINT);
#pragma unroll 1
        for (int tile = 0; tile < 2; tile++) {
            if (visible >> (16 * tile) & 0xffffu) color_network(logits, geo, directions, weights, tile);
        }
        sync_warp();
        if (weight > FAINT) {
#pragma unroll
            for (int c = 0; c < 3; c++) kept->color[c] += weight * color_of(logits[lane * 4 + c]);
        }
        if (is_live) {
            const float t = kept->ray.t;
            kept->depth += weight * (t + 0.5f * dt);
            kept->ray.t = exact_add(t, dt);
            pixel.optical_depth += sigma * dt;
            if (fast_exp(-pixel.optical_depth) < p.stop_transmittance) finish(p, pixel);
        }
        sync_warp();
    }
}

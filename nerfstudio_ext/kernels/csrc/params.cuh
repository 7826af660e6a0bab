// Arguments of the kernels: one struct per kernel, passed by value. `cuda_params.py` mirrors them field by field.
//
// Units and shapes: R rays, S samples, positions and distances in scene units. "seen" numbers index the list of samples
// that take part in the gradient; `S` is the room for samples, the counts in use live on the device.
#pragma once

#include "primitives.cuh"

constexpr int MAX_LEVELS = 16;

struct RayList {
    const float *origins;     // [R,3]
    const float *directions;  // [R,3], unit length
    const float *t_min;       // [R]
    const float *t_max;       // [R]
    u32 n_rays;
};

struct Bits {
    const u64 *words;  // [C, (G/4)^3], as `pack_bits` makes them
    u32 n_cascades;
    u32 grid_size;
};

struct Lattice {
    float step, cone_angle, max_step, near;
};

struct SampleList {
    const float *t_starts;  // [S]
    const float *t_ends;    // [S]
    const int *rays;        // [S]
    const u32 *count;       // [1] samples in use
};

struct HashGrid {
    const void *table;  // [rows][FEATURES], half precision
    u32 mask;           // rows of a hashed level - 1
    u32 dense_levels;   // bit l: level l stores all of its corners
    float scales[MAX_LEVELS];
    u32 extents[MAX_LEVELS];  // resolution + 1
    u32 offsets[MAX_LEVELS];  // first row
};

struct FieldView {
    HashGrid grid;
    const u32 *forward;   // matrices in fragment order, made by `pack_networks`
    const u32 *backward;  // their transposes; only for `field_backward`
    float unit_scale;     // 1 / edge of the field's cube
};

struct MarchCount {
    RayList rays;
    Bits bits;
    Lattice lattice;
    const float *jitter;  // [R]
    u32 max_samples;      // per ray
    u32 *counts;          // [R] out
};

struct ScanCounts {
    const u32 *counts;  // [n]
    u32 n;
    u32 capacity;      // a run that would pass it is dropped
    int *packed_info;  // [n,2] out: first, count; count = -1 where dropped
    u32 *totals;       // [3] out: sum of what was kept, runs dropped, sum of what was wanted
};

struct MarchWrite {
    RayList rays;
    Bits bits;
    Lattice lattice;
    const float *jitter;     // [R]
    const int *packed_info;  // [R,2]
    float *t_starts;         // [S] out
    float *t_ends;           // [S] out
    int *ray_indices;        // [S] out
};

struct FieldForward {
    FieldView field;
    RayList rays;
    SampleList samples;
    float *colors_sigmas;  // [S,4] out: r, g, b, sigma
    u32 *features;         // [S, FEATURE_WIDTH / 2] half pairs out, or null
};

struct FieldAlong {
    FieldView field;
    RayList rays;
    int *packed_info;       // [R,2]; counts are cut to what was evaluated
    const float *t_starts;  // [S]
    const float *t_ends;    // [S]
    float stop_transmittance;
    u32 *queue;            // [1] zero
    float *colors_sigmas;  // [S,4] out
    u32 *features;         // [S, FEATURE_WIDTH / 2] half pairs out
};

struct FieldDensity {
    FieldView field;
    const float *x;  // [n,3] world
    u32 n;
    float *sigmas;  // [n] out
};

struct StepLoss {
    const int *packed_info;      // [R,2]; count -1: the ray counts neither in loss nor gradient
    const float *t_starts;       // [S]
    const float *t_ends;         // [S]
    const float *colors_sigmas;  // [S,4]
    const float *target;         // [R,3]
    const float *background;     // [R,3]
    u32 n_rays;
    float stop_transmittance, huber, distortion, near_fade;
    float loss_scale;        // factor on all gradients
    float *logit_gradients;  // [S,4] out, seen samples only: d rgb logits, d density logit; times loss_scale
    float *ray_losses;       // [R,3] out: colour loss, squared error (both summed over channels), distortion
    u32 *seen_counts;        // [R] out: the first so many samples of the ray are seen
    float *outputs;          // [R,5] out or null: premultiplied r, g, b, depth, alpha
};

struct ListSeen {
    const int *packed_info;  // [R,2] of all samples
    const int *seen_info;    // [R,2] of the seen ones
    u32 n_rays;
    u32 *seen;  // [S] out: numbers of the seen samples
};

struct FieldBackward {
    FieldView field;
    RayList rays;
    SampleList samples;
    const u32 *features;           // [S, FEATURE_WIDTH / 2]
    const float *logit_gradients;  // [S,4]
    const u32 *seen;               // [S]
    const u32 *n_seen;             // [1]
    u32 *feature_gradients;        // [S, FEATURE_WIDTH / 2] half pairs out, in the order of `seen`; times loss_scale
    float *partials;               // [blocks, N_PARTIALS] out
    float *direction_gradients;    // [S,3] out or null, in the order of `seen`, times 1 / loss_scale
    float inverse_loss_scale;
};

struct ReduceNetworks {
    const float *partials;  // [n_blocks, N_PARTIALS]
    u32 n_blocks;
    float inverse_loss_scale;
    float *gradients;  // out: d1, d2, c1, c2, c3 one after another, each [in, out]
};

struct GridBackward {
    HashGrid grid;
    RayList rays;
    SampleList samples;
    const u32 *seen;               // [S]
    const u32 *n_seen;             // [1]
    const u32 *feature_gradients;  // [S, FEATURE_WIDTH / 2]
    float unit_scale;
    float inverse_loss_scale;
    float *table_gradients;     // [rows, FEATURES], added to; compiled with DETERMINISTIC: i64, see `table_to_float`
    float *position_gradients;  // [S,3] out or null (`grid_positions` only), in the order of `seen`, world units
};

struct TableToFloat {
    const i64 *fixed;  // [n] what `grid_backward` summed when compiled with DETERMINISTIC
    u32 n;
    float inverse_loss_scale;
    float *gradients;  // [n] out
};

struct PackNetworks {
    const float *d1, *d2, *c1, *c2, *c3;  // [in, out] each
    u32 *forward;                         // out
    u32 *backward;                        // out
};

struct CastTable {
    const float *table;  // [n]
    u32 *half_pairs;     // [n / 2] out
    u32 n;               // even
};

struct Adam {
    float *master;          // [n]
    float *gradient;        // [n], set to zero
    float *first, *second;  // [n] moments
    u32 *half_pairs;        // [n / 2] out or null
    u32 n;                  // even
    u32 skip_untouched;     // 1: leave entries whose gradient is exactly 0 as they are, moments included
    float beta1, beta2, eps;
    const float *clock;  // [4], see AdamClock
    const u32 *n_bad;    // [1]: when not 0 nothing but the gradient changes
};

struct AdamClock {
    float *clock;        // [4]: steps done, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), unused
    const float *rate;   // [1] learning rate
    const u32 *n_bad;    // [1]
    float beta1, beta2;
};

struct CountBad {
    const float *values;  // [n]
    u32 n;
    u32 *n_bad;  // [1], added to
};

struct RenderFused {
    FieldView field;
    RayList rays;
    Bits bits;
    Lattice lattice;
    float stop_transmittance;
    float background[3];
    u32 image_width, image_height;  // 0: rays in their order; else rays are rows of an image, taken in tiles of 8 x 4
    u32 *queue;                     // [1] zero
    const u32 *cancel;              // [1] or null: when it is not 0, no further rays are begun
    float *rgb;                     // [R,3] out
    float *depth;                   // [R] out
    float *alpha;                   // [R] out
};

struct OccRefresh {
    const float *density_grid;  // [n] (occ_decay)
    float *out;                 // [n]
    u32 n;
    float decay;
    const i64 *cells;     // [n_cells] (occ_raise)
    const float *sigmas;  // [n_cells]
    u32 n_cells;
};

struct OccPack {
    const float *density_grid;  // [C * G^3]
    const u64 *reachable;       // [n_words]
    u64 *words;                 // [n_words] out
    u32 n_words;
    u32 grid_size;
    float threshold;
};

struct OccSelect {
    const u64 *words;  // [n_words]
    i64 *population;   // [n_words] out of occ_population; its inclusive sums are the input of occ_select
    u32 n_words;
    u32 grid_size;
    const i64 *ranks;  // [n_ranks]
    i64 *cells;        // [n_ranks] out
    u32 n_ranks;
};

// The operations `weights_of` and `composite` in float, for any field.
struct Composite {
    const float *sigmas;     // [S]
    const float *rgbs;       // [S,3] or null
    const float *t_starts;   // [S]
    const float *t_ends;     // [S]
    const i64 *packed_info;  // [R,2]
    u32 n_rays;
    float *weights;              // [S] out or null
    float *rgb, *depth, *alpha;  // [R,3], [R], [R] out or null, all three
};

struct CompositeBackward {
    const float *sigmas, *rgbs, *t_starts, *t_ends;
    const i64 *packed_info;
    u32 n_rays;
    const float *d_weights;                // [S] or null
    const float *d_rgb, *d_depth, *d_alpha;  // [R,3], [R], [R] or null, all three
    float *d_sigmas;                       // [S] out
    float *d_rgbs;                         // [S,3] out or null
    float *d_starts, *d_ends;              // [S] out or null
};

struct RayBox {
    const float *origins, *directions;  // [R,3]
    const float *box;                   // [6]
    u32 n_rays;
    float *t_min, *t_max;  // [R] out
};

// The operation `hash_encode` in float.
struct HashEncode {
    HashGrid grid;              // its table holds floats
    const float *x_unit;        // [n,3]
    u32 n;
    float *features;            // [n, LEVELS * FEATURES] out of hash_forward
    const float *d_features;    // [n, LEVELS * FEATURES], into hash_backward and hash_positions
    float *table_gradients;     // [rows, FEATURES], added to by hash_backward; i64 when compiled with DETERMINISTIC
    float *position_gradients;  // [n,3] out of hash_positions
};

// Gradients of the networks: from those of the logits to those of the matrices and of the encoded features.
//
// A block takes 16 samples per warp at a time. Every warp repeats the forward pass of its samples and carries gradients
// back, in registers. The gradient of a matrix sums over all samples, so warps exchange the inputs and gradients of one
// layer at a time through shared memory and each adds up its own part of the matrix, in registers, over all tiles. What a
// block has summed goes to its row of `partials`: no atomics, and the same sums in every run.
#include "network.cuh"

#ifndef BACKWARD_WARPS
#define BACKWARD_WARPS 8
#endif

constexpr int ROWS = 16 * BACKWARD_WARPS;
__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int WIDEST = larger(larger(FEATURE_WIDTH, GEO + HARMONICS), larger(HIDDEN, COLOR_HIDDEN));
constexpr int ROW_STRIDE = WIDEST / 2 + 4;  // words; an odd number of 16 bytes: no bank conflicts
constexpr int N_FEATURES = LEVELS * FEATURES;
constexpr int PARTIAL_D1 = 0, PARTIAL_D2 = PARTIAL_D1 + N_FEATURES * HIDDEN, PARTIAL_C1 = PARTIAL_D2 + HIDDEN * GEO;
constexpr int PARTIAL_C2 = PARTIAL_C1 + (GEO + HARMONICS) * COLOR_HIDDEN;
constexpr int PARTIAL_C3 = PARTIAL_C2 + COLOR_HIDDEN * COLOR_HIDDEN, N_PARTIALS = PARTIAL_C3 + COLOR_HIDDEN * 3;

// A warp's part of the gradient of a matrix of K_TILES x N_TILES fragments: those with number warp, warp + 8, ...
template <int K_TILES, int N_TILES> struct MatrixGradient {
    static constexpr int COUNT = (K_TILES * N_TILES + BACKWARD_WARPS - 1) / BACKWARD_WARPS;
    float sums[COUNT][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < COUNT; i++) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.f;
    }

    // Adds inputs^T gradients, both [ROWS][..] halves in shared memory.
    __device__ __forceinline__ void add(const u32 *inputs, const u32 *gradients) {
        const int lane = (int)lane_number(), warp = (int)warp_number();
        const u32 *in = inputs + ((lane >> 4) * 8 + (lane & 7)) * ROW_STRIDE + (lane >> 3 & 1) * 4;
        const u32 *out = gradients + (lane & 15) * ROW_STRIDE;
#pragma unroll 2
        for (int rows = 0; rows < ROWS; rows += 16) {
            u32 b0 = 0, b1 = 0;
            if constexpr (BACKWARD_WARPS % N_TILES == 0) {  // all of the warp's fragments share their columns
                load_two_blocks_transposed(b0, b1, out + rows * ROW_STRIDE + warp % N_TILES * 4);
            }
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const int fragment = i * BACKWARD_WARPS + warp;
                if (fragment >= K_TILES * N_TILES) continue;
                u32 a[4];
                load_blocks_transposed(a, in + rows * ROW_STRIDE + fragment / N_TILES * 8);
                if constexpr (BACKWARD_WARPS % N_TILES != 0) {
                    load_two_blocks_transposed(b0, b1, out + rows * ROW_STRIDE + fragment % N_TILES * 4);
                }
                multiply_add(sums[i], a, b0, b1);
            }
        }
    }

    // Writes the part that is not padding to a matrix [n_in, n_out].
    __device__ __forceinline__ void write(float *matrix, int n_in, int n_out) const {
        const int lane = (int)lane_number();
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int fragment = i * BACKWARD_WARPS + (int)warp_number();
            if (fragment >= K_TILES * N_TILES) continue;
            const int row = fragment / N_TILES * 16 + (lane >> 2), column = fragment % N_TILES * 8 + (lane & 3) * 2;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int r = row + (j >> 1) * 8, c = column + (j & 1);
                if (r < n_in && c < n_out) matrix[r * n_out + c] = sums[i][j];
            }
        }
    }
};

// Puts a warp's 16 rows into its part of an exchange buffer.
template <int TILES> __device__ __forceinline__ void write_rows(u32 *buffer, const u32 (&tiles)[TILES][4]) {
    const u32 lane = lane_number();
    u32 *first = buffer + (warp_number() * 16 + (lane >> 2)) * ROW_STRIDE + (lane & 3u), *second = first + 8 * ROW_STRIDE;
#pragma unroll
    for (int k = 0; k < TILES; k++) {
        first[k * 8] = tiles[k][0], second[k * 8] = tiles[k][1];
        first[k * 8 + 4] = tiles[k][2], second[k * 8 + 4] = tiles[k][3];
    }
}

// One layer's part of all rows: exchanged, then added up.
template <int K_TILES, int N_TILES, int IN, int OUT>
__device__ __forceinline__ void add_layer(
    MatrixGradient<K_TILES, N_TILES> &matrix, u32 *buffers, const u32 (&inputs)[IN][4], const u32 (&gradients)[OUT][4]
) {
    u32 *other = buffers + ROWS * ROW_STRIDE;
    write_rows(buffers, inputs);
    write_rows(other, gradients);
    sync_block();
    matrix.add(buffers, other);
    sync_block();
}

// Gradients are not clamped: what does not fit a half is to be seen by the check of the step.
__device__ __forceinline__ void round_tile(u32 (&out)[4], const float (&left)[4], const float (&right)[4]) {
    out[0] = round_pair(left[0], left[1]), out[1] = round_pair(left[2], left[3]);
    out[2] = round_pair(right[0], right[1]), out[3] = round_pair(right[2], right[3]);
}

// Ones in the halves that ReLU let pass.
__device__ __forceinline__ u32 passed(u32 pair) {
    return (pair & 0x7fffu ? 0xffffu : 0u) | (pair & 0x7fff0000u ? 0xffff0000u : 0u);
}

// Gradient of a hidden layer's inputs to ReLU from that of the next layer's outputs.
template <int K_TILES, int N_TILES>
__device__ __forceinline__ void hidden_gradient(
    u32 (&out)[N_TILES / 2][4], const u32 (&in)[K_TILES][4], const u32 *weights, const u32 (&activations)[N_TILES / 2][4]
) {
#pragma unroll
    for (int pair = 0; pair < N_TILES / 2; pair++) {
        float left[4], right[4];
        two_columns<K_TILES, N_TILES>(left, right, in, weights, pair);
        round_tile(out[pair], left, right);
#pragma unroll
        for (int i = 0; i < 4; i++) out[pair][i] &= passed(activations[pair][i]);
    }
}

// What a warp knows of its 16 samples: lane / 4 and lane / 4 + 8 are its rows.
struct Rows {
    bool is_there[2];
    u32 sample[2], place[2];
    float4 gradient[2];
};

__device__ __forceinline__ Rows find_rows(const FieldBackward &p, u32 first, u32 n_seen) {
    Rows rows;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        rows.place[i] = first + warp_number() * 16 + (lane_number() >> 2) + i * 8;
        rows.is_there[i] = rows.place[i] < n_seen;
        rows.sample[i] = p.seen[min(rows.place[i], n_seen - 1)];
        rows.gradient[i] = rows.is_there[i] ? ((const float4 *)p.logit_gradients)[rows.sample[i]]
                                            : make_float4(0.f, 0.f, 0.f, 0.f);
    }
    return rows;
}

// Harmonics of the directions of a warp's samples, through its part of a buffer.
__device__ __forceinline__ void load_harmonics(u32 (&out)[4], const FieldBackward &p, u32 *buffer, u32 first, u32 n_seen) {
    const u32 lane = lane_number();
    u32 *rows = buffer + warp_number() * 16 * ROW_STRIDE;
    if (lane < 16) {
        const u32 place = min(first + warp_number() * 16 + lane, n_seen - 1);
        const float *d = p.rays.directions + 3 * p.samples.rays[p.seen[place]];
        write_harmonics(rows + lane * ROW_STRIDE, d[0], d[1], d[2]);
    }
    sync_warp();
    load_tile(out, rows, ROW_STRIDE, 0);
    sync_warp();
}

// Gradient of each sample's direction from that of the harmonics, which lies as the sums of two columns of tiles.
__device__ __forceinline__ void write_direction_gradients(
    const FieldBackward &p, u32 *buffer, const float (&left)[4], const float (&right)[4], u32 first, u32 n_seen
) {
    const u32 lane = lane_number(), column = (lane & 3u) * 2;
    float *rows = (float *)(buffer + warp_number() * 16 * ROW_STRIDE);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float *row = rows + ((lane >> 2) + i * 8) * 17 + column;
        row[0] = left[2 * i], row[1] = left[2 * i + 1], row[8] = right[2 * i], row[9] = right[2 * i + 1];
    }
    sync_warp();
    const u32 place = first + warp_number() * 16 + lane;
    if (lane < 16 && place < n_seen) {
        float g[16], gradient[3];
#pragma unroll
        for (int i = 0; i < 16; i++) g[i] = rows[lane * 17 + i];
        const float *d = p.rays.directions + 3 * p.samples.rays[p.seen[place]];
        harmonics_backward(gradient, g, d[0], d[1], d[2]);
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            p.direction_gradients[3 * place + axis] = gradient[axis] * p.inverse_loss_scale;
        }
    }
    sync_warp();
}

struct NetworkGradients {
    MatrixGradient<FEATURE_TILES, 2 * HIDDEN_TILES> d1;
    MatrixGradient<HIDDEN_TILES, 2> d2;
    MatrixGradient<2, 2 * COLOR_TILES> c1;
    MatrixGradient<COLOR_TILES, 2 * COLOR_TILES> c2;
    MatrixGradient<COLOR_TILES, 1> c3;
};

// The colour network back to `d_geo`, the gradient of what the density network gave.
__device__ __forceinline__ void color_backward(
    u32 (&d_geo)[1][4], NetworkGradients &sums, const FieldBackward &p, u32 *buffers, const u32 (&color_in)[2][4],
    const Rows &rows, u32 first, u32 n_seen
) {
    u32 d_wide[COLOR_TILES][4];
    u32 wide[COLOR_TILES][4];
    relu_layer<2, 2 * COLOR_TILES>(wide, color_in, p.field.forward + FORWARD_C1);
    {
        u32 wider[COLOR_TILES][4], d_wider[COLOR_TILES][4], d_logits[1][4] = {{0, 0, 0, 0}};
        relu_layer<COLOR_TILES, 2 * COLOR_TILES>(wider, wide, p.field.forward + FORWARD_C2);
        const u32 column = lane_number() & 3u;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (column == 0) d_logits[0][i] = round_pair(rows.gradient[i].x, rows.gradient[i].y);
            if (column == 1) d_logits[0][i] = round_pair(rows.gradient[i].z, 0.f);
        }
        add_layer(sums.c3, buffers, wider, d_logits);
        hidden_gradient<1, 2 * COLOR_TILES>(d_wider, d_logits, p.field.backward + BACKWARD_C3, wider);
        add_layer(sums.c2, buffers, wide, d_wider);
        hidden_gradient<COLOR_TILES, 2 * COLOR_TILES>(d_wide, d_wider, p.field.backward + BACKWARD_C2, wide);
    }
    add_layer(sums.c1, buffers, color_in, d_wide);
    float left[4], right[4];
    two_columns<COLOR_TILES, 4>(left, right, d_wide, p.field.backward + BACKWARD_C1, 0);
    if ((lane_number() & 3u) == 0) left[0] += rows.gradient[0].w, left[2] += rows.gradient[1].w;
    round_tile(d_geo[0], left, right);
    if (p.direction_gradients) {
        two_columns<COLOR_TILES, 4>(left, right, d_wide, p.field.backward + BACKWARD_C1, 1);
        write_direction_gradients(p, buffers, left, right, first, n_seen);
    }
}

__device__ __forceinline__ void write_feature_gradients(
    const FieldBackward &p, const u32 (&d_hidden)[HIDDEN_TILES][4], const Rows &rows
) {
#pragma unroll
    for (int pair = 0; pair < FEATURE_TILES; pair++) {
        float left[4], right[4];
        two_columns<HIDDEN_TILES, 2 * FEATURE_TILES>(left, right, d_hidden, p.field.backward + BACKWARD_D1, pair);
        u32 words[4];
        round_tile(words, left, right);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (!rows.is_there[i]) continue;
            u32 *out = p.feature_gradients + (u64)rows.place[i] * (FEATURE_WIDTH / 2) + pair * 8 + (lane_number() & 3u);
            out[0] = words[i], out[4] = words[i + 2];
        }
    }
}

KERNEL __launch_bounds__(BACKWARD_WARPS * 32, 1) field_backward(const GRID_CONSTANT FieldBackward p) {
    DYNAMIC_SHARED(shared);
    u32 *buffers = (u32 *)shared;
    const u32 n_seen = *p.n_seen, word = lane_number() & 3u;
    NetworkGradients sums;
    sums.d1.clear(), sums.d2.clear(), sums.c1.clear(), sums.c2.clear(), sums.c3.clear();
#pragma unroll 1
    for (u32 first = blockIdx.x * ROWS; first < n_seen; first += gridDim.x * ROWS) {
        const Rows rows = find_rows(p, first, n_seen);
        u32 features[FEATURE_TILES][4], hidden[HIDDEN_TILES][4], d_hidden[HIDDEN_TILES][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u32 *row = p.features + (u64)rows.sample[i] * (FEATURE_WIDTH / 2) + word;
#pragma unroll
            for (int k = 0; k < FEATURE_TILES; k++) features[k][i] = row[k * 8], features[k][i + 2] = row[k * 8 + 4];
        }
        relu_layer<FEATURE_TILES, 2 * HIDDEN_TILES>(hidden, features, p.field.forward + FORWARD_D1);
        u32 color_in[2][4], d_geo[1][4];
        float logit[2];
        geo_layer(color_in[0], logit, hidden, p.field.forward + FORWARD_D2);
        load_harmonics(color_in[1], p, buffers, first, n_seen);
        color_backward(d_geo, sums, p, buffers, color_in, rows, first, n_seen);
        add_layer(sums.d2, buffers, hidden, d_geo);
        hidden_gradient<1, 2 * HIDDEN_TILES>(d_hidden, d_geo, p.field.backward + BACKWARD_D2, hidden);
        add_layer(sums.d1, buffers, features, d_hidden);
        write_feature_gradients(p, d_hidden, rows);
    }
    float *partial = p.partials + (u64)blockIdx.x * N_PARTIALS;
    sums.d1.write(partial + PARTIAL_D1, N_FEATURES, HIDDEN);
    sums.d2.write(partial + PARTIAL_D2, HIDDEN, GEO);
    sums.c1.write(partial + PARTIAL_C1, GEO + HARMONICS, COLOR_HIDDEN);
    sums.c2.write(partial + PARTIAL_C2, COLOR_HIDDEN, COLOR_HIDDEN);
    sums.c3.write(partial + PARTIAL_C3, COLOR_HIDDEN, 3);
}

KERNEL __launch_bounds__(256) reduce_networks(const GRID_CONSTANT ReduceNetworks p) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= N_PARTIALS) return;
    float sum = 0.f;
#pragma unroll 8
    for (u32 block = 0; block < p.n_blocks; block++) sum += p.partials[(u64)block * N_PARTIALS + at];
    p.gradients[at] = sum * p.inverse_loss_scale;
}

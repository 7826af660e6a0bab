// The small networks on tensor cores: a warp takes its 32 samples through all layers in two tiles of 16.
//
// Between layers nothing leaves the registers: the sums of a layer lie just as the next one wants its inputs. Matrices
// are stored in the order of the fragments, so that a lane reads 16 bytes and neighbours read neighbours.
#pragma once

#include "encode.cuh"

#ifndef HIDDEN
#define HIDDEN 64
#endif
#ifndef COLOR_HIDDEN
#define COLOR_HIDDEN 64
#endif

constexpr int GEO = 16;        // outputs of the density network; the first is the density logit
constexpr int HARMONICS = 16;  // of the view direction, beside GEO the inputs of the colour network
constexpr int DIRECTION_STRIDE = 12;  // words of a row of harmonics: 8 and a gap against bank conflicts
constexpr float DENSITY_LOGIT_MAX = 15.f, COLOR_LOGIT_MAX = 20.f;

static_assert(HIDDEN % 16 == 0 && COLOR_HIDDEN % 16 == 0 && HIDDEN <= 128 && COLOR_HIDDEN <= 128, "network widths");

// Words of a matrix [16 * k_tiles, 8 * n_tiles] in fragment order.
__host__ __device__ constexpr int fragment_words(int k_tiles, int n_tiles) { return 64 * k_tiles * n_tiles; }

constexpr int FEATURE_TILES = FEATURE_WIDTH / 16, HIDDEN_TILES = HIDDEN / 16, COLOR_TILES = COLOR_HIDDEN / 16;
constexpr int FORWARD_D1 = 0;
constexpr int FORWARD_D2 = FORWARD_D1 + fragment_words(FEATURE_TILES, 2 * HIDDEN_TILES);
constexpr int FORWARD_C1 = FORWARD_D2 + fragment_words(HIDDEN_TILES, 2);
constexpr int FORWARD_C2 = FORWARD_C1 + fragment_words(2, 2 * COLOR_TILES);
constexpr int FORWARD_C3 = FORWARD_C2 + fragment_words(COLOR_TILES, 2 * COLOR_TILES);
constexpr int FORWARD_WORDS = FORWARD_C3 + fragment_words(COLOR_TILES, 1);
// The transposes; d1 gives FEATURE_WIDTH columns, c1 all 32, the three colours are padded to 16 rows.
constexpr int BACKWARD_D1 = 0;
constexpr int BACKWARD_D2 = BACKWARD_D1 + fragment_words(HIDDEN_TILES, 2 * FEATURE_TILES);
constexpr int BACKWARD_C1 = BACKWARD_D2 + fragment_words(1, 2 * HIDDEN_TILES);
constexpr int BACKWARD_C2 = BACKWARD_C1 + fragment_words(COLOR_TILES, 4);
constexpr int BACKWARD_C3 = BACKWARD_C2 + fragment_words(COLOR_TILES, 2 * COLOR_TILES);
constexpr int BACKWARD_WORDS = BACKWARD_C3 + fragment_words(1, 2 * COLOR_TILES);

// Two columns of tiles: outputs 16 * pair .. + 15 of a layer, from inputs of K_TILES tiles.
template <int K_TILES, int N_TILES>
__device__ __forceinline__ void two_columns(
    float (&left)[4], float (&right)[4], const u32 (&in)[K_TILES][4], const u32 *weights, int pair
) {
#pragma unroll
    for (int i = 0; i < 4; i++) left[i] = right[i] = 0.f;
    const uint4 *fragments = (const uint4 *)weights + lane_number();
#pragma unroll
    for (int k = 0; k < K_TILES; k++) {
        const uint4 b = fragments[(k * (N_TILES / 2) + pair) * 32];
        multiply_add(left, in[k], b.x, b.y);
        multiply_add(right, in[k], b.z, b.w);
    }
}

// A layer with ReLU: the sums become inputs of the next layer.
template <int K_TILES, int N_TILES>
__device__ __forceinline__ void relu_layer(
    u32 (&out)[N_TILES / 2][4], const u32 (&in)[K_TILES][4], const u32 *weights
) {
#pragma unroll
    for (int pair = 0; pair < N_TILES / 2; pair++) {
        float left[4], right[4];
        two_columns<K_TILES, N_TILES>(left, right, in, weights, pair);
        out[pair][0] = pack_relu(left[0], left[1]);
        out[pair][1] = pack_relu(left[2], left[3]);
        out[pair][2] = pack_relu(right[0], right[1]);
        out[pair][3] = pack_relu(right[2], right[3]);
    }
}

// The last density layer: `geo` as inputs of the colour network; the logits of rows lane / 4 and lane / 4 + 8 in
// `logit`, meaningful in every fourth lane.
__device__ __forceinline__ void geo_layer(
    u32 (&geo)[4], float (&logit)[2], const u32 (&hidden)[HIDDEN_TILES][4], const u32 *weights
) {
    float left[4], right[4];
    two_columns<HIDDEN_TILES, 2>(left, right, hidden, weights, 0);
    logit[0] = left[0], logit[1] = left[2];
    geo[0] = pack_pair(left[0], left[1]);
    geo[1] = pack_pair(left[2], left[3]);
    geo[2] = pack_pair(right[0], right[1]);
    geo[3] = pack_pair(right[2], right[3]);
}

// The last colour layer: one column of tiles, three of its eight outputs used.
__device__ __forceinline__ void logit_layer(float (&logits)[4], const u32 (&in)[COLOR_TILES][4], const u32 *weights) {
#pragma unroll
    for (int i = 0; i < 4; i++) logits[i] = 0.f;
    const uint2 *fragments = (const uint2 *)weights + lane_number();
#pragma unroll
    for (int k = 0; k < COLOR_TILES; k++) {
        const uint2 b = fragments[k * 32];
        multiply_add(logits, in[k], b.x, b.y);
    }
}

// Tile `tile` of K_TILES from 16 rows of a stage, as inputs of a layer.
__device__ __forceinline__ void load_tile(u32 (&out)[4], const u32 *rows, int stride, int tile) {
    const u32 lane = lane_number();
    load_blocks(out, rows + (lane & 15u) * stride + tile * 8 + (lane >> 4) * 4);
}

// The density network on a warp's 32 samples, whose features lie in `stage`: density logits to logits[sample][3] in shared
// memory, and what the colour network takes from it, per tile of 16 samples.
__device__ __forceinline__ void density_network(float *logits, u32 (&geo)[2][4], const u32 *stage, const u32 *weights) {
    float *first = logits + (lane_number() >> 2) * 4 + 3;
#pragma unroll
    for (int tile = 0; tile < 2; tile++) {
        u32 features[FEATURE_TILES][4], hidden[HIDDEN_TILES][4];
        float logit[2];
#pragma unroll
        for (int k = 0; k < FEATURE_TILES; k++) {
            load_tile(features[k], stage + tile * 16 * STAGE_STRIDE, STAGE_STRIDE, k);
        }
        relu_layer<FEATURE_TILES, 2 * HIDDEN_TILES>(hidden, features, weights + FORWARD_D1);
        geo_layer(geo[tile], logit, hidden, weights + FORWARD_D2);
        // These rows of logits lie over features of the first tile only, which have been read.
        if ((lane_number() & 3u) == 0) first[tile * 64] = logit[0], first[tile * 64 + 32] = logit[1];
    }
}

// The colour network on one tile: colour logits to logits[sample][0 .. 2]. `directions`: rows of 16 harmonics. Call it in
// a loop that is not unrolled: two copies would cost registers and half of the instruction cache.
__device__ __forceinline__ void color_network(
    float *logits, const u32 (&geo)[2][4], const u32 *directions, const u32 *weights, int tile
) {
    u32 in[2][4], wide[COLOR_TILES][4], wider[COLOR_TILES][4];
#pragma unroll
    for (int i = 0; i < 4; i++) in[0][i] = tile ? geo[1][i] : geo[0][i];
    load_tile(in[1], directions + tile * 16 * DIRECTION_STRIDE, DIRECTION_STRIDE, 0);
    relu_layer<2, 2 * COLOR_TILES>(wide, in, weights + FORWARD_C1);
    relu_layer<COLOR_TILES, 2 * COLOR_TILES>(wider, wide, weights + FORWARD_C2);
    float sums[4];
    logit_layer(sums, wider, weights + FORWARD_C3);
    float *first = logits + (tile * 16 + (lane_number() >> 2)) * 4, *second = first + 8 * 4;
    const u32 column = lane_number() & 3u;
    if (column == 0) first[0] = sums[0], first[1] = sums[1], second[0] = sums[2], second[1] = sums[3];
    if (column == 1) first[2] = sums[0], second[2] = sums[2];
}

__device__ __forceinline__ float density_of(float logit) {
    return fast_exp(fminf(fmaxf(logit, -DENSITY_LOGIT_MAX), DENSITY_LOGIT_MAX));
}

// 1 - exp(-depth); the series keeps the thin ones, which the difference would lose.
__device__ __forceinline__ float opacity_of(float depth) {
    return depth < 1e-2f ? depth * (1.f - depth * (0.5f - depth * (1.f / 6.f))) : 1.f - fast_exp(-depth);
}

__device__ __forceinline__ float color_of(float logit) {
    return fast_divide(1.f, 1.f + fast_exp(-fminf(fmaxf(logit, -COLOR_LOGIT_MAX), COLOR_LOGIT_MAX)));
}

// The harmonics of a direction as 16 halves.
__device__ __forceinline__ void write_harmonics(u32 *row, float x, float y, float z) {
    float values[16];
    harmonics(values, x, y, z);
    u32 words[8];
#pragma unroll
    for (int i = 0; i < 8; i++) words[i] = pack_pair(values[2 * i], values[2 * i + 1]);
    ((uint4 *)row)[0] = make_uint4(words[0], words[1], words[2], words[3]);
    ((uint4 *)row)[1] = make_uint4(words[4], words[5], words[6], words[7]);
}

// Brings the forward matrices into shared memory, once per block.
__device__ __forceinline__ void copy_weights(u32 *shared, const u32 *weights) {
    for (u32 i = threadIdx.x; i < FORWARD_WORDS / 4; i += blockDim.x) {
        ((uint4 *)shared)[i] = __ldg((const uint4 *)weights + i);
    }
    sync_block();
}

// Rounds the matrices to halves and puts them into the order of the fragments, forward and transposed.
#include "network.cuh"

struct Matrix {
    const float *values;  // [n_in, n_out]
    int n_in, n_out;
};

__device__ __forceinline__ float element(const Matrix &m, int row, int column, bool is_transposed) {
    const int from = is_transposed ? column : row, to = is_transposed ? row : column;
    return from < m.n_in && to < m.n_out ? m.values[from * m.n_out + to] : 0.f;
}

// Word `at` of a matrix in fragment order: two rows of one column. `n_tiles` columns of tiles, one or an even number.
__device__ __forceinline__ u32 fragment_word(const Matrix &m, int at, int n_tiles, bool is_transposed) {
    const int words_per_lane = n_tiles == 1 ? 2 : 4;
    const int word = at % words_per_lane, lane = at / words_per_lane % 32, block = at / words_per_lane / 32;
    const int pairs = n_tiles == 1 ? 1 : n_tiles / 2;
    const int k_tile = block / pairs, n_tile = block % pairs * (words_per_lane / 2) + word / 2;
    const int row = k_tile * 16 + (word & 1) * 8 + (lane & 3) * 2, column = n_tile * 8 + (lane >> 2);
    return pack_pair(element(m, row, column, is_transposed), element(m, row + 1, column, is_transposed));
}

KERNEL __launch_bounds__(256) pack_networks(const GRID_CONSTANT PackNetworks p) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    const Matrix d1 = {p.d1, LEVELS * FEATURES, HIDDEN}, d2 = {p.d2, HIDDEN, GEO};
    const Matrix c1 = {p.c1, GEO + HARMONICS, COLOR_HIDDEN}, c2 = {p.c2, COLOR_HIDDEN, COLOR_HIDDEN};
    const Matrix c3 = {p.c3, COLOR_HIDDEN, 3};
    if (at < FORWARD_WORDS) {
        u32 word;
        if (at < FORWARD_D2) word = fragment_word(d1, at, 2 * HIDDEN_TILES, false);
        else if (at < FORWARD_C1) word = fragment_word(d2, at - FORWARD_D2, 2, false);
        else if (at < FORWARD_C2) word = fragment_word(c1, at - FORWARD_C1, 2 * COLOR_TILES, false);
        else if (at < FORWARD_C3) word = fragment_word(c2, at - FORWARD_C2, 2 * COLOR_TILES, false);
        else word = fragment_word(c3, at - FORWARD_C3, 1, false);
        p.forward[at] = word;
    }
    if (at < BACKWARD_WORDS && p.backward) {
        u32 word;
        if (at < BACKWARD_D2) word = fragment_word(d1, at, 2 * FEATURE_TILES, true);
        else if (at < BACKWARD_C1) word = fragment_word(d2, at - BACKWARD_D2, 2 * HIDDEN_TILES, true);
        else if (at < BACKWARD_C2) word = fragment_word(c1, at - BACKWARD_C1, 4, true);
        else if (at < BACKWARD_C3) word = fragment_word(c2, at - BACKWARD_C2, 2 * COLOR_TILES, true);
        else word = fragment_word(c3, at - BACKWARD_C3, 2 * COLOR_TILES, true);
        p.backward[at] = word;
    }
}

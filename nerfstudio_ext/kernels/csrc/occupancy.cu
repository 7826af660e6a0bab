// Upkeep of the occupancy grid: decay, raising the cells that were looked at, packing into bits, picking cells by rank.
// Layouts are those of `pack_bits`: one 64-bit word per block of 4 x 4 x 4 cells.
#include "params.cuh"

KERNEL __launch_bounds__(256) occ_decay(const GRID_CONSTANT OccRefresh p) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n) p.out[i] = p.density_grid[i] * p.decay;
}

// The order of the raises does not matter: bits of floats of one sign are ordered as the floats are.
KERNEL __launch_bounds__(256) occ_raise(const GRID_CONSTANT OccRefresh p) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n_cells) return;
    const float sigma = p.sigmas[i] == p.sigmas[i] ? p.sigmas[i] : 0.f;  // what is no number counts as empty
    float *cell = p.out + p.cells[i];
    if (sigma >= 0.f) atomicMax((int *)cell, __float_as_int(sigma + 0.f));  // + 0: minus zero would be the least of all
    else atomicMin((u32 *)cell, __float_as_uint(sigma));
}

// A warp per word: each lane looks at two cells, of the lower and of the upper half of the block.
KERNEL __launch_bounds__(256) occ_pack(const GRID_CONSTANT OccPack p) {
    const u32 index = blockIdx.x * (blockDim.x / 32) + warp_number(), lane = lane_number();
    if (index >= p.n_words) return;
    const u64 allowed = p.reachable[index];
    u64 word = 0;
    if (allowed != 0) {
        const u32 size = p.grid_size, blocks = size / 4;
        const u32 x = index % blocks * 4 + (lane & 3u), y = index / blocks % blocks * 4 + (lane >> 2 & 3u);
        const u32 z = index / (blocks * blocks) * 4 + (lane >> 4);  // counts through all cascades
        const u64 at = ((u64)z * size + y) * size + x;
        const u32 low = lanes_where(p.density_grid[at] > p.threshold);
        const u32 high = lanes_where(p.density_grid[at + 2ull * size * size] > p.threshold);
        word = ((u64)high << 32 | low) & allowed;
    }
    if (lane == 0) p.words[index] = word;
}

KERNEL __launch_bounds__(256) occ_population(const GRID_CONSTANT OccSelect p) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n_words) p.population[i] = (i64)__popcll(p.words[i]);
}

// `population` holds inclusive sums here: the word of a rank is the first whose sum is above it.
KERNEL __launch_bounds__(256) occ_select(const GRID_CONSTANT OccSelect p) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n_ranks) return;
    const i64 rank = p.ranks[i];
    u32 low = 0, high = p.n_words - 1;
    while (low < high) {
        const u32 middle = low + (high - low) / 2;
        if (p.population[middle] > rank) high = middle;
        else low = middle + 1;
    }
    u64 word = p.words[low];
    i64 skip = rank - (p.population[low] - (i64)__popcll(word));
    while (skip-- > 0) word &= word - 1;  // drops the lowest bit
    const u32 bit = (u32)__popcll((word & (0 - word)) - 1);
    const u32 size = p.grid_size, blocks = size / 4;
    const u32 x = low % blocks * 4 + (bit & 3u), y = low / blocks % blocks * 4 + (bit >> 2 & 3u);
    const u32 z = low / (blocks * blocks) * 4 + (bit >> 4);
    p.cells[i] = ((i64)z * size + y) * size + x;
}

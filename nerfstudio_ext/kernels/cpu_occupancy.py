"""Upkeep of the occupancy grid: decay, packing into bits, and picking cells by rank."""

from __future__ import annotations

import numba as nb
import numpy as np
import torch
from torch import Tensor

from .layouts import BLOCK

CHUNK = 1 << 16
ONE_BIT = np.uint64(1)


def occ_refresh(density_grid: Tensor, cells: Tensor, sigmas: Tensor, decay: float, out: Tensor) -> Tensor:
    """See `kernels.occ_refresh`."""
    _decay(density_grid.detach().contiguous().numpy(), np.float32(decay), out.numpy())
    _raise_cells(out.numpy(), *(t.detach().contiguous().numpy() for t in (cells, sigmas)))
    return out


def occ_pack(density_grid: Tensor, reachable: Tensor, grid_size: int, threshold: float) -> Tensor:
    """See `kernels.occ_pack`."""
    words = torch.empty(reachable.shape, dtype=torch.int64)
    allowed, found = (t.contiguous().numpy().view(np.uint64).reshape(-1) for t in (reachable, words))
    _pack(density_grid.detach().contiguous().numpy(), allowed, grid_size, np.float32(threshold), found)
    return words


def occ_select(words: Tensor, grid_size: int, ranks: Tensor) -> Tensor:
    """See `kernels.occ_select`."""
    out = torch.empty(len(ranks), dtype=torch.int64)
    flat = words.contiguous().numpy().view(np.uint64).reshape(-1)
    _select(flat, grid_size, ranks.contiguous().numpy(), out.numpy())
    return out


@nb.njit(nogil=True, parallel=True, cache=True)
def _decay(grid, decay, out):
    n = grid.shape[0]
    for chunk in nb.prange((n + CHUNK - 1) // CHUNK):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            out[i] = grid[i] * decay


@nb.njit(nogil=True, cache=True)
def _raise_cells(grid, cells, sigmas):
    for i in range(cells.shape[0]):
        if sigmas[i] > grid[cells[i]]:  # False for NaN
            grid[cells[i]] = sigmas[i]


@nb.njit(nogil=True, parallel=True, cache=True)
def _pack(grid, reachable, grid_size, threshold, words):
    blocks = grid_size // BLOCK
    for row in nb.prange(words.shape[0] // blocks):  # one row of blocks along x
        by, slab = row % blocks, row // blocks  # `slab` counts blocks along z through all cascades
        for bx in range(blocks):
            allowed = reachable[row * blocks + bx]
            words[row * blocks + bx] = np.uint64(0)
            if allowed == np.uint64(0):
                continue
            word = np.uint64(0)
            for z in range(BLOCK):
                for y in range(BLOCK):
                    start = ((slab * BLOCK + z) * grid_size + by * BLOCK + y) * grid_size + bx * BLOCK
                    for x in range(BLOCK):
                        word |= np.uint64(grid[start + x] > threshold) << np.uint64((z * BLOCK + y) * BLOCK + x)
            words[row * blocks + bx] = word & allowed


@nb.njit(nogil=True, inline="always")
def _population(word):
    """Bits set in a word: pairs, nibbles, bytes are summed side by side."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@nb.njit(nogil=True, cache=True)
def _select(words, grid_size, ranks, out):
    blocks = grid_size // BLOCK
    n_ranks = ranks.shape[0]
    done, passed = 0, 0
    for index in range(words.shape[0]):
        word = words[index]
        count = np.int64(_population(word))
        if done == n_ranks:
            break
        if ranks[done] >= passed + count:
            passed += count
            continue
        bx, by, slab = index % blocks, index // blocks % blocks, index // (blocks * blocks)
        bit, seen = np.int64(-1), passed - 1
        while done < n_ranks and ranks[done] < passed + count:
            while seen < ranks[done]:
                bit += 1
                seen += np.int64((word >> np.uint64(bit)) & ONE_BIT)
            x, y, z = bit % BLOCK, bit // BLOCK % BLOCK, bit // (BLOCK * BLOCK)
            out[done] = ((slab * BLOCK + z) * grid_size + by * BLOCK + y) * grid_size + bx * BLOCK + x
            done += 1
        passed += count

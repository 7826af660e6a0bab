"""Small matrix products for network layers: C (+)= A B with B and C in rows of whole 16-float vectors."""

from __future__ import annotations

import numba as nb

from .cpu_simd import HAS_WIDE_REGISTERS, LANES, make_tile

TALL, SHORT = (12, 4) if HAS_WIDE_REGISTERS else (4, 2)
"""Rows of a register tile: 12 x 2 vectors and their operands fill 32 registers; 4 x 1 split vectors fill 16."""


def _compiled(function, *variant):
    """The function compiled under a name of its own.

    Numba's symbols are made of a function's name and a number that counts anew in each process. Two variants of one
    name would meet where one comes from the cache and the other is compiled: the linker then takes the wrong one.
    """
    function.__qualname__ = "_".join(map(str, (function.__name__, *variant)))
    return nb.njit(nogil=True)(function)


def _make_panel(rows, add, relu):
    """A function that computes `rows` rows of C over all columns."""
    pair = make_tile(rows, 2, add=add, relu=relu)
    one = make_tile(rows, 1, add=add, relu=relu)

    def panel(a, a_at, a_row, a_col, b, b_at, b_row, c, c_at, c_row, columns, depth):
        column = 0
        while column + 2 * LANES <= columns:
            pair(a, a_at, a_row, a_col, b, b_at + column, b_row, c, c_at + column, c_row, depth)
            column += 2 * LANES
        if column < columns:
            one(a, a_at, a_row, a_col, b, b_at + column, b_row, c, c_at + column, c_row, depth)

    return _compiled(panel, rows, add, relu)


def _make_gemm(*, add=False, relu=False):
    tall, short, single = (_make_panel(rows, add, relu) for rows in (TALL, SHORT, 1))

    def gemm(a, a_at, a_row, a_col, b, b_at, b_row, c, c_at, c_row, rows, columns, depth):
        i = 0
        while i + TALL <= rows:
            tall(a, a_at + i * a_row, a_row, a_col, b, b_at, b_row, c, c_at + i * c_row, c_row, columns, depth)
            i += TALL
        while i + SHORT <= rows:
            short(a, a_at + i * a_row, a_row, a_col, b, b_at, b_row, c, c_at + i * c_row, c_row, columns, depth)
            i += SHORT
        while i < rows:
            single(a, a_at + i * a_row, a_row, a_col, b, b_at, b_row, c, c_at + i * c_row, c_row, columns, depth)
            i += 1

    return _compiled(gemm, add, relu)


gemm = _make_gemm()
"""C = A B. Arguments: a, a_at, a_row, a_col, b, b_at, b_row, c, c_at, c_row, rows, columns, depth; see `make_tile`."""
gemm_add = _make_gemm(add=True)
"""C += A B; arguments as `gemm`."""
gemm_relu = _make_gemm(relu=True)
"""C = max(A B, 0); arguments as `gemm`."""

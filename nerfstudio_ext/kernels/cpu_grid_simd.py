"""Sixteen positions at a time through one level of a hash grid: corner indices, weights, gather, scatter.

Source: multiresolution hash encoding of Mueller et al. 2022, section 3; the layout is `layouts.GridLayout`.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .cpu_simd import IVEC, LANES, VEC, array_data, call_unary, fma, splat, vector_load, vector_store

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
PRIMES = (1, 2654435761, 805459861)
N_CORNERS = 8


def _constant(value: int):
    return ir.Constant(IVEC, [value] * LANES)


def _cell(builder, position, scale):
    """Integer cell and fraction of positions along one axis, on a level of the given scale."""
    half = ir.Constant(VEC, [0.5] * LANES)
    scaled = fma(builder, position, scale, half)
    lower = call_unary(builder, "llvm.floor", scaled)
    return builder.fptosi(lower, IVEC), builder.fsub(scaled, lower)


def _corner_weights(builder, fractions):
    """Trilinear weights of the 8 corners; bit 0 of the corner is x, bit 1 y, bit 2 z."""
    one = ir.Constant(VEC, [1.0] * LANES)
    pairs = [(builder.fsub(one, f), f) for f in fractions]
    planes = [builder.fmul(pairs[0][c & 1], pairs[1][c >> 1]) for c in range(4)]
    return [builder.fmul(planes[c & 3], pairs[2][c >> 2]) for c in range(N_CORNERS)]


def _dense_indices(builder, cells, stride):
    y_stride = splat(builder, stride, IVEC)
    z_stride = builder.mul(y_stride, y_stride)
    base = builder.add(cells[0], builder.add(builder.mul(cells[1], y_stride), builder.mul(cells[2], z_stride)))
    zero = _constant(0)
    indices = []
    for c in range(N_CORNERS):
        step = builder.add(y_stride if c & 2 else zero, z_stride if c & 4 else zero)
        indices.append(builder.add(builder.add(base, step), _constant(c & 1)))
    return indices


def _hashed_indices(builder, cells, mask):
    mask = splat(builder, mask, IVEC)
    terms = []
    for cell, prime in zip(cells, PRIMES, strict=True):
        lower = builder.mul(cell, _constant(prime))
        terms.append((lower, builder.add(lower, _constant(prime))))
    return [
        builder.and_(builder.xor(builder.xor(terms[0][c & 1], terms[1][(c >> 1) & 1]), terms[2][c >> 2]), mask)
        for c in range(N_CORNERS)
    ]


def _gather_pairs(builder, base, indices):
    """Two vectors: the first and the second float of the 16 table rows at `indices`.

    Sixteen eight-byte loads: the gather instruction is three times slower where it is patched against
    data sampling, and no faster elsewhere.
    """
    wide = ir.VectorType(_I64, LANES)
    rows = ir.Constant(wide, ir.Undefined)
    pairs = builder.bitcast(base, _I64.as_pointer())
    for lane in range(LANES):
        position = ir.Constant(_I32, lane)
        offset = builder.zext(builder.extract_element(indices, position), _I64)
        rows = builder.insert_element(rows, builder.load(builder.gep(pairs, [offset]), align=4), position)
    flat = builder.bitcast(rows, ir.VectorType(_F32, 2 * LANES))
    undef = ir.Constant(flat.type, ir.Undefined)
    even = ir.Constant(IVEC, list(range(0, 2 * LANES, 2)))
    odd = ir.Constant(IVEC, list(range(1, 2 * LANES, 2)))
    return builder.shuffle_vector(flat, undef, even), builder.shuffle_vector(flat, undef, odd)


def _load_cells(builder, positions, at, scale):
    """Cells and fractions of 16 positions stored as three rows of `positions` [3, capacity]."""
    pointer, row = positions
    axes = [
        vector_load(builder, builder.gep(pointer, [builder.add(builder.mul(ir.Constant(_I64, k), row), at)]))
        for k in range(3)
    ]
    return zip(*(_cell(builder, axis, scale) for axis in axes), strict=True)


def make_encode(dense: bool):
    """Make `encode(positions, at, scale, extent, table, level_at, out, out_at)` for 16 positions and F = 2.

    `positions` is float32 [3, capacity] in the unit cube, `at` the first column. `extent` is the row length of
    a dense level or the mask of a hashed one (int32). `table` is the flat table, `level_at` the level's first
    row. Writes `out[out_at : +16]` and the same range of the next row of `out` [rows, capacity].
    """

    @intrinsic
    def encode(typingctx, positions, at, scale, extent, table, level_at, out, out_at, out_row):
        i64 = types.int64
        signature = types.void(positions, i64, types.float32, types.int32, table, i64, out, i64, i64)

        def codegen(context, builder, signature, args):
            array = context.make_array(signature.args[0])(context, builder, args[0])
            row = builder.extract_value(array.shape, 1)
            cells, fractions = _load_cells(builder, (array.data, row), args[1], splat(builder, args[2]))
            make_indices = _dense_indices if dense else _hashed_indices
            indices = make_indices(builder, list(cells), args[3])
            weights = _corner_weights(builder, list(fractions))
            table_pointer = array_data(context, builder, signature.args[4], args[4])
            level = builder.gep(table_pointer, [builder.mul(args[5], ir.Constant(_I64, 2))])
            zero = ir.Constant(VEC, [0.0] * LANES)
            first, second = zero, zero
            for index, weight in zip(indices, weights, strict=True):
                even, odd = _gather_pairs(builder, level, index)
                first, second = fma(builder, weight, even, first), fma(builder, weight, odd, second)
            out_pointer = array_data(context, builder, signature.args[6], args[6])
            vector_store(builder, first, builder.gep(out_pointer, [args[7]]))
            vector_store(builder, second, builder.gep(out_pointer, [builder.add(args[7], args[8])]))
            return context.get_dummy_value()

        return signature, codegen

    return encode


def make_corners(dense: bool):
    """Make `corners(positions, at, scale, extent, indices, weights)`: the 8 x 16 rows and weights of 16 positions.

    `indices` int32 [128] and `weights` float32 [128] are filled corner by corner.
    """

    @intrinsic
    def corners(typingctx, positions, at, scale, extent, indices, weights):
        signature = types.void(positions, types.int64, types.float32, types.int32, indices, weights)

        def codegen(context, builder, signature, args):
            array = context.make_array(signature.args[0])(context, builder, args[0])
            row = builder.extract_value(array.shape, 1)
            cells, fractions = _load_cells(builder, (array.data, row), args[1], splat(builder, args[2]))
            make_indices = _dense_indices if dense else _hashed_indices
            index_pointer = array_data(context, builder, signature.args[4], args[4])
            weight_pointer = array_data(context, builder, signature.args[5], args[5])
            for c, index in enumerate(make_indices(builder, list(cells), args[3])):
                vector_store(builder, index, builder.gep(index_pointer, [ir.Constant(_I64, c * LANES)]))
            for c, weight in enumerate(_corner_weights(builder, list(fractions))):
                vector_store(builder, weight, builder.gep(weight_pointer, [ir.Constant(_I64, c * LANES)]))
            return context.get_dummy_value()

        return signature, codegen

    return corners


def make_slope(dense: bool):
    """Make `slope(positions, at, scale, extent, table, level_at, gradient, g_at, g_row, out)` for 16 positions, F = 2.

    Adds to `out` [3, capacity], at the columns of the positions, the gradient in the positions of
    sum_k gradient_k features_k on one level. The gradients of the level's two features lie at `gradient[g_at : +16]`
    and `g_row` further on; other arguments as in `make_encode`.
    """

    @intrinsic
    def slope(typingctx, positions, at, scale, extent, table, level_at, gradient, g_at, g_row, out):
        i64 = types.int64
        signature = types.void(positions, i64, types.float32, types.int32, table, i64, gradient, i64, i64, out)

        def codegen(context, builder, signature, args):
            array = context.make_array(signature.args[0])(context, builder, args[0])
            row = builder.extract_value(array.shape, 1)
            cells, fractions = _load_cells(builder, (array.data, row), args[1], splat(builder, args[2]))
            fractions = list(fractions)
            make_indices = _dense_indices if dense else _hashed_indices
            indices = make_indices(builder, list(cells), args[3])
            table_pointer = array_data(context, builder, signature.args[4], args[4])
            level = builder.gep(table_pointer, [builder.mul(args[5], ir.Constant(_I64, 2))])
            gradient_pointer = array_data(context, builder, signature.args[6], args[6])
            first = vector_load(builder, builder.gep(gradient_pointer, [args[7]]))
            second = vector_load(builder, builder.gep(gradient_pointer, [builder.add(args[7], args[8])]))
            values = []
            for index in indices:
                even, odd = _gather_pairs(builder, level, index)
                values.append(fma(builder, first, even, builder.fmul(second, odd)))
            out_pointer = array_data(context, builder, signature.args[9], args[9])
            scales = splat(builder, args[2])
            for axis in range(3):
                place = builder.gep(out_pointer, [builder.add(builder.mul(ir.Constant(_I64, axis), row), args[1])])
                difference = _difference_along(builder, values, fractions, axis)
                vector_store(builder, fma(builder, scales, difference, vector_load(builder, place)), place)
            return context.get_dummy_value()

        return signature, codegen

    return slope


def _difference_along(builder, values, fractions, axis):
    """Derivative along one axis of the trilinear mean of 8 corner values."""
    one = ir.Constant(VEC, [1.0] * LANES)
    a, b = (k for k in range(3) if k != axis)
    total = ir.Constant(VEC, [0.0] * LANES)
    for corner in range(N_CORNERS):
        if corner >> axis & 1:
            continue
        step = builder.fsub(values[corner | 1 << axis], values[corner])
        for other in (a, b):
            share = fractions[other] if corner >> other & 1 else builder.fsub(one, fractions[other])
            step = builder.fmul(step, share)
        total = builder.fadd(total, step)
    return total


PAIR = ir.VectorType(_F32, 2)


@intrinsic
def add_pair(typingctx, table, row, weight, first, second):
    """table[row, :] += weight * (first, second), as one eight-byte read and write."""
    signature = types.void(table, types.int64, types.float32, types.float32, types.float32)

    def codegen(context, builder, signature, args):
        pointer = array_data(context, builder, signature.args[0], args[0])
        pointer = builder.gep(pointer, [builder.mul(args[1], ir.Constant(_I64, 2))])
        values = ir.Constant(PAIR, ir.Undefined)
        values = builder.insert_element(values, args[3], ir.Constant(_I32, 0))
        values = builder.insert_element(values, args[4], ir.Constant(_I32, 1))
        scaled = splat(builder, args[2], PAIR)
        vector_store(builder, fma(builder, scaled, values, vector_load(builder, pointer, PAIR)), pointer)
        return context.get_dummy_value()

    return signature, codegen

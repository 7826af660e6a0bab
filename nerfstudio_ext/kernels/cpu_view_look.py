"""Projection of 16 points into one view at once, and the bilinear reads and writes that follow, as LLVM vectors."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .cpu_simd import _F32, _I32, _I64, IVEC, LANES, VEC, array_data, call_unary, fma, splat, vector_load, vector_store

POINTS = LANES
"""Points in a tile."""
FLOATS = 13
"""Vectors of floats per view of a tile: 4 shares on the map, 4 in the picture, 4 numbers of direction difference, 1."""
PLACE = 8
"""Where the direction differences begin among them."""
INTS = 9
"""Vectors of integers: 4 first elements on the map, 4 in the picture, and -1 where the view sees the point."""
SEEN = 8
"""Where the last begins among them."""
CAMERA = 19
"""Numbers per camera: projection 3x4, centre, (width, height) of picture and map."""
DEPTH_FLOOR, FARTHEST_PIXEL, EPSILON = 1e-8, 1e6, 1e-6


class _Lanes:
    """A vector with arithmetic, so that formulas read like formulas."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _other(self, other):
        return other.value if isinstance(other, _Lanes) else ir.Constant(VEC, [float(other)] * LANES)

    def _make(self, value):
        return _Lanes(self.builder, value)

    def __add__(self, other):
        return self._make(self.builder.fadd(self.value, self._other(other)))

    def __sub__(self, other):
        return self._make(self.builder.fsub(self.value, self._other(other)))

    def __rsub__(self, other):
        return self._make(self.builder.fsub(self._other(other), self.value))

    def __mul__(self, other):
        return self._make(self.builder.fmul(self.value, self._other(other)))

    def __rtruediv__(self, other):
        return self._make(self.builder.fdiv(self._other(other), self.value))

    def compare(self, sign, other):
        return self.builder.fcmp_ordered(sign, self.value, self._other(other))

    def most(self, other):
        return self._make(self.builder.select(self.compare(">", other), self.value, self._other(other)))

    def least(self, other):
        return self._make(self.builder.select(self.compare("<", other), self.value, self._other(other)))

    def unary(self, name):
        return self._make(call_unary(self.builder, name, self.value))

    def integers(self):
        return self.builder.fptosi(self.value, IVEC)


def _all(builder, conditions):
    result = conditions[0]
    for condition in conditions[1:]:
        result = builder.and_(result, condition)
    return result


def _whole(value):
    return ir.Constant(IVEC, [value] * LANES)


def _emit_corners(builder, u, v, width, height, row_length, first, step, store_share, store_offset):
    """Shares and first elements of the four corners around positions; corners outside the array get share 0."""
    left, top = u.unary("llvm.floor"), v.unary("llvm.floor")
    du, dv = u - left, v - top
    for k in range(4):
        column, row = left + float(k & 1), top + float(k >> 1)
        share = (du if k & 1 else 1.0 - du) * (dv if k >> 1 else 1.0 - dv)
        is_in = _all(
            builder,
            [column.compare(">=", 0), row.compare(">=", 0), (column - width).compare("<", 0),
             (row - height).compare("<", 0)],
        )  # fmt: skip
        index = builder.add(builder.mul(row.integers(), row_length), column.integers())
        index = builder.select(is_in, index, _whole(0))
        store_offset(k, builder.add(first, builder.mul(index, step)))
        store_share(k, builder.select(is_in, share.value, ir.Constant(VEC, [0.0] * LANES)))


def _unit(vector):
    length = (vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]).unary("llvm.sqrt")
    over = 1.0 / (length + EPSILON)
    return [part * over for part in vector]


def _emit_place(x, target, centre, store):
    """See `views.ray_differences`."""
    a, b = (
        _unit([t - p for t, p in zip(target, x, strict=True)]),
        _unit([c - p for c, p in zip(centre, x, strict=True)]),
    )
    d = [p - q for p, q in zip(a, b, strict=True)]
    length = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).unary("llvm.sqrt")
    over = 1.0 / length.most(EPSILON)
    for k, part in enumerate(d):
        store(k, (part * over).value)
    store(3, (a[0] * b[0] + a[1] * b[1] + a[2] * b[2]).value)


@intrinsic
def look_lanes(typingctx, points, cameras, camera_at, floats, float_at, ints, int_at, sizes):
    """Project 16 points into a view and write its vectors of `floats` and `ints`; the constant 1 is left alone.

    `points` holds x, y, z of the points and of their targets, 16 each. `sizes` are int32: pixels per row of the picture
    array and first pixel of this view, cells per row of the map array, first cell, channels of a cell, rows of both.
    """
    i64 = types.int64
    signature = types.void(points, cameras, i64, floats, i64, ints, i64, sizes)

    def codegen(context, builder, signature, args):
        kinds = signature.args
        data = [array_data(context, builder, kinds[i], args[i]) for i in (0, 1, 3, 5, 7)]
        point_data, camera_data, float_data, int_data, size_data = data
        float_data = builder.gep(float_data, [args[4]])
        int_data = builder.gep(int_data, [args[6]])

        def lanes(k):
            return _Lanes(builder, vector_load(builder, builder.gep(point_data, [ir.Constant(_I64, k * LANES)])))

        def number(k):
            place = builder.add(args[2], ir.Constant(_I64, k))
            return _Lanes(builder, splat(builder, builder.load(builder.gep(camera_data, [place]), align=4)))

        def whole(k):
            return splat(builder, builder.load(builder.gep(size_data, [ir.Constant(_I64, k)]), align=4), IVEC)

        def length(k):
            return _Lanes(builder, builder.sitofp(whole(k), VEC))

        def store(base, k, value):
            vector_store(builder, value, builder.gep(base, [ir.Constant(_I64, k * LANES)]))

        x, target = [lanes(k) for k in range(3)], [lanes(k) for k in range(3, 6)]
        p = [x[0] * number(r) + x[1] * number(r + 1) + x[2] * number(r + 2) + number(r + 3) for r in (0, 4, 8)]
        over = 1.0 / p[2].most(DEPTH_FLOOR)
        u, v = ((p[i] * over).most(-FARTHEST_PIXEL).least(FARTHEST_PIXEL) for i in (0, 1))
        width, height, map_width, map_height = (number(k) for k in range(15, 19))
        last_u, last_v = width - 1.0, height - 1.0
        is_seen = _all(
            builder,
            [p[2].compare(">", 0), u.compare(">=", 0), v.compare(">=", 0), u.compare("<=", last_u),
             v.compare("<=", last_v)],
        )  # fmt: skip
        store(int_data, SEEN, builder.sext(is_seen, IVEC))
        to_u, to_v = (map_width - 1.0) * (1.0 / last_u), (map_height - 1.0) * (1.0 / last_v)
        _emit_corners(
            builder, u * to_u, v * to_v, length(2), length(6), whole(2),
            builder.mul(whole(3), whole(4)), whole(4),
            lambda k, value: store(float_data, k, value), lambda k, value: store(int_data, k, value),
        )  # fmt: skip
        _emit_corners(
            builder, u, v, length(0), length(5), whole(0), builder.mul(whole(1), _whole(4)), _whole(4),
            lambda k, value: store(float_data, 4 + k, value), lambda k, value: store(int_data, 4 + k, value),
        )  # fmt: skip
        _emit_place(x, target, [number(k) for k in (12, 13, 14)], lambda k, value: store(float_data, PLACE + k, value))
        return context.get_dummy_value()

    return signature, codegen


def _emit_blend(builder, kind, total, source, offsets, offset_at, shares, share_at, inside):
    """total + sum over the corners of share * source[offset + inside]."""
    for k in range(4):
        place = [builder.add(offset_at, ir.Constant(_I64, k * LANES))]
        offset = builder.sext(builder.load(builder.gep(offsets, place), align=4), _I64)
        share = builder.load(builder.gep(shares, [builder.add(share_at, ir.Constant(_I64, k * LANES))]), align=4)
        corner = vector_load(builder, builder.gep(source, [builder.add(offset, inside)]), kind)
        total = fma(builder, splat(builder, share, kind), corner, total)
    return total


@intrinsic
def blend_lanes(typingctx, hidden, at, maps, offsets, offset_at, shares, share_at, inside):
    """hidden = relu(hidden + the four corners of `maps` times their shares), 16 lanes from channel `inside`."""
    i64 = types.int64
    signature = types.void(hidden, i64, maps, offsets, i64, shares, i64, i64)

    def codegen(context, builder, signature, args):
        hidden_data, map_data, offset_data, share_data = (
            array_data(context, builder, signature.args[i], args[i]) for i in (0, 2, 3, 5)
        )
        target = builder.gep(hidden_data, [args[1]])
        total = _emit_blend(
            builder, VEC, vector_load(builder, target), map_data, offset_data, args[4], share_data, args[6], args[7]
        )
        zero = ir.Constant(VEC, [0.0] * LANES)
        vector_store(builder, builder.select(builder.fcmp_ordered(">", total, zero), total, zero), target)
        return context.get_dummy_value()

    return signature, codegen


_QUAD = ir.VectorType(_F32, 4)


@intrinsic
def blend_color(typingctx, colors, at, pixels, offsets, offset_at, shares, share_at):
    """Bilinear colour from pixels of four floats into `colors[at : at + 3]`, then a 1."""
    i64 = types.int64
    signature = types.void(colors, i64, pixels, offsets, i64, shares, i64)

    def codegen(context, builder, signature, args):
        color_data, pixel_data, offset_data, share_data = (
            array_data(context, builder, signature.args[i], args[i]) for i in (0, 2, 3, 5)
        )
        zero = ir.Constant(_QUAD, [0.0] * 4)
        total = _emit_blend(
            builder, _QUAD, zero, pixel_data, offset_data, args[4], share_data, args[6], ir.Constant(_I64, 0)
        )
        total = builder.insert_element(total, ir.Constant(_F32, 1.0), ir.Constant(_I32, 3))
        vector_store(builder, total, builder.gep(color_data, [args[1]]))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def scatter_lanes(typingctx, gradient, at, maps, offsets, offset_at, shares, share_at, inside):
    """Add 16 lanes of a gradient to the four corners of `maps` that `blend_lanes` reads."""
    i64 = types.int64
    signature = types.void(gradient, i64, maps, offsets, i64, shares, i64, i64)

    def codegen(context, builder, signature, args):
        slope_data, map_data, offset_data, share_data = (
            array_data(context, builder, signature.args[i], args[i]) for i in (0, 2, 3, 5)
        )
        slope = vector_load(builder, builder.gep(slope_data, [args[1]]))
        for k in range(4):
            distance = ir.Constant(_I64, k * LANES)
            offset = builder.load(builder.gep(offset_data, [builder.add(args[4], distance)]), align=4)
            share = builder.load(builder.gep(share_data, [builder.add(args[6], distance)]), align=4)
            pointer = builder.gep(map_data, [builder.add(builder.sext(offset, _I64), args[7])])
            vector_store(builder, fma(builder, splat(builder, share), slope, vector_load(builder, pointer)), pointer)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def ask_lanes(typingctx, bottleneck, at, query, query_at):
    """16 lanes of bottleneck = relu(bottleneck - query)."""
    signature = types.void(bottleneck, types.int64, query, types.int64)

    def codegen(context, builder, signature, args):
        pointer = builder.gep(array_data(context, builder, signature.args[0], args[0]), [args[1]])
        query_data = builder.gep(array_data(context, builder, signature.args[2], args[2]), [args[3]])
        value = builder.fsub(vector_load(builder, pointer), vector_load(builder, query_data))
        zero = ir.Constant(VEC, [0.0] * LANES)
        vector_store(builder, builder.select(builder.fcmp_ordered(">", value, zero), value, zero), pointer)
        return context.get_dummy_value()

    return signature, codegen

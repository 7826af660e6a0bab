"""Softmax down a column of 16-float vectors, and what follows from it, as LLVM loops with their sums in registers."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .cpu_simd import _I64, IVEC, LANES, VEC, array_data, call_unary, fma, vector_load, vector_store

_LOWEST = -87.0
"""Below this the exponential counts as zero: it would leave the range of normal floats."""
_COEFFICIENTS = (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)
"""Of the exponential series; after range reduction |x| < 0.35, where the rest is below 1e-7 of the result."""


def _constant(value):
    return ir.Constant(VEC, [float(value)] * LANES)


def exponential(builder, x):
    """exp(x) of a vector of numbers from -inf to about 80, to two units in the last place."""
    clipped = builder.select(builder.fcmp_ordered(">", x, _constant(_LOWEST)), x, _constant(_LOWEST))
    n = call_unary(builder, "llvm.rint", builder.fmul(clipped, _constant(1.4426950408889634)))
    rest = fma(builder, n, _constant(-0.693359375), clipped)  # ln 2 in two parts, the first exact in few bits
    rest = fma(builder, n, _constant(2.12194440e-4), rest)
    series = _constant(_COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        series = fma(builder, series, rest, _constant(coefficient))
    exponent = builder.add(builder.fptosi(n, IVEC), ir.Constant(IVEC, [127] * LANES))
    power = builder.bitcast(builder.shl(exponent, ir.Constant(IVEC, [23] * LANES)), VEC)
    return builder.select(builder.fcmp_ordered(">", x, _constant(_LOWEST)), builder.fmul(series, power), _constant(0.0))


def loop(builder, count, initial, body):
    """Emit `for i in range(count)` that carries vectors: `body(i, values) -> values`; returns the last ones."""
    before = builder.block
    inside, done = builder.append_basic_block("rows"), builder.append_basic_block("rows.done")
    builder.cbranch(builder.icmp_signed(">", count, ir.Constant(_I64, 0)), inside, done)
    builder.position_at_end(inside)
    i = builder.phi(_I64)
    i.add_incoming(ir.Constant(_I64, 0), before)
    carried = [builder.phi(value.type) for value in initial]
    for phi, value in zip(carried, initial, strict=True):
        phi.add_incoming(value, before)
    after = body(i, carried)
    following = builder.add(i, ir.Constant(_I64, 1))
    last = builder.block
    i.add_incoming(following, last)
    for phi, value in zip(carried, after, strict=True):
        phi.add_incoming(value, last)
    builder.cbranch(builder.icmp_signed("<", following, count), inside, done)
    builder.position_at_end(done)
    results = []
    for start, end in zip(initial, after, strict=True):
        result = builder.phi(start.type)
        result.add_incoming(start, before)
        result.add_incoming(end, last)
        results.append(result)
    return results


def _row(builder, data, at, stride, i):
    return builder.gep(data, [builder.add(at, builder.mul(i, stride))])


@intrinsic
def softmax_lanes(typingctx, logits, at, stride, count):
    """Replace `count` vectors of logits, `stride` floats apart, by their softmax, lane by lane."""
    signature = types.void(logits, types.int64, types.int64, types.int64)

    def codegen(context, builder, signature, args):
        data = array_data(context, builder, signature.args[0], args[0])
        _, at, stride, count = args

        def largest(i, carried):
            value = vector_load(builder, _row(builder, data, at, stride, i))
            return [builder.select(builder.fcmp_ordered(">", value, carried[0]), value, carried[0])]

        (top,) = loop(builder, count, [_constant(-3e38)], largest)

        def grow(i, carried):
            pointer = _row(builder, data, at, stride, i)
            value = exponential(builder, builder.fsub(vector_load(builder, pointer), top))
            vector_store(builder, value, pointer)
            return [builder.fadd(carried[0], value)]

        (total,) = loop(builder, count, [_constant(0)], grow)
        scale = builder.fdiv(_constant(1), total)

        def shrink(i, carried):
            pointer = _row(builder, data, at, stride, i)
            vector_store(builder, builder.fmul(vector_load(builder, pointer), scale), pointer)
            return []

        loop(builder, count, [], shrink)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def attend_lanes(typingctx, logits, at, stride, values, v_at, v_stride, count, out, out_at):
    """16 lanes of `sum softmax(logits) * values`; logits and values are left as they are."""
    i64 = types.int64
    signature = types.void(logits, i64, i64, values, i64, i64, i64, out, i64)

    def codegen(context, builder, signature, args):
        data = array_data(context, builder, signature.args[0], args[0])
        value_data = array_data(context, builder, signature.args[3], args[3])
        target = builder.gep(array_data(context, builder, signature.args[7], args[7]), [args[8]])
        at, stride, v_at, v_stride, count = args[1], args[2], args[4], args[5], args[6]

        def largest(i, carried):
            value = vector_load(builder, _row(builder, data, at, stride, i))
            return [builder.select(builder.fcmp_ordered(">", value, carried[0]), value, carried[0])]

        (top,) = loop(builder, count, [_constant(-3e38)], largest)

        def gather(i, carried):
            logit = vector_load(builder, _row(builder, data, at, stride, i))
            power = exponential(builder, builder.fsub(logit, top))
            value = vector_load(builder, _row(builder, value_data, v_at, v_stride, i))
            return [builder.fadd(carried[0], power), fma(builder, power, value, carried[1])]

        total, weighted = loop(builder, count, [_constant(0), _constant(0)], gather)
        vector_store(builder, builder.fdiv(weighted, total), target)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def attend_backward_lanes(typingctx, probability, at, stride, values, v_at, v_stride, count, slope, s_at):
    """Turn probabilities into gradients of the logits and values into gradients of the values, 16 lanes of each.

    `slope` holds the gradient of the sum that `attend_lanes` computes.
    """
    i64 = types.int64
    signature = types.void(probability, i64, i64, values, i64, i64, i64, slope, i64)

    def codegen(context, builder, signature, args):
        data = array_data(context, builder, signature.args[0], args[0])
        value_data = array_data(context, builder, signature.args[3], args[3])
        gradient = vector_load(
            builder, builder.gep(array_data(context, builder, signature.args[7], args[7]), [args[8]])
        )
        at, stride, v_at, v_stride, count = args[1], args[2], args[4], args[5], args[6]

        def mean(i, carried):
            p = vector_load(builder, _row(builder, data, at, stride, i))
            value = vector_load(builder, _row(builder, value_data, v_at, v_stride, i))
            return [fma(builder, p, value, carried[0])]

        (middle,) = loop(builder, count, [_constant(0)], mean)

        def split(i, carried):
            p_pointer = _row(builder, data, at, stride, i)
            v_pointer = _row(builder, value_data, v_at, v_stride, i)
            share = builder.fmul(vector_load(builder, p_pointer), gradient)
            above = builder.fsub(vector_load(builder, v_pointer), middle)
            vector_store(builder, builder.fmul(share, above), p_pointer)
            vector_store(builder, share, v_pointer)
            return []

        loop(builder, count, [], split)
        return context.get_dummy_value()

    return signature, codegen

"""Vector building blocks for the CPU kernels, written as LLVM instructions.

LLVM splits or joins the 16-wide vectors to whatever the processor has, so nothing here names an
instruction set. Loop vectorisation of the same code left the multiply units three quarters idle.
"""

from __future__ import annotations

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import cpu_cache  # noqa: F401  # names the cache folder before the first kernel is defined

LANES = 16
_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
VEC = ir.VectorType(_F32, LANES)
IVEC = ir.VectorType(_I32, LANES)

HAS_WIDE_REGISTERS = bool(binding.get_host_cpu_features().get("avx512f", False))
"""32 registers of 16 floats: larger register tiles pay off."""


def array_data(context, builder, array_type, array):
    """Pointer to an array's first element."""
    return context.make_array(array_type)(context, builder, array).data


def vector_load(builder, pointer, vector_type=VEC):
    """Load a vector from an address aligned to its element only."""
    return builder.load(builder.bitcast(pointer, vector_type.as_pointer()), align=4)


def vector_store(builder, value, pointer):
    """Store a vector to an address aligned to its element only."""
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def splat(builder, value, vector_type=VEC):
    """All lanes equal to a scalar."""
    undef = ir.Constant(vector_type, ir.Undefined)
    one = builder.insert_element(undef, value, ir.Constant(_I32, 0))
    mask = ir.Constant(ir.VectorType(_I32, vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(one, undef, mask)


def fma(builder, a, b, c):
    """a * b + c, rounded once."""
    name = f"llvm.fma.v{a.type.count}f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, [a, b, c])


def call_unary(builder, name, a):
    """An LLVM intrinsic of one vector argument, such as `llvm.floor`."""
    suffix = f".v{a.type.count}f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type]), name + suffix)
    return builder.call(function, [a])


def _emit_tile(builder, rows, vectors, a, a_row, a_col, b, b_row, c, c_row, depth, add, relu):
    """C[i, :] (+)= sum_k A[i, k] * B[k, :] for a tile of `rows` by `16 * vectors`, sums kept in registers."""

    def c_pointer(i, j):
        offset = builder.add(builder.mul(ir.Constant(_I64, i), c_row), ir.Constant(_I64, j * LANES))
        return builder.gep(c, [offset])

    zero = ir.Constant(VEC, [0.0] * LANES)
    initial = [vector_load(builder, c_pointer(i, j)) if add else zero for i in range(rows) for j in range(vectors)]
    before = builder.block
    loop = builder.append_basic_block("tile.loop")
    done = builder.append_basic_block("tile.done")
    builder.cbranch(builder.icmp_signed(">", depth, ir.Constant(_I64, 0)), loop, done)
    builder.position_at_end(loop)
    k = builder.phi(_I64)
    k.add_incoming(ir.Constant(_I64, 0), before)
    sums = [builder.phi(VEC) for _ in initial]
    for phi, value in zip(sums, initial, strict=True):
        phi.add_incoming(value, before)
    b_base = builder.mul(k, b_row)
    columns = [
        vector_load(builder, builder.gep(b, [builder.add(b_base, ir.Constant(_I64, j * LANES))]))
        for j in range(vectors)
    ]
    a_base = builder.mul(k, a_col)
    updated = []
    for i in range(rows):
        offset = builder.add(a_base, builder.mul(ir.Constant(_I64, i), a_row))
        factor = splat(builder, builder.load(builder.gep(a, [offset]), align=4))
        updated += [fma(builder, factor, columns[j], sums[i * vectors + j]) for j in range(vectors)]
    following = builder.add(k, ir.Constant(_I64, 1))
    k.add_incoming(following, loop)
    for phi, value in zip(sums, updated, strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    builder.position_at_end(done)
    for index, (start, end) in enumerate(zip(initial, updated, strict=True)):
        total = builder.phi(VEC)
        total.add_incoming(start, before)
        total.add_incoming(end, loop)
        initial[index] = total
    for index, total in enumerate(initial):
        if relu:
            total = builder.select(builder.fcmp_ordered(">", total, zero), total, zero)
        vector_store(builder, total, c_pointer(index // vectors, index % vectors))


def make_tile(rows, vectors, *, add, relu=False):
    """Make a numba function `tile(a, a_at, a_row, a_col, b, b_at, b_row, c, c_at, c_row, depth)`.

    `a`, `b`, `c` are float32 arrays of any shape; `*_at` is the flat element where the operand starts and
    `*_row`, `a_col` are strides in elements. Computes a tile of `rows` x `16 * vectors` of C = A B, added to
    what C holds when `add`, clamped at zero when `relu`.
    """

    @intrinsic
    def tile(typingctx, a, a_at, a_row, a_col, b, b_at, b_row, c, c_at, c_row, depth):
        i64 = types.int64
        signature = types.void(a, i64, i64, i64, b, i64, i64, c, i64, i64, i64)

        def codegen(context, builder, signature, args):
            a_type, b_type, c_type = signature.args[0], signature.args[4], signature.args[7]
            a_pointer = builder.gep(array_data(context, builder, a_type, args[0]), [args[1]])
            b_pointer = builder.gep(array_data(context, builder, b_type, args[4]), [args[5]])
            c_pointer = builder.gep(array_data(context, builder, c_type, args[7]), [args[8]])
            _emit_tile(
                builder,
                rows,
                vectors,
                a_pointer,
                args[2],
                args[3],
                b_pointer,
                args[6],
                c_pointer,
                args[9],
                args[10],
                add,
                relu,
            )
            return context.get_dummy_value()

        return signature, codegen

    return tile


@intrinsic
def mask_lanes(typingctx, gradient, g_at, activation, a_at):
    """Set 16 neighbouring floats of `gradient` to zero where those of `activation` are not positive."""
    signature = types.void(gradient, types.int64, activation, types.int64)

    def codegen(context, builder, signature, args):
        g = builder.gep(array_data(context, builder, signature.args[0], args[0]), [args[1]])
        a = builder.gep(array_data(context, builder, signature.args[2], args[2]), [args[3]])
        zero = ir.Constant(VEC, [0.0] * LANES)
        is_open = builder.fcmp_ordered(">", vector_load(builder, a), zero)
        vector_store(builder, builder.select(is_open, vector_load(builder, g), zero), g)
        return context.get_dummy_value()

    return signature, codegen

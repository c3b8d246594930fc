"""What products have in common: blocks of rows whose sums stay in registers along the depth."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from tokenreel.kernels.cpu.compiler import INLINED
from tokenreel.kernels.cpu.vector import LANES, element_pointer

PANEL = 32
"""Output columns that are computed together."""
_I64 = ir.IntType(64)

EmitSums = Callable[[Any, Any, list[Any], Any, Any], list[list[Any]]]
"""builder, Numba's type of a weight, pointers to the rows, pointer to the weights, depth -> 16 sums
of 32 bits as LLVM's vectors [row][vector]."""


def make_block(num_rows: int, emit_sums: EmitSums) -> Any:
    """For compiled functions, sums of some rows with up to 32 columns, of a single row with more:
    (rows, row offset, row stride, weights, weight offset, depth, out, out offset).

    `out` is [rows, 32] float32, whatever the sums are.
    """

    @intrinsic
    def block(typing, rows, row_offset, row_stride, weights, weight_offset, depth, out, out_offset):
        def generate(context, builder, signature, arguments):
            first_row = element_pointer(context, builder, rows, *arguments[:2])
            panel = element_pointer(context, builder, weights, *arguments[3:5])
            first_sum = element_pointer(context, builder, out, *arguments[6:8])
            pointers = [
                builder.gep(first_row, [builder.mul(arguments[2], _I64(row))])
                for row in range(num_rows)
            ]
            sums = emit_sums(builder, weights.dtype, pointers, panel, arguments[5])
            for row, vectors in enumerate(sums):
                for i, vector in enumerate(vectors):
                    place = builder.gep(first_sum, [_I64(row * PANEL + i * LANES)])
                    builder.store(
                        vector, builder.bitcast(place, vector.type.as_pointer())
                    ).align = 4
            return context.get_dummy_value()

        offset = types.intp
        signature = types.void(rows, offset, offset, weights, offset, offset, out, offset)
        return signature, generate

    return block


def make_blocks(emit_sums: EmitSums, many: int, few: int) -> Any:
    """`make_block` for any number of rows: by `many`, then by `few`, then one by one.

    (rows, first row's offset, number of rows, row stride, weights, weight offset, depth, out, out
    offset)
    """
    many_rows, few_rows, one_row = (make_block(count, emit_sums) for count in (many, few, 1))

    @register_jitable(**INLINED)
    def multiply(rows, start, num_rows, stride, weights, begin, depth, out, place):
        done = 0
        while done < num_rows:
            left = num_rows - done
            row, target = start + done * stride, place + done * PANEL
            if left >= many:
                many_rows(rows, row, stride, weights, begin, depth, out, target)
                done += many
            elif left >= few:
                few_rows(rows, row, stride, weights, begin, depth, out, target)
                done += few
            else:
                one_row(rows, row, stride, weights, begin, depth, out, target)
                done += 1

    return multiply


def emit_loop(
    builder: Any, count: Any, zeros: list[Any], add: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """`add(position, totals)` for each position below `count`, which is at least 1, beginning with
    `zeros`; LLVM keeps the totals in registers. Returns the last ones."""
    before = builder.block
    loop = builder.append_basic_block("depth")
    after = builder.append_basic_block("sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    position = builder.phi(_I64)
    totals = [builder.phi(zero.type) for zero in zeros]
    updated = add(position, totals)
    following = builder.add(position, _I64(1))
    for phi, first, new in zip(
        [position, *totals], [_I64(0), *zeros], [following, *updated], strict=True
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return updated

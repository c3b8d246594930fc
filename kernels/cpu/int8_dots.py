"""Integer sums of rows of 8 bits with weights of 8 bits, four products at a time along the depth.

Rows are unsigned, weights signed, sums 32 bits and exact: every instruction gives the same. Weights
lie in tiles [16 quads, 16 columns, 4], a quad being four neighbours along the depth, two tiles side
by side in a step of 64. That is how AMX reads them, and VNNI multiplies a quad of a row with one of
16 columns at once.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

from llvmlite import ir

from tokenreel.kernels.cpu.row_blocks import EmitSums, emit_loop
from tokenreel.kernels.cpu.vector import LANES, call_llvm, splat

TILE_BYTES = 1024
STEP_BYTES = 2 * TILE_BYTES
"""Two tiles: 64 deep, 32 columns."""
_QUADS_PER_TURN = 4
_TURNS_PER_STEP = 4
_QUAD_BYTES = 64
_BYTES_AHEAD = 2048
"""So far nibbles are prefetched: a processor does so by itself, but stops at the end of a page."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_INTEGERS = ir.VectorType(_I32, LANES)
_EIGHT = ir.VectorType(_I32, 8)
_SHORTS = ir.VectorType(_I16, 16)


class Instruction(NamedTuple):
    """How a quad of a row is multiplied with the quads of 16 columns, and added to totals."""

    total: Any
    """LLVM's type of a part of the totals."""
    num_parts: int
    spread: Callable[[Any, Any], Any]
    """builder, pointer to a row's quad -> the operand for every column."""
    widen: Callable[[Any, Any], Any]
    """builder, the quads of a part's columns as LLVM's vector of bytes -> the operand."""
    add_products: Callable[[Any, Any, Any, Any], Any]
    """builder, a part of the totals, row operand, weight operand -> that part."""
    join: Callable[[Any, list[Any]], Any]
    """builder, parts -> 16 totals."""


def _read(builder: Any, pointer: Any, vector: Any) -> Any:
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = 1
    return value


def _vnni(total: Any, name: str, join: Callable[[Any, list[Any]], Any]) -> Instruction:
    size = total.count * 4
    return Instruction(
        total,
        _QUAD_BYTES // size,
        lambda builder, pointer: splat(builder, _read(builder, pointer, _I32), total),
        lambda builder, quads: builder.bitcast(quads, total),
        lambda builder, *operands: call_llvm(builder, name, total, list(operands)),
        join,
    )


def _side_by_side(builder: Any, parts: list[Any]) -> Any:
    while len(parts) > 1:
        width = 2 * parts[0].type.count
        lanes = ir.Constant(ir.VectorType(_I32, width), list(range(width)))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(low, high, lanes) for low, high in pairs]
    return parts[0]


def _spread_shorts(builder: Any, pointer: Any) -> Any:
    quad = builder.zext(_read(builder, pointer, ir.VectorType(_I8, 4)), ir.VectorType(_I16, 4))
    four = splat(builder, builder.bitcast(quad, _I64), ir.VectorType(_I64, 4))
    return builder.bitcast(four, _SHORTS)


def _add_pairs(builder: Any, total: Any, row: Any, weights: Any) -> Any:
    products = call_llvm(builder, "llvm.x86.avx2.pmadd.wd", _EIGHT, [row, weights])
    return builder.add(total, products)


def _join_pairs(builder: Any, parts: list[Any]) -> Any:
    halves = _side_by_side(builder, parts)

    def every_other(first: int) -> Any:
        lanes = ir.Constant(_INTEGERS, list(range(first, 32, 2)))
        return builder.shuffle_vector(halves, halves, lanes)

    return builder.add(every_other(0), every_other(1))


def _spread_bytes(builder: Any, pointer: Any) -> Any:
    quad = splat(builder, _read(builder, pointer, _I32), _INTEGERS)
    return builder.zext(builder.bitcast(quad, ir.VectorType(_I8, 64)), ir.VectorType(_I32, 64))


def _add_four(builder: Any, total: Any, row: Any, weights: Any) -> Any:
    products = builder.mul(row, weights)
    for member in range(4):
        lanes = ir.Constant(_INTEGERS, list(range(member, 64, 4)))
        total = builder.add(total, builder.shuffle_vector(products, products, lanes))
    return total


INSTRUCTIONS = {
    "avx512vnni": _vnni(_INTEGERS, "llvm.x86.avx512.vpdpbusd.512", _side_by_side),
    "avxvnni": _vnni(_EIGHT, "llvm.x86.avx512.vpdpbusd.256", _side_by_side),
    # Without VNNI by way of 16 bits: products of 8 bits added in 16 would overflow.
    "avx2": Instruction(
        _EIGHT,
        4,
        _spread_shorts,
        lambda builder, quads: builder.sext(quads, _SHORTS),
        _add_pairs,
        _join_pairs,
    ),
    "any": Instruction(
        _INTEGERS,
        1,
        _spread_bytes,
        lambda builder, quads: builder.sext(quads, ir.VectorType(_I32, 64)),
        _add_four,
        _side_by_side,
    ),
}


def dots_emitter(instruction: Instruction, num_tiles: int) -> EmitSums:
    """Sums of rows with one or two tiles of 16 columns; the depth counts steps."""

    def read_quads(builder, columns):
        tiles = [builder.gep(columns, [_I64(TILE_BYTES * tile)]) for tile in range(num_tiles)]
        return [part for tile in tiles for part in _read_parts(builder, tile, instruction)]

    return _emitter(instruction, num_tiles, STEP_BYTES, read_quads)


def nibble_dots_emitter(instruction: Instruction) -> EmitSums:
    """Alike with weights of 4 bits, times 16: the lower halves of the bytes are the first tile's,
    the upper ones the second's."""

    def read_quads(builder, columns):
        _prefetch(builder, builder.gep(columns, [_I64(_BYTES_AHEAD)]))
        parts = _read_parts(builder, columns, instruction)

        def each(number):
            return splat(builder, _I8(number), parts[0].type)

        low = [builder.shl(part, each(4)) for part in parts]
        high = [builder.and_(part, each(0xF0)) for part in parts]
        return [*low, *high]

    # So little is read that a single chain of sums would be waited for.
    return _emitter(instruction, 2, TILE_BYTES, read_quads, num_chains=2)


def _prefetch(builder: Any, pointer: Any) -> None:
    """For reading, into the first-level cache. What is not mapped is left alone."""
    is_write, locality, is_data = _I32(0), _I32(3), _I32(1)
    operands = [builder.bitcast(pointer, _I8.as_pointer()), is_write, locality, is_data]
    call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), operands)


def _read_parts(builder: Any, quads: Any, instruction: Instruction) -> list[Any]:
    """A quad of each of 16 columns, as vectors of bytes for the parts of the totals."""
    size = _QUAD_BYTES // instruction.num_parts
    places = [builder.gep(quads, [_I64(place)]) for place in range(0, _QUAD_BYTES, size)]
    return [_read(builder, place, ir.VectorType(_I8, size)) for place in places]


def _emitter(
    instruction: Instruction,
    num_tiles: int,
    step_bytes: int,
    read_quads: Callable[[Any, Any], list[Any]],
    num_chains: int = 1,
) -> EmitSums:
    """read_quads: builder, pointer to a quad of the first 16 columns -> the bytes of each part of
    each tile."""

    def emit_sums(builder, dtype, row_pointers, panel, steps):
        def add(turn, totals):
            step = builder.udiv(turn, _I64(_TURNS_PER_STEP))
            within = builder.urem(turn, _I64(_TURNS_PER_STEP))
            first_quad = builder.add(
                builder.mul(step, _I64(step_bytes)),
                builder.mul(within, _I64(_QUADS_PER_TURN * _QUAD_BYTES)),
            )
            for quad in range(_QUADS_PER_TURN):
                depth = builder.add(builder.mul(turn, _I64(4 * _QUADS_PER_TURN)), _I64(4 * quad))
                operands = [
                    instruction.spread(builder, builder.gep(pointer, [depth]))
                    for pointer in row_pointers
                ]
                place = builder.add(first_quad, _I64(quad * _QUAD_BYTES))
                quads = read_quads(builder, builder.gep(panel, [place]))
                weights = [instruction.widen(builder, part) for part in quads]
                chain, *others = [totals[i : i + count] for i in range(0, len(totals), count)]
                chain = [
                    instruction.add_products(builder, total, *factors)
                    for total, factors in zip(chain, product(operands, weights), strict=True)
                ]
                totals = [total for each in (*others, chain) for total in each]
            return totals

        num_parts = instruction.num_parts
        zero = ir.Constant(instruction.total, [0] * instruction.total.count)
        turns = builder.mul(steps, _I64(_TURNS_PER_STEP))
        count = len(row_pointers) * num_tiles * num_parts
        totals = emit_loop(builder, turns, [zero] * count * num_chains, add)
        for i in range(count, len(totals)):
            totals[i % count] = builder.add(totals[i % count], totals[i])
        tiles = [
            instruction.join(builder, totals[i : i + num_parts]) for i in range(0, count, num_parts)
        ]
        return [tiles[i : i + num_tiles] for i in range(0, len(tiles), num_tiles)]

    return emit_sums
